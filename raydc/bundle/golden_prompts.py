"""Golden prompts: beginnings of held-out documents with the tokens that the model put behind them.

They guard a version of a language model as golden rows do: a process that loads it reads them
again, and refuses the model if one of the tokens is no longer the likeliest. Used in the driver and
replicas.

Shape suffixes: V codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from raydc.errors import CheckpointError
from raydc.features import Features, PromptTexts, TokenBlock, TokenColumn
from raydc.models.cached_slots import SlotModel, prefill_all
from raydc.models.decoder_slots import has_slots, make_slots

# Name of their part of `golden.json`.
PROMPTS = "prompts"
_NUM_PROMPTS = 4
_MAX_PROMPT_TOKENS = 16
_NUM_ANSWER_TOKENS = 8
# What an error says of the cause.
HINT = "The weights or the model's code are not those that were trained."
# How far below the greatest score a token may be, as a fraction of that or of 1: other CPUs round
# differently, and two tokens may be as likely.
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}


def compute(
    rows: Sequence[Mapping[str, Any]], features: Features, network: nn.Module
) -> list[dict[str, list[int]]]:
    """Computes golden prompts from held-out rows.

    Args:
        rows: JSON rows with a document or a conversation each.
        features: Features of the bundle.
        network: The network in evaluation mode.

    Returns:
        Codes of a `prompt` and of the greedy `answer` each; none of a network that does not
        continue documents.
    """
    column = features.token_column
    if column is None or not rows or not has_slots(network):
        return []
    prompts, slots = PromptTexts(column), make_slots(network, 1)
    (name,) = features.columns
    found = []
    for row in rows[:_NUM_PROMPTS]:
        codes = _codes_of(column, row.get(name))
        prompt = codes[: min(_MAX_PROMPT_TOKENS, len(codes) // 2, column.length // 2)]
        # Without a token of its own, nothing says what may follow.
        if prompt or prompts.put_beginning(()):
            found.append({"prompt": prompt, "answer": _continue(prompts, slots, prompt)})
    return found


def _codes_of(column: TokenColumn, cell: Any) -> list[int]:
    """Codes of a document or of a conversation; none of a missing one."""
    if isinstance(column, TokenBlock):
        return column.encode(cell, "golden rows") if isinstance(cell, str) else []
    codes = column.encode(cell, "golden rows") if cell else np.zeros(0, dtype=np.int64)
    plain: list[int] = (codes % column.num_codes).tolist()
    return plain


def _continue(prompts: PromptTexts, slots: SlotModel, prompt: list[int]) -> list[int]:
    """The greedy tokens behind a prompt, an end among them as the last."""
    answer: list[int] = []
    scores_V = prefill_all(slots, 0, prompts.put_beginning(prompt))
    while True:
        answer.append(int(scores_V.argmax()))
        is_full = len(answer) >= min(_NUM_ANSWER_TOKENS, prompts.length - len(prompt))
        if is_full or answer[-1] in prompts.end_codes:
            return answer
        scores_V = slots.step({0: answer[-1]})[0]


def check(
    golden: Mapping[str, Any],
    features: Features,
    network: nn.Module,
    device: str,
    num_threads: int,
) -> None:
    """Compares what this process computes with what `compute` stored.

    Args:
        golden: Content of `golden.json`, with what `compute` returned; a model of an older raydc
            has none.
        features: Features of the loaded bundle.
        network: The loaded network in evaluation mode.
        device: `cpu` or `cuda`, which decides the tolerance.
        num_threads: Threads of a pass.

    Raises:
        CheckpointError: A stored token is not the likeliest; the message names the first one.
    """
    column, prompts = features.token_column, golden.get(PROMPTS)
    if column is None or not prompts:
        return
    texts = PromptTexts(column)
    slots = make_slots(network, 1, num_threads)
    for number, one in enumerate(prompts):
        scores_V = prefill_all(slots, 0, texts.put_beginning(one["prompt"]))
        for position, code in enumerate(one["answer"]):
            best = int(scores_V.argmax())
            likeliest, given = (best, float(scores_V.max())), (code, float(scores_V[code]))
            require_likeliest(number, position, likeliest, given, TOLERANCE[device])
            if position < len(one["answer"]) - 1:
                scores_V = slots.step({0: code})[0]


def require_likeliest(
    number: int,
    position: int,
    likeliest: tuple[int, float],
    given: tuple[int, float],
    tolerance: float,
    hint: str = HINT,
) -> float:
    """Raises CheckpointError if the stored token of a golden prompt is not the likeliest.

    Args:
        number: Number of the golden prompt.
        position: Position in its answer.
        likeliest: Code of the greatest score, and the score.
        given: The stored code, and its score.
        tolerance: How far below the greatest score it may be, as a fraction of that or of 1.
        hint: What the error says of the cause.

    Returns:
        How far below the greatest score it is.
    """
    (best, greatest), (code, score) = likeliest, given
    # `not >=`, so that NaN counts as different.
    if not score >= greatest - tolerance * max(1.0, abs(greatest)):
        raise CheckpointError(
            f"golden prompts[{number}]: token {position} of the answer is {best} with a score of "
            f"{greatest:.6g}, expected {code}, which has {score:.6g}",
            hint,
        )
    return greatest - score
