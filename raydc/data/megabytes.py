"""Limits in megabytes that users set by environment variables. Pure."""

from __future__ import annotations

import contextlib
import math
import os

from raydc.errors import UsageError


def read_bytes(variable: str, default_bytes: float, hint: str) -> float:
    """Bytes of a limit.

    Args:
        variable: Environment variable that holds megabytes, of a million bytes each.
        default_bytes: Bytes if it is not set.
        hint: What to set it to, for the error.

    Raises:
        UsageError: It is not a number from 0 on.
    """
    given = os.environ.get(variable)
    if given is None:
        return default_bytes
    with contextlib.suppress(ValueError):
        # Not a number, and no end, fail too.
        if 0 <= (megabytes := float(given)) < math.inf:
            return 1e6 * megabytes
    raise UsageError(
        f"the environment variable {variable} is {given!r}, which is not a number from 0 on", hint
    )
