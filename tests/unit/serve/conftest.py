"""Fixtures of the tests of an endpoint."""

from __future__ import annotations

import pytest
from request_records import Recorded


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)
