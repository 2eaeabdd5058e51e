"""Data sets with a column of texts, prepared without Ray."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.data import manifest
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.shards import open_rows
from raydc.errors import DataError
from raydc.features import Features, Ragged, Record, Text

_WORDS = [
    "free",
    "prize",
    "call",
    "now",
    "lunch",
    "home",
    "later",
    "tomorrow",
    "müde",
    "日本",
    "ok",
]


def _rows(num_rows: int = 120) -> list[dict[str, str]]:
    rows = []
    for row in range(num_rows):
        words = [_WORDS[(row * step + step) % len(_WORDS)] for step in range(1, 2 + row % 9)]
        label = "spam" if row % 3 == 0 else "ham"
        rows.append({"label": label, "body": " ".join(words) + f" {label}", "age": str(row % 7)})
    return rows


def _write(folder: Path, rows: list[dict[str, str]], parts: int = 1) -> Path:
    """Writes rows to as many files, each of which is a block."""
    source = folder / f"rows_{parts}"
    source.mkdir(parents=True)
    for part in range(parts):
        first, last = part * len(rows) // parts, (part + 1) * len(rows) // parts
        with (source / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows[first:last])
    return source


def _prepare(folder: Path, source: Path, **features: Any) -> Prepared:
    columns = {"columns": {"body": "text"}, "text": {"vocabulary": 300}, **features}
    data = {"source": str(source), "features": columns}
    return prepare_here(folder, data)[0]


def test_texts_are_fitted_and_stored_beside_numbers(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path, _write(tmp_path, _rows()))
    signature = prepared.features.signature
    assert signature.kind == "record"
    assert list(signature.fields) == ["columns", "body"]
    column = prepared.features.columns["body"]
    assert isinstance(column, Text)
    assert 256 < column.num_codes <= 300
    assert "body" in prepared.features.always_given
    golden = read_golden_rows(prepared.folder)
    x = prepared.features.apply(prepared.features.from_json_rows(golden))
    assert isinstance(x, Record)
    assert x.fields["body"].lengths.min() > 0


def test_tokens_do_not_depend_on_blocks(tmp_path: Path) -> None:
    test = str(_write(tmp_path / "test", _rows(20)))
    found = []
    for parts in (1, 2, 4):
        features = {"columns": {"body": "text"}, "text": {"vocabulary": 300}}
        data = {
            "source": {"train": str(_write(tmp_path, _rows(), parts)), "test": test},
            "features": features,
            # Row ids depend on files, and with them a split of the training rows.
            "split": {"validation_fraction": 0.0},
        }
        prepared = prepare_here(tmp_path / f"storage_{parts}", data)[0]
        x, _ = open_rows(prepared.folder, "train").gather(np.arange(120))
        assert isinstance(x, Record)
        lists = x.fields["body"]
        assert isinstance(lists, Ragged)
        found.append((prepared.features.hash, lists.values_N.tobytes(), lists.offsets.tobytes()))
    assert found[0] == found[1] == found[2]


def test_held_out_texts_teach_no_tokens(tmp_path: Path) -> None:
    rows = _rows()
    source = {"train": str(_write(tmp_path / "t", rows)), "test": ""}
    found = []
    for word in ("zebra", "quagga"):
        held_out = [{**row, "body": f"{word} {word} {word}"} for row in rows[:20]]
        source["test"] = str(_write(tmp_path / word, held_out))
        features = {"columns": {"body": "text"}, "text": {"vocabulary": 400}}
        data = {"source": dict(source), "features": features}
        found.append(prepare_here(tmp_path / f"storage_{word}", data)[0].features)
    assert found[0] == found[1]


def test_numbers_in_a_column_of_texts_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    table = pa.table({"label": ["a", "b"] * 15, "body": list(range(30))})
    pq.write_table(table, source)
    with pytest.raises(DataError, match="column 'body' is declared text, but holds number"):
        _prepare(tmp_path, source)


@pytest.mark.parametrize("name", ["body.length", "columns"])
def test_a_column_named_like_an_input_of_raydc_is_refused(tmp_path: Path, name: str) -> None:
    rows = [{**row, name: row["body"]} for row in _rows()]
    source = _write(tmp_path, rows)
    with pytest.raises(DataError, match=f"the column '{name}' has a name that raydc gives"):
        _prepare(tmp_path, source, columns={"body": "text", name: "text"})


def test_options_of_texts_name_another_data_set_and_defaults_do_not(tmp_path: Path) -> None:
    source = _write(tmp_path, _rows())
    plain = prepare_here(tmp_path, {"source": str(source)})[0]
    # Without `text`, as a raydc before it named the data set.
    assert "text" not in manifest.read(plain.folder)["data"]["features"]
    names = {_prepare(tmp_path, source, text={"vocabulary": n}).folder.uri for n in (280, 290)}
    assert len(names) == 2


def test_features_with_texts_survive_their_file(tmp_path: Path) -> None:
    features = _prepare(tmp_path, _write(tmp_path, _rows())).features
    again = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features
    assert again.hash == features.hash
