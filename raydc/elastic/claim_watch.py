"""Ends a trial whose driver has lost the run. Runs in Tune's actors, in the leader of the trial."""

from __future__ import annotations

import contextlib
import time

from raydc.loop.planned_stop import StopRequest
from raydc.tracking.lease import BEAT_EVERY_S, Claim


def watch_claim(stop_request: StopRequest, claim: Claim) -> StopRequest:
    """Asks for a stop as before, and ends the trial soon after its driver has lost the run.

    Steps alone write nothing, for minutes if the spec says so, and would go on as long.

    Args:
        stop_request: Says why the trial should stop; None to go on.
        claim: Claim of the driver.

    Returns:
        A function like `stop_request` that raises TakenOverError once the run has another owner.
    """
    looked_s = time.monotonic()

    def request() -> str | None:
        nonlocal looked_s
        if time.monotonic() - looked_s >= BEAT_EVERY_S:
            # A storage that does not answer holds up no step.
            with contextlib.suppress(OSError):
                claim.check()
            looked_s = time.monotonic()
        return stop_request()

    return request
