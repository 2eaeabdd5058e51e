"""Completion of a text by a bundle, in this process: what its endpoint answers. Driver, replicas.

The tokens of an answer follow from the prompt, the options and the slots alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydc.bundle.folder import Bundle
from raydc.bundle.growing_answer import AnswerOptions, FinishReason, GrowingAnswer
from raydc.errors import DataError
from raydc.features import Conversations, PromptTexts, TokenBlock
from raydc.models.cached_slots import SlotModel, prefill_all
from raydc.models.decoder_slots import make_slots
from raydc.spec.sequence_models import HuggingFace


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


def find_prompts(bundle: Bundle) -> PromptTexts:
    """Finds how a language model reads prompts, and what ends its answers.

    A model of conversations has the chat template of its training. Any other pretrained one has
    that of its folder, if it fits the tokenizer: an answer has to end with a special token.

    Raises:
        DataError: It is not a language model.
    """
    column, model = bundle.features.token_column, bundle.spec.model
    if column is None:
        raise DataError("only a language model continues texts", "This one predicts rows.")
    if isinstance(column, Conversations):
        return PromptTexts(column, column, _further_ends(column, model))
    content = model.content if isinstance(model, HuggingFace) else None
    if content is None or content.chat_template is None or not column.tokenizer:
        return PromptTexts(column)
    flat = tuple(part for pair in sorted(content.special_tokens.items()) for part in pair)
    size = column.num_codes, column.length, column.end_code
    talk = Conversations(*size, column.tokenizer, content.chat_template, flat)
    return PromptTexts(column, talk if talk.is_usable else None, _further_ends(column, model))


def _further_ends(column: TokenBlock | Conversations, model: object) -> tuple[int, ...]:
    """Ends that the configs and the tokenizer of a folder name."""
    if not isinstance(model, HuggingFace) or model.content is None:
        return ()
    given = model.content.config.get("eos_token_id")
    codes = given if isinstance(given, list) else [given]
    named = column.code_of(model.content.special_tokens.get("eos_token", ""))
    further = (*codes, named, *(model.content.end_codes or ()))
    return tuple(code for code in further if isinstance(code, int))


def complete(
    bundle: Bundle,
    prompt: str | Sequence[Mapping[str, Any]],
    options: AnswerOptions,
    slots: SlotModel | None = None,
) -> Completion:
    """Continues a text, or answers messages.

    Args:
        bundle: A loaded language model.
        prompt: Text that the answer follows, as the beginning of a document; or messages, objects
            with `role` and `content`, for the chat template of the model.
        options: What is asked for.
        slots: Slots of its network, of which the first is used; None makes them.

    Raises:
        DataError: It is no language model, the prompt cannot be used, or prompt and answer are
            longer than what the slots read.
        NotFiniteError: The model gave scores that are no finite numbers.
    """
    prompts, is_talk = find_prompts(bundle), not isinstance(prompt, str)
    codes = (prompts.encode_messages if is_talk else prompts.encode)(prompt, "prompt")
    if slots is None:
        slots = make_slots(bundle.model, 1, bundle.num_threads)
    check_length(len(codes), options.max_tokens, slots.max_tokens)
    answer = GrowingAnswer(prompts, codes, options)
    text = answer.add(prefill_all(slots, 0, prompts.put_beginning(codes, is_talk)))
    while answer.finish_reason is None:
        text += answer.add(slots.step({0: answer.codes[-1]})[0])
    return Completion(text, tuple(answer.codes), answer.finish_reason)


def check_length(num_prompt_tokens: int, num_answer_tokens: int, length: int) -> None:
    """Raises DataError if a prompt and its answer are longer than what a model takes.

    Args:
        num_prompt_tokens: Tokens of the prompt.
        num_answer_tokens: Tokens that are asked for.
        length: Tokens that the model takes, of both together.
    """
    total = num_prompt_tokens + num_answer_tokens
    if total > length:
        raise DataError(
            f"the prompt has {num_prompt_tokens} tokens and the answer up to {num_answer_tokens}, "
            f"{total} together; the model takes {length}",
            "Shorten the prompt, or ask for fewer tokens with max_tokens.",
        )
