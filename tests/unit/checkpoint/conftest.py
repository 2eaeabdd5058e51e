"""Fixtures of the tests of resume and fork: a small data set and a folder of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import write_pictures

from raydc.data import prepared
from raydc.storage import Storage


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    """A prepared data set of small pictures."""
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))


@pytest.fixture
def runs(tmp_path: Path) -> Storage:
    """The folder of the runs of a storage."""
    return Storage(str(tmp_path / "runs"))
