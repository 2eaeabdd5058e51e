"""raydc's own engine of one loaded language model: slots, prompts, adapter. Runs in the replica."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from raydc.bundle.growing_answer import AnswerOptions, GrowingAnswer
from raydc.features import PromptTexts
from raydc.models.cached_slots import SlotModel
from raydc.models.slot_adapters import AdapterWeights
from raydc.serve.replica.answer_stream import AnswerStream
from raydc.serve.replica.slot_loop import SlotLoop, Work


class GenerationEngine:
    """A `TextEngine` whose answers raydc computes. See `TextEngine`.

    Args:
        slots: Slots of its network; or those of another one, with their thread, whose base it
            shares.
        prompts: Its prompts and answers.
        adapter: Its adapter; None if all answers of the slots have the same weights.
    """

    def __init__(
        self,
        slots: SlotModel | SlotLoop,
        prompts: PromptTexts,
        adapter: AdapterWeights | None = None,
    ) -> None:
        self.prompts = prompts
        self.adapter = adapter
        self.loop = slots if isinstance(slots, SlotLoop) else SlotLoop(slots)

    @property
    def pass_sizes(self) -> deque[int]:
        """Answers that grew in each of the last passes."""
        return self.loop.pass_sizes

    @property
    def num_slots(self) -> int:
        """Answers that grow at a time."""
        return self.loop.slots.num_slots

    @property
    def max_tokens(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self.loop.slots.max_tokens

    @property
    def answer(self) -> str:
        """Whether an answer depends on others, in words."""
        if self.loop.slots.rows_per_pass == 1:
            return "independent of others; each answer is computed alone"
        return f"independent of others; each pass has all {self.num_slots} slots"

    @property
    def fault(self) -> str | None:
        """Always None: a pass that fails ends its answers, and the next one may work."""
        return None

    def submit(
        self, prompt: Sequence[int], options: AnswerOptions, is_talk: bool = False
    ) -> AnswerStream:
        """Asks for an answer. See `TextEngine.submit`."""
        stream = AnswerStream(len(prompt))
        answer = GrowingAnswer(self.prompts, prompt, options)
        document = self.prompts.put_beginning(prompt, is_talk)
        self.loop.submit(Work(stream, document, answer, self.adapter))
        return stream
