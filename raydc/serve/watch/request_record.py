"""The record of one request, as a replica logs and counts it."""

from __future__ import annotations

from typing import NamedTuple


class RequestRecord(NamedTuple):
    """One request and its answer.

    Attributes:
        time_s: Unix time of its start.
        request_id: Its id, as in the answer.
        client: Address of the peer, which is HAProxy as a rule.
        forwarded_for: The header X-Forwarded-For; empty without one.
        method: HTTP method.
        path: Path of the request, with the prefix of the endpoint.
        status: Status of the answer; 499 if the client had gone.
        model: Name of the model; empty before one is loaded.
        version: Version that answered; empty if none did.
        role: `stable`, `canary` or `shadow`; empty without a version.
        rows: Number of rows that were predicted.
        seconds: Time from the head of the request to the end of its answer.
        bytes_in: Declared size of its body.
        bytes_out: Size of the answer's body.
        token: Name of its access token; empty without one.
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
