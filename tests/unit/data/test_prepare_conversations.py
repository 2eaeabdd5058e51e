"""Preparing conversations: from JSON Lines, Parquet and columns of prompts to packed rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from decoder_folders import END, VOCABULARY, WORDS, decoder_spec, write_decoder
from prepared_here import prepare_here

from raydc import spec as specs
from raydc.data.chat_stages import pack
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.shards import open_rows
from raydc.errors import DataError
from raydc.features.conversation_column import BEGINS, LEARNT

LENGTH, NUM_CODES = 30, len(VOCABULARY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"))


def question(number: int) -> str:
    return " ".join(WORDS[(number + step) % 11] for step in range(1 + number % 7))


def answer(number: int) -> str:
    return " ".join(WORDS[(number * step) % 11] for step in range(1, 2 + number % 5))


def talk(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": question(number)},
        {"role": "assistant", "content": answer(number)},
    ]


ROWS = [{"id": number, "messages": talk(number)} for number in range(60)]
# No answer; one of 35 tokens, whose first 31 hold one answer; and one answer behind many questions.
ROWS[7]["messages"] = talk(3)[:1]
ROWS[9]["messages"] = talk(13) + talk(13)
ROWS[12]["messages"] = [*[{"role": "user", "content": question(6)}] * 4, *talk(2)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def prepare(
    place: Path, folder: Path, source: Path, rows_per_block: int | None = None, **chat: Any
) -> tuple[Prepared, list[str]]:
    data = {
        "source": str(source),
        "chat": chat,
        "blocks": {"length": LENGTH},
        "split": {"validation_fraction": 0.2, "test_fraction": 0.2},
    }
    spec = specs.resolve(specs.from_dict(decoder_spec(folder, data)))
    place.mkdir(exist_ok=True)
    return prepare_here(place, specs.to_dict(spec), "talks", rows_per_block)


def rows_of(data: Prepared, split: str) -> tuple[Any, Any]:
    rows = open_rows(data.folder, split)
    x, y_B = rows.gather(np.arange(len(rows)))
    ((_, tokens_BM),) = x.fields.items()  # type: ignore[union-attr]
    return tokens_BM.astype(np.int64), y_B


def test_packing_takes_conversations_in_turn() -> None:
    assert pack([3, 4, 3, 10, 1, 9], 10) == [3, 1, 2]
    assert pack([], 10) == []


def test_all_answers_are_learnt_once_and_conversations_stay_whole(
    tmp_path: Path, folder: Path
) -> None:
    source = write_lines(tmp_path / "talks.jsonl", ROWS)
    data, lines = prepare(tmp_path / "a", folder, source)
    found = []
    for split in ("train", "validation", "test"):
        tokens_BM, counts_B = rows_of(data, split)
        assert tokens_BM.shape[1] == LENGTH + 1
        codes_BM, marks_BM = tokens_BM % NUM_CODES, tokens_BM // NUM_CODES
        assert ((marks_BM & LEARNT) > 0).sum(1).tolist() == counts_B.tolist()
        # No row goes on with a conversation of the one before.
        assert (marks_BM[:, 0] & BEGINS).all()
        for codes, marks in zip(codes_BM, marks_BM, strict=True):
            words = [VOCABULARY[code] for code in codes[marks & LEARNT > 0]]
            found += " ".join(words).split(f" {END}")[:-1]
    kept = [row["messages"] for row in ROWS if row["id"] not in (7, 9, 12)]
    assert sorted(text.strip() for text in found) == sorted(one[1]["content"] for one in kept)
    notes = [line for line in lines if line.startswith("note: ") and "conversation" in line]
    assert notes == [
        "note: 1 conversation without an answer that could be learnt left out; the first is "
        f"{source}: line 8",
        f"note: 2 conversations of more than 31 tokens left out; the first is {source}: line 10",
    ]
    assert any("learnt tokens of" in line and line.startswith("split: train") for line in lines)


def test_long_conversations_are_cut_and_counted(tmp_path: Path, folder: Path) -> None:
    source = write_lines(tmp_path / "talks.jsonl", ROWS)
    data, lines = prepare(tmp_path / "a", folder, source, long="cut")
    notes = [line for line in lines if line.startswith("note: ") and "conversation" in line]
    # Of the last one nothing that is learnt is left.
    assert "2 conversations without an answer" in notes[0]
    assert notes[1:] == [
        f"note: 1 conversation cut after 31 tokens; the first is {source}: line 10"
    ]
    assert sum(data.num_rows.values()) > 0


def test_the_form_of_the_source_and_its_blocks_change_no_row(tmp_path: Path, folder: Path) -> None:
    lines = write_lines(tmp_path / "talks.jsonl", ROWS[:6] + ROWS[13:])
    table = pa.Table.from_pylist(ROWS[:6] + ROWS[13:])
    pq.write_table(table, tmp_path / "talks.parquet", row_group_size=7)
    pairs = [
        {"ask": row["messages"][0]["content"], "response": row["messages"][1]["content"]}
        for row in ROWS[:6] + ROWS[13:]
    ]
    of_pairs = write_lines(tmp_path / "pairs.jsonl", pairs)
    made = [
        prepare(tmp_path / "a", folder, lines)[0],
        prepare(tmp_path / "b", folder, lines, rows_per_block=5)[0],
        prepare(tmp_path / "c", folder, tmp_path / "talks.parquet")[0],
        prepare(tmp_path / "d", folder, of_pairs, prompt="ask")[0],
    ]
    for split in ("train", "validation", "test"):
        expected = rows_of(made[0], split)
        for other in made[1:]:
            assert all(map(np.array_equal, rows_of(other, split), expected))
    assert [list(one.features.columns) for one in made] == [["messages"]] * 3 + [["response"]]
    # Golden rows are conversations as a client would send them.
    golden = read_golden_rows(made[2].folder)[0]
    assert json.loads(golden["messages"])[0]["role"] == "user"
    x = made[2].features.apply({"messages": [golden["messages"]]})
    assert x.fields["messages"].shape == (1, LENGTH + 1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "chat", "message"),
    [
        ({"messages": "hello"}, {}, "line 3: messages: 'hello' is not a list of messages"),
        ({"messages": [{"role": "user"}]}, {}, r"line 3: messages\[0\].content: None is not text"),
        ({"text": "a"}, {}, "line 3: messages"),
    ],
    ids=str,
)
def test_rows_that_are_no_conversations_are_named(
    tmp_path: Path, folder: Path, row: dict[str, Any], chat: dict[str, Any], message: str
) -> None:
    source = write_lines(tmp_path / "talks.jsonl", [*ROWS[:2], row, *ROWS[2:]])
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "a", folder, source, **chat)


def test_a_column_of_prompts_that_is_not_there_or_has_gaps(tmp_path: Path, folder: Path) -> None:
    rows = [{"ask": "the cat", "response": "a dog"} for _ in range(20)]
    source = write_lines(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match=r"data.chat.prompt: there is no column 'aks'.*"):
        prepare(tmp_path / "a", folder, source, prompt="aks")
    with pytest.raises(DataError, match=r"data\.target: there is no column 'messages'"):
        prepare(tmp_path / "a", folder, source)
    del rows[4]["ask"]
    write_lines(source, rows)
    with pytest.raises(DataError, match=r"'ask' holds text, .*line 5 nothing, and not texts"):
        prepare(tmp_path / "a", folder, source, prompt="ask")
