"""The error of a worker that has lost another one. Pure: the controller reads it without torch."""

from __future__ import annotations


class PeerLostError(RuntimeError):
    """A collective operation failed because another worker is gone or hangs.

    The worker that raises it did nothing wrong: the cause is known to the other one.
    """
