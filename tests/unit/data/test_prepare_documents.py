"""Documents that become rows of tokens, prepared without Ray."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.data import manifest, shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.shards import open_rows
from raydc.errors import DataError
from raydc.features import TokenBlock
from raydc.features.byte_pairs import NUM_BYTES
from raydc.storage import Storage

LENGTH = 16


def make_documents(count: int = 60) -> list[str]:
    words = ["the", "cat", "sees", "a", "dog", "müde", "日本", "and\nthen"]
    return [
        " ".join(words[(row * step + step) % len(words)] for step in range(1, 2 + row % 13)) + "."
        for row in range(count)
    ]


def prepare_texts(
    folder: Path, source: Path | dict[str, str], **data: Any
) -> tuple[Prepared, list[str]]:
    section = {
        "source": source if isinstance(source, dict) else str(source),
        "task": "language_modelling",
        "features": {"text": {"vocabulary": 300}},
        "split": {"validation_fraction": 0.2, "test_fraction": 0.2},
        **data,
        "blocks": {"length": LENGTH, "documents": "paragraph", **data.get("blocks", {})},
    }
    return prepare_here(folder, section)


def write_text(folder: Path, documents: list[str], name: str = "a.txt") -> Path:
    path = folder / name
    path.write_text("\n\n\n".join(documents) + "\n")
    return path


def block_of(prepared: Prepared) -> TokenBlock:
    (block,) = prepared.features.columns.values()
    assert isinstance(block, TokenBlock)
    return block


def stream_of(prepared: Prepared, split: str) -> list[int]:
    """What the rows of a split predict, one token behind the other."""
    rows = open_rows(prepared.folder, split)
    x, counts = rows.gather(np.arange(len(rows)))
    tokens = x.fields["text"]  # type: ignore[union-attr]
    assert tokens.shape[1] == LENGTH + 1  # type: ignore[union-attr]
    assert (tokens[1:, 0] == tokens[:-1, -1]).all()  # type: ignore[index]
    return [code for row, n in zip(tokens, counts, strict=True) for code in row[1 : n + 1].tolist()]


def texts_of(block: TokenBlock, stream: list[int]) -> list[str]:
    """Documents of a stream, in which an end stands behind each."""
    texts = [bytes([code]) for code in range(NUM_BYTES)]
    for first, second in zip(block.merges[::2], block.merges[1::2], strict=True):
        texts.append(texts[first] + texts[second])
    assert stream[-1] == block.end_code
    found = [b""]
    for code in stream[:-1]:
        if code == block.end_code:
            found.append(b"")
        else:
            found[-1] += texts[code]
    return [text.decode() for text in found]


def test_every_document_is_in_one_split_with_its_end(tmp_path: Path) -> None:
    documents = make_documents()
    prepared, lines = prepare_texts(tmp_path, write_text(tmp_path, documents))
    block = block_of(prepared)
    found = {split: texts_of(block, stream_of(prepared, split)) for split in shards.SPLITS}
    assert sorted(itertools.chain(*found.values())) == sorted(documents)
    # In the order of the file.
    for texts in found.values():
        places = [documents.index(text) for text in texts]
        assert len(texts) > 5
        assert [documents[place] for place in sorted(places)] == texts
    tokens = manifest.read(prepared.folder)["tokens"]
    assert tokens == {split: len(stream_of(prepared, split)) for split in shards.SPLITS}
    told = f"test {tokens['test']:,} tokens of {len(found['test'])} documents"
    assert any(told in line for line in lines)
    golden = read_golden_rows(prepared.folder)
    assert [row["text"] for row in golden] == found["test"][:4]


def test_content_does_not_depend_on_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_text(tmp_path, make_documents())
    one, _ = prepare_texts(tmp_path / "one", source)
    monkeypatch.setattr("raydc.data.shards.rows_per_shard", lambda row_bytes: 3)
    many, _ = prepare_texts(tmp_path / "many", source)
    assert len(manifest.read(many.folder)["shards"]["train"]) > 5
    for split in shards.SPLITS:
        assert stream_of(many, split) == stream_of(one, split)
        assert (open_rows(many.folder, split).ids == open_rows(one.folder, split).ids).all()
    everything = [one for split in shards.SPLITS for one in open_rows(many.folder, split).ids]
    assert everything == list(range(len(everything)))


def test_tokens_are_learnt_from_training_documents_only(tmp_path: Path) -> None:
    documents = make_documents()
    first, _ = prepare_texts(tmp_path / "first", write_text(tmp_path, documents))
    held_out = texts_of(block_of(first), stream_of(first, "test"))
    changed = [text.replace("cat", "xylophone") if text in held_out else text for text in documents]
    assert changed != documents
    second, _ = prepare_texts(tmp_path / "second", write_text(tmp_path, changed, "b.txt"))
    assert second.features == first.features
    assert stream_of(second, "train") == stream_of(first, "train")
    assert stream_of(second, "test") != stream_of(first, "test")


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", ["one\ntwo\n\n \nthree\n", "four"]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("line", ["one", "two", "three", "four"]),
    ],
)
def test_what_a_document_is(tmp_path: Path, documents: str, expected: list[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    # The mark of UTF-8 and the line breaks of Windows.
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \r\nthree\r\n")
    (folder / "b.txt").write_text("four")
    (folder / "empty.txt").write_text("")
    (folder / "notes.md").write_text("not read")
    parts = {"train": str(folder), "test": str(folder / "b.txt")}
    prepared, _ = prepare_texts(
        tmp_path,
        parts,
        blocks={"documents": documents},
        split={"validation_fraction": 0.0},
    )
    assert texts_of(block_of(prepared), stream_of(prepared, "train")) == expected
    assert texts_of(block_of(prepared), stream_of(prepared, "test")) == ["four"]


def test_a_column_of_a_table(tmp_path: Path) -> None:
    documents = make_documents()
    table = pa.table({"id": list(range(60)), "body": documents})
    pq.write_table(table, tmp_path / "rows.parquet")
    from_table, lines = prepare_texts(tmp_path, tmp_path / "rows.parquet", target="body")
    assert any("only the texts of 'body' are read, not 'id'" in line for line in lines)
    found = [stream_of_body(from_table, split) for split in shards.SPLITS]
    assert sorted(itertools.chain(*found)) == sorted(documents)
    # Lines of JSON hold the same documents, and the same ids give the same splits.
    rows = "".join(json.dumps({"body": text}) + "\n" for text in documents)
    (tmp_path / "rows.jsonl").write_text(rows)
    from_lines, _ = prepare_texts(tmp_path, tmp_path / "rows.jsonl", target="body")
    assert found == [stream_of_body(from_lines, split) for split in shards.SPLITS]


def stream_of_body(prepared: Prepared, split: str) -> list[str]:
    rows = open_rows(prepared.folder, split)
    x, counts = rows.gather(np.arange(len(rows)))
    tokens = x.fields["body"]  # type: ignore[union-attr]
    stream = [c for row, n in zip(tokens, counts, strict=True) for c in row[1 : n + 1].tolist()]
    return texts_of(block_of(prepared), stream)


def test_missing_and_repeated_documents(tmp_path: Path) -> None:
    texts = [*make_documents(), None, make_documents()[7]]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet: row 61: text: the text is missing"):
        prepare_texts(tmp_path, tmp_path / "rows.parquet")
    clean = {"missing_target": "drop", "duplicates": "drop"}
    prepared, _ = prepare_texts(tmp_path, tmp_path / "rows.parquet", clean=clean)
    found = [
        text for s in shards.SPLITS for text in texts_of(block_of(prepared), stream_of(prepared, s))
    ]
    assert sorted(found) == sorted(set(make_documents()))


def test_bad_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n\nb\n\nc")
    with pytest.raises(DataError, match=r"a.txt: it is not text in UTF-8") as caught:
        prepare_texts(tmp_path, tmp_path / "a.txt")
    assert "iconv" in str(caught.value.hint)
    (tmp_path / "b.txt").write_text("one document\n\nonly")
    with pytest.raises(DataError, match="none is left for validation") as caught:
        prepare_texts(tmp_path, tmp_path / "b.txt", blocks={"documents": "file"})
    assert "data.blocks.documents: paragraph" in str(caught.value.hint)
    pq.write_table(pa.table({"text": [1.5, 2.5]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="target 'text' holds number, and not texts"):
        prepare_texts(tmp_path, tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"there is no column 'txt' in .*c.parquet"):
        prepare_texts(tmp_path, tmp_path / "c.parquet", target="txt")
    (tmp_path / "d.txt").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="ZIP"):
        prepare_texts(tmp_path, tmp_path / "d.txt")


def test_texts_beside_a_table_are_not_left_out_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    write_text(folder, make_documents())
    (folder / "index.csv").write_text("text\none\ntwo\nthree\n")
    with pytest.raises(DataError, match="holds several formats: csv, text"):
        prepare_texts(tmp_path, folder)
    _, lines = prepare_texts(tmp_path, folder, format="text")
    assert any("60 documents" in line or "read 60 rows" in line for line in lines)


def test_other_blocks_are_another_data_set(tmp_path: Path) -> None:
    source = write_text(tmp_path, make_documents())
    paragraphs, _ = prepare_texts(tmp_path, source)
    lines, _ = prepare_texts(tmp_path, source, blocks={"documents": "line"})
    again, _ = prepare_texts(tmp_path, source)
    assert paragraphs.folder.uri == again.folder.uri != lines.folder.uri
    assert isinstance(again.folder, Storage)
