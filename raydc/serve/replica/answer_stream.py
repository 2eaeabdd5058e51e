"""One answer of a language model on its way from a thread to a client. Runs in the replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from raydc.bundle.growing_answer import FinishReason


class Piece(NamedTuple):
    """A part of an answer.

    Attributes:
        text: What comes next; may be empty.
        num_tokens: Tokens of the answer so far.
        finish_reason: Why the answer has ended; None while it grows.
        error: Why the answer cannot go on; None unless it failed.
    """

    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None or self.error is not None


class AnswerStream:
    """One answer as a client gets it. Belongs to the event loop that asked for it.

    Attributes:
        num_prompt_tokens: Tokens of its prompt.
    """

    def __init__(self, num_prompt_tokens: int) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.loop = asyncio.get_running_loop()
        # As many pieces as tokens at most, so a client that reads slowly costs little memory.
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._is_cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Ends the work for it before the next token. May be called at any time."""
        self._is_cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()

    def when_cancelled(self, call: Callable[[], None]) -> None:
        """Calls a function, in any thread and perhaps twice, when it is cancelled or if it is."""
        self._on_cancel = call
        if self._is_cancelled:
            call()

    def put(self, piece: Piece) -> None:
        """Adds a part; called in the event loop."""
        self._pieces.put_nowait(piece)

    async def next_piece(self) -> Piece:
        """Waits for the next part, and takes all that is there by then.

        Raises:
            Exception: Why the answer cannot go on.
        """
        piece = await self._pieces.get()
        while not self._pieces.empty() and not piece.is_last:
            following = self._pieces.get_nowait()
            text = piece.text + following.text
            piece = Piece(text, following.num_tokens, following.finish_reason, following.error)
        if piece.error is not None:
            raise piece.error
        return piece


Delivery = tuple[AnswerStream, Piece]


def deliver(deliveries: list[Delivery]) -> None:
    """Hands parts of answers to their event loops, with one call for all of a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Delivery]] = {}
    for stream, piece in deliveries:
        by_loop.setdefault(stream.loop, []).append((stream, piece))
    for loop, parts in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, parts)
        except RuntimeError:
            # The loop has ended, and with it everybody who waited.
            for stream, _ in parts:
                stream.cancel()


def _put_all(deliveries: list[Delivery]) -> None:
    for stream, piece in deliveries:
        stream.put(piece)
