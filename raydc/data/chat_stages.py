"""The stages of a preparation of conversations: read, split, encode, pack. In the driver.

Rows are filled with whole conversations in the order of their ids: one that does not fit behind the
others begins the next row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from raydc.data import chat_tasks, manifest, shards, tasks
from raydc.data.column_scan import BlockScan
from raydc.data.lines import count_of
from raydc.data.shard_plan import PlannedShard
from raydc.data.shards import SPLITS
from raydc.data.token_stages import TokenStages
from raydc.errors import DataError
from raydc.features import Conversations, Features

_NUM_GOLDEN_ROWS = 4


def pack(lengths: Sequence[int], most: int) -> list[int]:
    """Numbers of conversations of each row: as many, one after the other, as fit.

    Args:
        lengths: Tokens of each conversation, none of them above `most`.
        most: Tokens of a row.
    """
    sizes: list[int] = []
    room = 0
    for length in lengths:
        if length > room:
            sizes.append(0)
            room = most
        sizes[-1] += 1
        room -= length
    return sizes


class ChatStages(TokenStages):
    """Takes a data set of conversations from its sources to its manifest."""

    def run(self, made_from: dict[str, Any]) -> None:
        """Runs all stages; the manifest comes last.

        Args:
            made_from: What the content depends on; the manifest holds it too.

        Raises:
            DataError: A conversation or a column that cannot be used, with its place.
        """
        blocks, cleaner = self._open_documents()
        features = self._fit_tokens(blocks, cleaner)
        ((_, column),) = features.columns.items()
        assert isinstance(column, Conversations)
        shared = tasks.share((cleaner, column))
        made, measured = self._encode_all(blocks, shared, column)
        counts = [[len(lengths) for lengths in one["lengths"]] for one in measured]
        sizes = [
            pack([n for one in measured for n in one["lengths"][split]], column.length + 1)
            for split in range(len(SPLITS))
        ]
        num_rows = [len(rows) for rows in sizes]
        rows_per_shard = shards.rows_per_shard(features.signature.row_bytes)
        plan = _plan(counts, sizes, rows_per_shard)
        files = self._write_all(plan, made, features, sizes, rows_per_shard)
        facts = {
            "rows": dict(zip(SPLITS, num_rows, strict=True)),
            "shards": {name: [s.name for s in plan if SPLITS[s.split] == name] for name in SPLITS},
            "rows_per_shard": rows_per_shard,
            "tokens": {
                name: sum(one["learnt"][split] for one in measured)
                for split, name in enumerate(SPLITS)
            },
        }
        golden = self._golden_cells(blocks, shared, num_rows)
        written = manifest.write(self._folder, features, golden, files, {**made_from, **facts})
        # Nodes write shards on their own; this detects a disk that is not shared.
        manifest.verify(self._folder, written)

    def _check_target(self, total: BlockScan) -> None:
        data = self._spec.data
        assert data.chat is not None
        prompt, column = data.chat.prompt, total.columns[data.target]
        # Lists of JSON Lines are read as texts, those of Parquet as they are.
        kinds = {"text"} if prompt is not None else {"text", "other"}
        if not kinds.issuperset(column.kinds):
            found = " and ".join(column.kinds) or "nothing"
            what = "answers" if prompt is not None else "conversations"
            raise DataError(
                f"target {data.target!r} holds {found}, and not {what}", "Set data.target."
            )
        if prompt is not None:
            self._require_column("data.chat.prompt", prompt, total)
            given = total.columns[prompt]
            if given.kinds != ("text",) or given.missing.first_row is not None:
                row = given.missing.first_row
                where = "" if row is None else f", {self._layout.describe_row(row)} nothing"
                raise DataError(
                    f"data.chat.prompt: {prompt!r} holds {' and '.join(given.kinds)}{where}, and "
                    "not texts",
                    "Correct or remove the rows, or name another column.",
                )

    def _encode_all(
        self, blocks: Sequence[tasks.BlockRef], shared: Any, column: Conversations
    ) -> tuple[list[tasks.BlockRef], list[dict[str, Any]]]:
        """Encodes all conversations; blocks and their measures, in the order of the rows."""
        made = tasks.read_blocks(
            [partial(chat_tasks.encode, block, shared) for block in blocks], "EncodeConversations"
        )
        known = tasks.share(column)
        measures = tasks.run_calls(
            [partial(chat_tasks.measure, block, known) for block in made], "MeasureConversations"
        )
        # Blocks arrive in any order, and everything after this depends on that of the rows.
        found = sorted(
            (
                (one["first"], number)
                for number, one in enumerate(measures)
                if one["first"] is not None
            ),
        )
        made, measures = ([every[number] for _, number in found] for every in (made, measures))
        documents = [
            sum(len(one["lengths"][split]) for one in measures) for split in range(len(SPLITS))
        ]
        learnt = [sum(one["learnt"][split] for one in measures) for split in range(len(SPLITS))]
        self._report_fates(measures)
        self._check_documents(documents)
        texts = ", ".join(
            f"{name} {count_of(number, 'learnt token')} of {count_of(size, 'conversation')}"
            for name, number, size in zip(SPLITS, learnt, documents, strict=True)
        )
        self._report(f"split: {texts}")
        self._report(f"features: {column.num_codes:,} codes, rows of {column.length:,} tokens")
        return made, measures

    def _report_fates(self, measures: Sequence[dict[str, Any]]) -> None:
        length = self._spec.data.blocks.length
        texts = {
            chat_tasks.NO_ANSWER: "without an answer that could be learnt left out",
            chat_tasks.LEFT_OUT: f"of more than {length + 1:,} tokens left out",
            chat_tasks.CUT: f"cut after {length + 1:,} tokens",
        }
        for place, fate in enumerate(chat_tasks.FATES):
            parts = [one["fates"][place] for one in measures if one["fates"][place][0]]
            if parts:
                count, first = sum(one[0] for one in parts), min(one[1] for one in parts)
                where = self._layout.describe_row(first)
                number = count_of(count, "conversation")
                self._report(f"note: {number} {texts[fate]}; the first is {where}")

    def _write_all(
        self,
        plan: Sequence[PlannedShard],
        made: Sequence[tasks.BlockRef],
        features: Features,
        sizes: Sequence[Sequence[int]],
        rows_per_shard: int,
    ) -> dict[str, Any]:
        """Writes all shards; returns their entries by name."""
        shared = tasks.share(features)
        first_rows = list(itertools.accumulate(map(len, sizes), initial=0))
        calls = []
        for shard in plan:
            start = shard.index * rows_per_shard
            calls.append(
                partial(
                    chat_tasks.write_shard,
                    shard,
                    [made[piece[0]] for piece in shard.pieces],
                    sizes[shard.split][start : start + rows_per_shard],
                    first_rows[shard.split] + start,
                    self._folder,
                    shared,
                )
            )
        entries = tasks.run_calls(calls, "WriteShards")
        num_bytes = sum(entry["bytes"] for entry in entries)
        self._report(f"wrote {count_of(len(plan), 'shard')}, {num_bytes / 1e6:,.1f} MB")
        return {shard.name: entry for shard, entry in zip(plan, entries, strict=True)}

    def _golden_cells(
        self, blocks: Sequence[tasks.BlockRef], shared: Any, num_rows: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Held-out conversations, of the test split if it has any."""
        split = max(split for split, count in enumerate(num_rows) if count)
        cells: list[str] = []
        for block in blocks:
            count = _NUM_GOLDEN_ROWS - len(cells)
            if count <= 0:
                break
            call = partial(chat_tasks.take_cells, block, shared, split, count)
            cells += tasks.run_calls([call], "GoldenRows")[0]
        return [{self._spec.data.target: cell} for cell in cells]


def _plan(
    counts: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]], rows_per_shard: int
) -> list[PlannedShard]:
    """Shards of a number of rows each; their pieces are counted in conversations.

    Args:
        counts: Conversations of each split in each block, [blocks][splits].
        sizes: Conversations of each row, by split.
        rows_per_shard: Rows of every shard but the last of a split.
    """
    plan = []
    for split, rows in enumerate(sizes):
        ends = list(itertools.accumulate((block[split] for block in counts), initial=0))
        stop = 0
        for index, first in enumerate(range(0, len(rows), rows_per_shard)):
            start, stop = stop, stop + sum(rows[first : first + rows_per_shard])
            pieces = tuple(
                (block, max(start, low) - low, min(stop, high) - low)
                for block, (low, high) in enumerate(itertools.pairwise(ends))
                if low < stop and high > start
            )
            plan.append(PlannedShard(split, index, pieces))
    return plan
