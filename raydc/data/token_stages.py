"""The stages of a preparation for a language model: read, split, fit, encode, pack. In the driver.

A split is one stream of tokens: its documents in the order of their ids, with the end token before
each and behind the last. Rows are cut from the stream, so that all but the last are full.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raydc.data import manifest, shards, split_stage, tasks, token_tasks
from raydc.data.clean import Cleaner
from raydc.data.column_scan import BlockScan
from raydc.data.lines import count_of
from raydc.data.prepare_stages import PrepareStages
from raydc.data.shard_plan import PlannedShard, plan_shards
from raydc.data.shards import SPLITS
from raydc.data.tokenizer_file import check_blocks, check_conversations
from raydc.data.word_counts import WordCounts
from raydc.errors import DataError, did_you_mean
from raydc.features import Conversations, Features, Signature, TokenBlock, token_block
from raydc.spec.language import LANGUAGE

# A golden row has an output for each of its tokens.
_NUM_GOLDEN_ROWS = 4
_GOLDEN_CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True)
class _Encoded:
    """Documents as token codes.

    Attributes:
        blocks: References to tables of `token_tasks.encode`, in the order of the documents.
        documents: Documents of each split in each block, [blocks][splits].
        tokens: Their tokens, with one end for each document.
    """

    blocks: list[tasks.BlockRef]
    documents: list[list[int]]
    tokens: list[list[int]]

    def count(self, numbers: list[list[int]]) -> list[int]:
        """Numbers of each split over all blocks."""
        return [sum(block[split] for block in numbers) for split in range(len(SPLITS))]


class TokenStages(PrepareStages):
    """Takes a data set of documents from its sources to its manifest."""

    def run(self, made_from: dict[str, Any]) -> None:
        """Runs all stages; the manifest comes last.

        Args:
            made_from: What the content depends on; the manifest holds it too.

        Raises:
            DataError: A document or a column that cannot be used, with its place.
        """
        blocks, cleaner = self._open_documents()
        features = self._fit_tokens(blocks, cleaner)
        ((_, column),) = features.columns.items()
        assert isinstance(column, TokenBlock)
        encoded = self._encode(blocks, cleaner, column)
        num_tokens = encoded.count(encoded.tokens)
        num_rows = [-(-count // column.length) for count in num_tokens]
        rows_per_shard = shards.rows_per_shard(features.signature.row_bytes)
        plan = plan_shards(encoded.tokens, rows_per_shard * column.length)
        files = self._write_rows(plan, encoded, features, num_rows, rows_per_shard)
        facts = {
            "rows": dict(zip(SPLITS, num_rows, strict=True)),
            "shards": {name: [s.name for s in plan if SPLITS[s.split] == name] for name in SPLITS},
            "rows_per_shard": rows_per_shard,
            "tokens": dict(zip(SPLITS, num_tokens, strict=True)),
        }
        golden = self._golden_texts(blocks, cleaner, num_rows, column)
        written = manifest.write(self._folder, features, golden, files, {**made_from, **facts})
        # Nodes write shards on their own; this detects a disk that is not shared.
        manifest.verify(self._folder, written)

    def _open_documents(self) -> tuple[list[tasks.BlockRef], Cleaner]:
        """Reads the sources, and decides which documents are dropped and how they are split."""
        blocks, total = self._read()
        self._check_column(total)
        cleaner = Cleaner(self._layout.first_test_id, self._spec.data, self._spec.seed, {})
        cleaner = replace(
            cleaner,
            duplicates=self._find_duplicates(blocks, total.num_rows),
            first_validation_id=self._layout.first_validation_id,
        )
        return blocks, split_stage.find_split(blocks, cleaner, self._layout)

    def _check_column(self, total: BlockScan) -> None:
        data = self._spec.data
        split = data.split.column
        for path, name in (("data.target", data.target), ("data.split.column", split)):
            if name is not None:
                self._require_column(path, name, total)
        self._check_target(total)
        missing = total.columns[data.target].missing
        if missing.first_row is not None and not data.clean.drops_missing_target:
            place = self._layout.describe_row(missing.first_row)
            raise DataError(
                f"{place}: {data.target}: the text is missing, here and in "
                f"{missing.count - 1:,} other rows",
                "data.clean.missing_target: drop leaves such rows out.",
            )
        prompt = None if data.chat is None else data.chat.prompt
        read = (data.target, split, prompt)
        others = [name for name in total.columns if name not in read]
        if others:
            self._report(
                f"note: only the texts of {data.target!r} are read, not {others[0]!r}"
                + (f" and {len(others) - 1} more" if len(others) > 1 else "")
            )

    def _require_column(self, path: str, name: str, total: BlockScan) -> None:
        if name not in total.columns:
            near = did_you_mean(name, total.columns, starts_sentence=True)
            hint = f"{near} There are {', '.join(total.columns)}.".lstrip()
            first = self._layout.files[0].path
            raise DataError(f"{path}: there is no column {name!r} in {first}", hint)

    def _check_target(self, total: BlockScan) -> None:
        column = total.columns[self._spec.data.target]
        if column.kinds != ("text",):
            found = " and ".join(column.kinds) or "nothing"
            raise DataError(
                f"target {self._spec.data.target!r} holds {found}, and not texts",
                "Set data.target.",
            )

    def _fit_tokens(self, blocks: Sequence[tasks.BlockRef], cleaner: Cleaner) -> Features:
        """Learns the tokens from the training documents, or takes those of a file."""
        data = self._spec.data
        column: TokenBlock | Conversations
        if data.chat is not None:
            column = check_conversations(data)
        elif data.features.text.tokenizer is not None:
            column = check_blocks(data)
        else:
            shared = tasks.share(cleaner)
            calls = [partial(token_tasks.count_words, block, shared) for block in blocks]
            total = WordCounts({}, 0, 0)
            for part in tasks.run_calls(calls, "CountWords"):
                total = total.plus(WordCounts(**part))
            options = data.features.text
            column = token_block.learn(
                total.by_bytes, options.vocabulary, data.blocks.length, options.normalisation
            )
        signature = Signature(
            "record",
            (),
            "",
            (),
            (),
            LANGUAGE,
            fields={data.target: column.field},
            num_values=column.length,
        )
        is_csv = self._layout.format == "csv"
        missing_values = tuple(data.clean.missing_values) if is_csv else ()
        return Features(
            signature, data.target, {data.target: column}, missing_values=missing_values
        )

    def _encode(
        self, blocks: Sequence[tasks.BlockRef], cleaner: Cleaner, column: TokenBlock
    ) -> _Encoded:
        shared = tasks.share((cleaner, column))
        calls = [partial(token_tasks.encode, block, shared) for block in blocks]
        made = tasks.read_blocks(calls, "EncodeDocuments")
        counts = tasks.run_calls(
            [partial(token_tasks.count_tokens, block, column.dtype) for block in made],
            "CountTokens",
        )
        # Blocks arrive in any order, and everything after this depends on the order of documents.
        found = sorted(
            (
                (one["first"], block, one["documents"], one["tokens"])
                for one, block in zip(counts, made, strict=True)
                if one["first"] is not None
            ),
            key=lambda item: item[0],
        )
        encoded = _Encoded(
            [block for _, block, *_ in found],
            [documents for *_, documents, _ in found],
            [tokens for *_, tokens in found],
        )
        documents, tokens = encoded.count(encoded.documents), encoded.count(encoded.tokens)
        self._check_documents(documents)
        texts = ", ".join(
            f"{name} {count_of(number, 'token')} of {count_of(size, 'document')}"
            for name, number, size in zip(SPLITS, tokens, documents, strict=True)
        )
        self._report(f"split: {texts}")
        self._report(
            f"features: {column.num_codes:,} codes, rows of {column.length:,} predicted tokens"
        )
        return encoded

    def _check_documents(self, documents: Sequence[int]) -> None:
        split = self._spec.data.split
        fractions = {"validation": split.validation_fraction, "test": split.test_fraction}
        for name, count in zip(SPLITS, documents, strict=True):
            if not count and (name == "train" or fractions[name]):
                hint = f"Give more documents, or set data.split.{name}_fraction to 0."
                if self._layout.format == "text" and self._spec.data.blocks.documents == "file":
                    hint += " data.blocks.documents: paragraph makes more of a file."
                message = f"of {count_of(sum(documents), 'document')} none is left for {name}"
                raise DataError(message, hint)

    def _write_rows(
        self,
        plan: Sequence[PlannedShard],
        encoded: _Encoded,
        features: Features,
        num_rows: Sequence[int],
        rows_per_shard: int,
    ) -> dict[str, Any]:
        """Writes all shards; returns their entries by name."""
        shared = tasks.share(features)
        first_rows = list(itertools.accumulate(num_rows, initial=0))
        calls = []
        for shard, following in itertools.zip_longest(plan, plan[1:]):
            pieces = shard.pieces
            is_last = following is None or following.split != shard.split
            if not is_last:
                block, start, _ = following.pieces[0]
                pieces = (*pieces, (block, start, start + 1))
            calls.append(
                partial(
                    token_tasks.write_shard,
                    replace(shard, pieces=pieces),
                    [encoded.blocks[piece[0]] for piece in pieces],
                    first_rows[shard.split] + shard.index * rows_per_shard,
                    is_last,
                    self._folder,
                    shared,
                )
            )
        entries = tasks.run_calls(calls, "WriteShards")
        num_bytes = sum(entry["bytes"] for entry in entries)
        self._report(f"wrote {count_of(len(plan), 'shard')}, {num_bytes / 1e6:,.1f} MB")
        return {shard.name: entry for shard, entry in zip(plan, entries, strict=True)}

    def _golden_texts(
        self,
        blocks: Sequence[tasks.BlockRef],
        cleaner: Cleaner,
        num_rows: Sequence[int],
        column: TokenBlock,
    ) -> list[dict[str, Any]]:
        """Beginnings of held-out documents, of the test split if it has any."""
        split = max(split for split, count in enumerate(num_rows) if count)
        most = _GOLDEN_CHARACTERS_PER_TOKEN * column.length
        texts: list[str] = []
        for block in blocks:
            count = _NUM_GOLDEN_ROWS - len(texts)
            if count <= 0:
                break
            call = partial(token_tasks.take_texts, block, cleaner, split, count, most)
            texts += tasks.run_calls([call], "GoldenRows")[0]
        return [{self._spec.data.target: text} for text in texts]
