"""A small prepared data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import write_pictures

from raydc.data import prepared
from raydc.storage import Storage


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
