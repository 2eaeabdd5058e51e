"""The record of one request, as a replica logs and counts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass
class TokenCounts:
    """What a language model has read and written for a request.

    Attributes:
        num_prompt: Tokens of the prompt.
        num_answer: Tokens of the answer so far.
        first_s: Seconds from the head of the request to the first token.
        last_s: Seconds from the head of the request to the last token.
    """

    num_prompt: int
    num_answer: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def note(self, num_answer: int, seconds: float) -> None:
        """Notes that an answer has grown.

        Args:
            num_answer: Tokens that it has now.
            seconds: Time since the head of the request.
        """
        if self.num_answer == 0:
            self.first_s = seconds
        self.num_answer, self.last_s = num_answer, seconds

    @property
    def rate(self) -> float | None:
        """Tokens for each second behind the first one; None for fewer than two."""
        seconds = self.last_s - self.first_s
        return (self.num_answer - 1) / seconds if self.num_answer > 1 and seconds > 0 else None


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
        tokens: What a language model has read and written for it; None of another model.
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
    tokens: TokenCounts | None = None
