"""What a test needs that a user's machine may lack: root, a browser, a Debian package."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(reason: str) -> NoReturn:
    """Skips the test with the reason; in `.ci/run`, where nothing may be missing, it fails."""
    if os.environ.get("RAYDC_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
