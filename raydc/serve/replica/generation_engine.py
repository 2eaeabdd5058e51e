"""Continuous batching: the answers of one language model grow together. Runs in the replica.

A thread goes round: it gives free slots to the requests that have waited longest, reads one chunk
of one prompt, and reads one token of each answer that grows. So an answer begins as soon as there
is a slot, a long prompt holds up the others for one chunk at a time, and nobody overtakes. The
thread ends when there is nothing left to do: a version that is unloaded lives until the last answer
that began on it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raydc.bundle.growing_answer import (
    AnswerOptions,
    FinishReason,
    GrowingAnswer,
    NotFiniteError,
)
from raydc.features import PromptTexts
from raydc.models.cached_slots import Scores, SlotModel

logger = logging.getLogger("ray.serve")

# Starting a thread for each of several requests would cost more than waiting for the next one.
_IDLE_S = 1.0


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

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Ends the work for it before the next token. May be called at any time."""
        self._is_cancelled = True

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


@dataclass
class _Work:
    """A request: its document, its answer, and how far they are."""

    stream: AnswerStream
    document: Sequence[int]
    answer: GrowingAnswer
    num_read: int = 0

    @property
    def is_reading(self) -> bool:
        return self.num_read < len(self.document)


_Delivery = tuple[AnswerStream, Piece]


class GenerationEngine:
    """Answers of one loaded language model.

    Args:
        slots: Slots of its network.
        prompts: Its prompts and answers.

    Attributes:
        pass_sizes: Answers that grew in each of the last passes.
    """

    def __init__(self, slots: SlotModel, prompts: PromptTexts) -> None:
        self.prompts = prompts
        self.pass_sizes: deque[int] = deque(maxlen=1024)
        self._slots = slots
        self._changed = threading.Condition()
        # Under the lock of `_changed`: what waits, and the thread that works.
        self._waiting: deque[_Work] = deque()
        self._thread: threading.Thread | None = None
        # By slot, in the order in which they began; the thread alone uses it.
        self._working: dict[int, _Work] = {}

    @property
    def num_slots(self) -> int:
        """Answers that grow at a time."""
        return self._slots.num_slots

    @property
    def max_tokens(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._slots.max_tokens

    @property
    def answer(self) -> str:
        """Whether an answer depends on others, in words."""
        if self._slots.rows_per_pass == 1:
            return "independent of others; each answer is computed alone"
        return f"independent of others; each pass has all {self.num_slots} slots"

    def submit(
        self, prompt: Sequence[int], options: AnswerOptions, is_talk: bool = False
    ) -> AnswerStream:
        """Asks for an answer; called in an event loop.

        Args:
            prompt: Codes of the prompt, which fit together with `options.max_tokens`.
            options: What is asked for.
            is_talk: Whether the prompt is made of messages.
        """
        stream = AnswerStream(len(prompt))
        answer = GrowingAnswer(self.prompts, prompt, options)
        work = _Work(stream, self.prompts.put_beginning(prompt, is_talk), answer)
        with self._changed:
            self._waiting.append(work)
            if self._thread is None:
                # A daemon, so that a replica that is killed does not wait for it.
                self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
                self._thread.start()
            self._changed.notify()
        return stream

    def _run(self) -> None:
        while self._take_waiting():
            # A first token does not wait for the pass of the others.
            for part in (self._read_prompt, self._step):
                try:
                    _deliver(part())
                except Exception as error:  # The thread must go on: others wait.
                    logger.exception("a pass of the language model failed")
                    _deliver(self._fail(self._working, error))

    def _take_waiting(self) -> bool:
        """Fills free slots, and waits if there is nothing to do; False ends the thread."""
        with self._changed:
            for slot in [one for one, work in self._working.items() if work.stream.is_cancelled]:
                del self._working[slot]
            while self._waiting and self._waiting[0].stream.is_cancelled:
                self._waiting.popleft()
            if not self._working and not self._waiting:
                self._changed.wait(_IDLE_S)
                if not self._waiting:
                    self._thread = None
                    return False
            free = (slot for slot in range(self.num_slots) if slot not in self._working)
            for slot in list(free)[: len(self._waiting)]:
                self._working[slot] = self._waiting.popleft()
        return True

    def _step(self) -> list[_Delivery]:
        """Reads one token of each answer that grows."""
        growing = {
            slot: work.answer.codes[-1]
            for slot, work in self._working.items()
            if not work.is_reading
        }
        if not growing:
            return []
        self.pass_sizes.append(len(growing))
        scores_SV = self._slots.step(growing)
        return [one for slot in growing for one in self._add(slot, scores_SV[slot])]

    def _read_prompt(self) -> list[_Delivery]:
        """Reads a chunk of the prompt that has begun first, if one is not read yet."""
        slot = next((slot for slot, work in self._working.items() if work.is_reading), None)
        if slot is None:
            return []
        work = self._working[slot]
        start = work.num_read
        chunk = work.document[start : start + self._slots.chunk_tokens]
        scores_V = self._slots.prefill(slot, chunk, start)
        work.num_read += len(chunk)
        return [] if work.is_reading else self._add(slot, scores_V)

    def _add(self, slot: int, scores_V: Scores) -> list[_Delivery]:
        """Adds a token to the answer of a slot, which is free again if it was the last."""
        work = self._working[slot]
        try:
            text = work.answer.add(scores_V)
        except NotFiniteError as error:
            return self._fail({slot: work}, error)
        except Exception as error:  # The others have no part in what one text does.
            logger.exception("an answer of the language model failed")
            return self._fail({slot: work}, error)
        if work.answer.finish_reason is not None:
            del self._working[slot]
        piece = Piece(text, len(work.answer.codes), work.answer.finish_reason)
        return [(work.stream, piece)]

    def _fail(self, failed: dict[int, _Work], error: Exception) -> list[_Delivery]:
        """Ends the answers of some slots with an error."""
        deliveries = []
        for slot, work in list(failed.items()):
            del self._working[slot]
            try:
                self._slots.clear(slot)
            except Exception:  # A device that is lost must not keep the error from the clients.
                logger.exception("a slot of the language model cannot be cleared")
            piece = Piece("", len(work.answer.codes), error=error)
            deliveries.append((work.stream, piece))
        return deliveries


def _deliver(deliveries: list[_Delivery]) -> None:
    """Hands parts of answers to their event loops, with one call for all of a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Delivery]] = {}
    for stream, piece in deliveries:
        by_loop.setdefault(stream.loop, []).append((stream, piece))
    for loop, parts in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, parts)
        except RuntimeError:
            # The loop has ended, and with it everybody who waited.
            for stream, _ in parts:
                stream.cancel()


def _put_all(deliveries: list[_Delivery]) -> None:
    for stream, piece in deliveries:
        stream.put(piece)
