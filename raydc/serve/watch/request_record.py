"""What is known of each answered request."""

from __future__ import annotations

from typing import NamedTuple


class RequestRecord(NamedTuple):
    """One request. `client` is who was connected, HAProxy as a rule; `status` 499 where nobody got the answer; `role`
    stable, canary or shadow; `token` the name of the token; sizes are of bodies.
    """

    time_s: float
    request_id: str
    client: str
    forwarded_for: str
    method: str
    path: str
    status: int
    model: str
    version: str
    role: str
    rows: int
    seconds: float
    bytes_in: int
    bytes_out: int
    token: str
