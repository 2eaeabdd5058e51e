"""Completion of a text by a bundle, in this process: what its endpoint answers. Driver, replicas.

The tokens of an answer follow from the prompt, the options and the slots alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydc.bundle.folder import Bundle
from raydc.bundle.growing_answer import AnswerOptions, FinishReason, GrowingAnswer
from raydc.errors import DataError
from raydc.features import Features, TokenBlock
from raydc.models.decoder_slots import SlotModel, make_slots, prefill_all


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Attributes:
        text: Its text.
        codes: Its codes.
        finish_reason: Why it ended.
    """

    text: str
    codes: tuple[int, ...]
    finish_reason: FinishReason | None


def find_block(features: Features) -> TokenBlock:
    """The column of documents of a language model.

    Raises:
        DataError: The features are not those of a language model.
    """
    if features.documents is not None:
        return features.documents
    raise DataError("only a language model continues texts", "This one predicts rows of a table.")


def complete(
    bundle: Bundle, prompt: str, options: AnswerOptions, slots: SlotModel | None = None
) -> Completion:
    """Continues a text.

    Args:
        bundle: A loaded language model.
        prompt: Text that the answer follows, as the beginning of a document.
        options: What is asked for.
        slots: Slots of its network, of which the first is used; None makes them.

    Raises:
        DataError: It is no language model, the prompt is not text, or prompt and answer are longer
            than `data.blocks.length`.
        NotFiniteError: The model gave scores that are no finite numbers.
    """
    block = find_block(bundle.features)
    codes = block.encode(prompt, "prompt")
    check_length(len(codes), options.max_tokens, block.length)
    if slots is None:
        slots = make_slots(bundle.model, 1, bundle.num_threads)
    answer = GrowingAnswer(block, codes, options)
    text = answer.add(prefill_all(slots, 0, [block.end_code, *codes]))
    while answer.finish_reason is None:
        text += answer.add(slots.step({0: answer.codes[-1]})[0])
    return Completion(text, tuple(answer.codes), answer.finish_reason)


def check_length(num_prompt_tokens: int, num_answer_tokens: int, length: int) -> None:
    """Raises DataError if a prompt and its answer are longer than a row of the training.

    Args:
        num_prompt_tokens: Tokens of the prompt.
        num_answer_tokens: Tokens that are asked for.
        length: The model's `data.blocks.length`.
    """
    total = num_prompt_tokens + num_answer_tokens
    if total > length:
        raise DataError(
            f"the prompt has {num_prompt_tokens} tokens and the answer up to {num_answer_tokens}, "
            f"{total} together; the model takes {length}",
            "Shorten the prompt, or ask for fewer tokens with max_tokens.",
        )
