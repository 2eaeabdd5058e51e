"""Completions of many prompts by one bundle, as its endpoint answers them. Driver, processes.

The answers grow together, and a slot that is free takes the next prompt. What else is computed
changes no text, see `raydc.models.cached_slots`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from raydc.bundle.completion import Completion
from raydc.bundle.growing_answer import AnswerOptions, GrowingAnswer, NotFiniteError
from raydc.errors import DataError
from raydc.features import PromptTexts
from raydc.models.cached_slots import Scores, SlotModel, prefill_all


@dataclass(frozen=True)
class Question:
    """A prompt, and what is asked for behind it.

    Attributes:
        place: Names it, for messages.
        codes: Codes of the prompt, which fit into a slot together with the answer.
        options: What is asked for.
        is_talk: Whether the prompt is made of messages.
    """

    place: str
    codes: Sequence[int]
    options: AnswerOptions
    is_talk: bool = False


def complete_many(
    prompts: PromptTexts, slots: SlotModel, questions: Sequence[Question]
) -> list[Completion]:
    """Continues texts, or answers messages.

    Args:
        prompts: How the model reads prompts, and what ends its answers.
        slots: Slots of its network, all of which are used.
        questions: The prompts.

    Returns:
        The answers, in the order of the prompts.

    Raises:
        DataError: The model gave scores that are no finite numbers.
    """
    found: dict[int, Completion] = {}
    growing: dict[int, tuple[int, _Answer]] = {}
    waiting = deque(enumerate(questions))
    while waiting or growing:
        for slot in range(slots.num_slots):
            # An answer of one token leaves its slot at once.
            while waiting and slot not in growing:
                number, question = waiting.popleft()
                one = _Answer(prompts, question)
                document = prompts.put_beginning(question.codes, question.is_talk)
                if one.add(prefill_all(slots, slot, document)):
                    found[number] = one.whole()
                else:
                    growing[slot] = number, one
        if not growing:
            continue
        scores_SV = slots.step({slot: one.last_code for slot, (_, one) in growing.items()})
        for slot, (number, one) in list(growing.items()):
            if one.add(scores_SV[slot]):
                found[number] = one.whole()
                del growing[slot]
    return [found[number] for number in range(len(questions))]


class _Answer:
    """An answer that grows in a slot."""

    def __init__(self, prompts: PromptTexts, question: Question) -> None:
        self._growing = GrowingAnswer(prompts, question.codes, question.options)
        self._place = question.place
        self._texts: list[str] = []

    @property
    def last_code(self) -> int:
        return self._growing.codes[-1]

    def add(self, scores_V: Scores) -> bool:
        """Adds a token; True if it was the last."""
        try:
            self._texts.append(self._growing.add(scores_V))
        except NotFiniteError as error:
            raise DataError(f"{self._place}: {error}") from error
        return self._growing.finish_reason is not None

    def whole(self) -> Completion:
        codes = tuple(self._growing.codes)
        return Completion("".join(self._texts), codes, self._growing.finish_reason)
