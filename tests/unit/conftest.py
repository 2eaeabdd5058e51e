"""Fixtures of several folders of unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc.storage import Storage
from raydc.tokens import TokenStore


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    return TokenStore(Storage(str(tmp_path / "store")), "small")
