"""Fixtures of several folders of unit tests."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from raydc.storage import Storage
from raydc.tokens import TokenStore


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    return TokenStore(Storage(str(tmp_path / "store")), "small")


@pytest.fixture(autouse=True)
def _logger_as_in_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that has been connected to Ray in this process has silenced it."""
    monkeypatch.setattr(logging.getLogger("ray.serve"), "disabled", False)
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
