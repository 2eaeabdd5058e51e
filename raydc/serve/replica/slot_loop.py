"""Continuous batching: the answers of one language model grow together. Runs in the replica.

A thread goes round: it gives free slots to the requests that have waited longest, reads one chunk
of one prompt, and reads one token of each answer that grows. So an answer begins as soon as there
is a slot, a long prompt holds up the others for one chunk at a time, and nobody overtakes, whatever
adapters they want. The thread ends when there is nothing left to do: a version that is unloaded
lives until the last answer that began on it has ended.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from raydc.bundle.growing_answer import GrowingAnswer, NotFiniteError, require_finite
from raydc.models.cached_slots import Scores, SlotModel
from raydc.models.slot_adapters import AdapterWeights
from raydc.serve.replica.answer_stream import AnswerStream, Delivery, Piece, deliver

logger = logging.getLogger("ray.serve")

# Starting a thread for each of several requests would cost more than waiting for the next one.
_IDLE_S = 1.0


@dataclass
class Work:
    """A request: its document, its answer, and how far they are.

    Attributes:
        stream: Gets the parts of the answer.
        document: Codes that are read before it.
        answer: The answer so far.
        adapter: Adapter that its slot needs; None if all answers have the same weights.
        num_read: Codes that are read already.
    """

    stream: AnswerStream
    document: Sequence[int]
    answer: GrowingAnswer
    adapter: AdapterWeights | None = None
    num_read: int = 0

    @property
    def is_reading(self) -> bool:
        """Whether a part of the document is not read yet."""
        return self.num_read < len(self.document)


class SlotLoop:
    """The slots of a language model, and the thread that works with them.

    Args:
        slots: Slots of its network.

    Attributes:
        slots: The same.
        pass_sizes: Answers that grew in each of the last passes.
    """

    def __init__(self, slots: SlotModel) -> None:
        self.slots = slots
        self.pass_sizes: deque[int] = deque(maxlen=1024)
        self._changed = threading.Condition()
        # Under the lock of `_changed`: what waits, and the thread that works.
        self._waiting: deque[Work] = deque()
        self._thread: threading.Thread | None = None
        # By slot, in the order in which they began; the thread alone uses it.
        self._working: dict[int, Work] = {}

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None

    def submit(self, work: Work) -> None:
        """Adds a request behind all others."""
        with self._changed:
            self._waiting.append(work)
            if self._thread is None:
                # A daemon, so that a replica that is killed does not wait for it.
                self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while self._take_waiting():
            # A first token does not wait for the pass of the others.
            for part in (self._read_prompt, self._step):
                try:
                    deliver(part())
                except Exception as error:  # The thread must go on: others wait.
                    logger.exception("a pass of the language model failed")
                    deliver(self._fail(self._working, error))

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
            free = (slot for slot in range(self.slots.num_slots) if slot not in self._working)
            for slot in list(free)[: len(self._waiting)]:
                self._working[slot] = self._waiting.popleft()
        return True

    def _step(self) -> list[Delivery]:
        """Reads one token of each answer that grows."""
        growing = {
            slot: work.answer.codes[-1]
            for slot, work in self._working.items()
            if not work.is_reading
        }
        if not growing:
            return []
        self.pass_sizes.append(len(growing))
        scores_SV = self.slots.step(growing)
        return [one for slot in growing for one in self._add(slot, scores_SV[slot])]

    def _read_prompt(self) -> list[Delivery]:
        """Reads a chunk of the prompt that has begun first, if one is not read yet."""
        slot = next((slot for slot, work in self._working.items() if work.is_reading), None)
        if slot is None:
            return []
        work = self._working[slot]
        start = work.num_read
        if start == 0 and work.adapter is not None:
            self.slots.assign(slot, work.adapter)
        chunk = work.document[start : start + self.slots.chunk_tokens]
        scores_V = self.slots.prefill(slot, chunk, start)
        work.num_read += len(chunk)
        if not work.is_reading:
            return self._add(slot, scores_V)
        try:
            # At once: if the client went before the last chunk, they would stay for the next one.
            require_finite(scores_V)
        except NotFiniteError as error:
            return self._fail({slot: work}, error)
        return []

    def _add(self, slot: int, scores_V: Scores) -> list[Delivery]:
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

    def _fail(self, failed: dict[int, Work], error: Exception) -> list[Delivery]:
        """Ends the answers of some slots with an error."""
        deliveries = []
        for slot, work in list(failed.items()):
            del self._working[slot]
            try:
                self.slots.clear(slot)
            except Exception:  # A device that is lost must not keep the error from the clients.
                logger.exception("a slot of the language model cannot be cleared")
            piece = Piece("", len(work.answer.codes), error=error)
            deliveries.append((work.stream, piece))
        return deliveries
