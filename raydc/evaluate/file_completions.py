"""Completions for files of prompts by a language model: what its endpoint answers.

In the driver, or in a pool of Ray Data, each of whose processes loads the bundle once. All slots
are used: a row that is done makes room for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from raydc.bundle import NUM_THREADS, Bundle
from raydc.bundle.completion import check_length, find_prompts
from raydc.bundle.growing_answer import AnswerOptions
from raydc.bundle.many_completions import Question, complete_many
from raydc.data import values
from raydc.data.layout import Layout
from raydc.data.tasks import ReadCall, named_faults
from raydc.errors import DataError, UsageError
from raydc.evaluate.table_predictor import TablePredictor
from raydc.models.decoder_slots import has_slots, make_slots
from raydc.models.token_sampling import TokenSampling
from raydc.spec.chat import MESSAGES
from raydc.spec.language import Generation

_TEXT, _REASON, _SEED = "completion", "finish_reason", "seed"
_NUM_PROMPT, _NUM_ANSWER = "prompt_tokens", "answer_tokens"
# Rows of a table for each slot: at its end, slots that are done wait for the others.
ROWS_PER_SLOT = 16
_NUM_SEEDS = 2**64


@dataclass(frozen=True)
class CompletionOptions:
    """What is asked for behind each prompt of a file.

    Attributes:
        prompts: Column of the prompts; None takes that of the training.
        is_talk: Whether prompts are messages, which the chat template of the model makes a text of;
            None does as in training.
        max_tokens: Most tokens of an answer; None for as many as fit, within `generation`.
        temperature: See `TokenSampling`.
        top_p: See `TokenSampling`.
        seed: Seed of the first row. That of another one is its place in the file further on.
        stop: Strings that end an answer.
        generation: Section `serve.generation`: slots, and limits of tokens.
        num_threads: Threads of a pass on a CPU: those of a replica, for the same bits.
    """

    prompts: str | None = None
    is_talk: bool | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    generation: Generation = field(default_factory=Generation)
    num_threads: int = NUM_THREADS

    def is_talk_of(self, loaded: Bundle) -> bool:
        """Whether a model answers messages.

        Args:
            loaded: A language model.
        """
        return loaded.spec.data.chat is not None if self.is_talk is None else self.is_talk

    def column_of(self, loaded: Bundle) -> str:
        """Name of the column of the prompts.

        Args:
            loaded: A language model.
        """
        chat, target = loaded.spec.data.chat, loaded.spec.data.target
        trained = chat.prompt if chat is not None and chat.prompt is not None else target
        return trained if self.prompts is None else self.prompts

    def holds_messages(self, loaded: Bundle) -> bool:
        """Whether that column holds whole conversations; otherwise it holds texts.

        Args:
            loaded: A language model.
        """
        chat, target = loaded.spec.data.chat, loaded.spec.data.target
        # Elsewhere a text is what a user says, even if it looks like messages.
        of_training = target if chat is not None and chat.prompt is None else MESSAGES
        return self.is_talk_of(loaded) and self.column_of(loaded) in (MESSAGES, of_training)


def check_options(loaded: Bundle, options: CompletionOptions) -> None:
    """Refuses what a language model does not answer.

    Args:
        loaded: The model.
        options: What is asked for.

    Raises:
        UsageError: It has no chat template, or is of a kind that continues no texts; or a text
            that ends answers is empty.
        SpecError: Its network has fewer positions than `generation.length`.
    """
    if not has_slots(loaded.model):
        raise UsageError(
            "a language model of this kind continues no texts yet",
            "raydc evaluate gives its perplexity.",
        )
    if options.is_talk_of(loaded) and find_prompts(loaded).talk is None:
        raise UsageError(
            f"{loaded.spec.name} has no chat template: it continues texts", "Leave --chat out."
        )
    if "" in options.stop:
        raise UsageError("--stop: an empty text would end each completion at once", "Leave it out.")
    if options.generation.length is not None:
        # Here, because an error of a process of a pool is hard to read.
        make_slots(loaded.model, 1, loaded.num_threads, options.generation.length)


class CompletionPredictor(TablePredictor):
    """Adds completions to tables of prompts. See `TablePredictor`.

    Args:
        loaded: A language model.
        layout: Files of the source, for messages.
        options: What is asked for, as `check_options` allows it.

    Raises:
        SpecError: Its network has fewer positions than `generation.length`.
    """

    def __init__(self, loaded: Bundle, layout: Layout, options: CompletionOptions) -> None:
        super().__init__(loaded, layout)
        self.options = options
        section = options.generation
        self._prompts = find_prompts(loaded)
        self._slots = make_slots(loaded.model, section.slots, loaded.num_threads, section.length)
        self._is_talk = options.is_talk_of(loaded)
        self._column = options.column_of(loaded)
        self._holds_messages = options.holds_messages(loaded)

    def names(self) -> list[str]:
        """Names of the columns. See `TablePredictor.names`."""
        seeds = [_SEED] if self.options.temperature else []
        return [_TEXT, _REASON, _NUM_PROMPT, _NUM_ANSWER, *seeds]

    def check(self, table: pa.Table) -> None:
        """Refuses prompts that cannot be answered. See `TablePredictor.check`."""
        try:
            self._questions(table)
        except DataError as error:
            raise self._named(error, table) from error

    def answer(self, table: pa.Table, shown: pa.Table) -> pa.Table:
        """Adds the columns. See `TablePredictor.answer`."""
        questions = self._questions(table)
        found = complete_many(self._prompts, self._slots, questions)
        seeds = [one.options.sampling.seed for one in questions]
        columns: Mapping[str, pa.Array] = {
            _TEXT: pa.array([one.text for one in found], pa.string()),
            _REASON: pa.array([one.finish_reason for one in found], pa.string()),
            _NUM_PROMPT: pa.array([len(one.codes) for one in questions], pa.int64()),
            _NUM_ANSWER: pa.array([len(one.codes) for one in found], pa.int64()),
            _SEED: pa.array(seeds, pa.uint64()),
        }
        for name in self.names():
            shown = shown.append_column(name, columns[name])
        return shown

    def _questions(self, table: pa.Table) -> list[Question]:
        """What is asked of the model. Raises DataError."""
        if self._column not in table.column_names:
            names = ", ".join(name for name in table.column_names if not values.is_internal(name))
            raise DataError(
                f"{self.layout.files[0].path}: there is no column {self._column!r}; there are "
                f"{names}",
                "Name the column of the prompts with --prompts.",
            )
        cells = values.column_of(table, self._column).to_pylist()
        seeds = [(self.options.seed + int(row)) % _NUM_SEEDS for row in values.row_ids(table)]
        return [
            self._question(cell, f"rows[{row}].{self._column}", seeds[row])
            for row, cell in enumerate(cells)
        ]

    def _question(self, cell: Any, place: str, seed: int) -> Question:
        if cell is None:
            raise DataError(f"{place}: there is no prompt", "Remove the row, or give it one.")
        length = self._slots.max_tokens
        # More need not be cut into tokens, which takes minutes for a whole book.
        if self._is_talk:
            given = cell if self._holds_messages else _said(cell, place)
            codes = self._prompts.encode_messages(given, place, length + 1)
        else:
            codes = self._prompts.encode(cell, place, length + 1)
        if len(codes) > length:
            raise DataError(
                f"{place}: the prompt has more than {length} tokens, and the model takes {length}, "
                "of prompt and answer together",
                "Shorten the prompt.",
            )
        asked, most = self.options.max_tokens, self.options.generation.max_tokens
        try:
            # Where it is left open, at least one token must fit.
            check_length(len(codes), asked or 1, length)
        except DataError as error:
            raise DataError(f"{place}: {error.message}", error.hint) from error
        num_tokens = asked or min(most, length - len(codes))
        sampling = TokenSampling(self.options.temperature, self.options.top_p, seed)
        options = AnswerOptions(num_tokens, sampling, self.options.stop)
        return Question(place, codes, options, self._is_talk)


def _said(cell: Any, place: str) -> list[dict[str, str]]:
    """A message of what a user says."""
    if not isinstance(cell, str):
        raise DataError(f"{place}: {cell!r} is not text", "Give a string.")
    return [{"role": "user", "content": cell}]


def check_prompts(
    loaded: Bundle, layout: Layout, options: CompletionOptions, calls: Sequence[ReadCall]
) -> None:
    """Reads all prompts before the first is answered: a bad row at the end would waste hours.

    Args:
        loaded: A language model.
        layout: Files of the source, for messages.
        options: What is asked for, as `check_options` allows it.
        calls: Each reads a part of the source.

    Raises:
        DataError: A row cannot be used; the message names its place.
    """
    # One slot has the length of several, and less memory.
    generation = options.generation.model_copy(update={"slots": 1})
    checker = CompletionPredictor(loaded, layout, replace(options, generation=generation))
    with named_faults("predict"):
        for call in calls:
            for table in call():
                checker.check(table)
