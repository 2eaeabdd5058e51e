"""Rows of SQL and of functions: ids from the key, content in the hash, a message for a fault."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_here import prepare_here

from raydc.data import keyed_rows, shards
from raydc.data.prepared import Prepared
from raydc.errors import DataError, SpecError
from raydc.storage import sha256

NUM_ROWS = 120


def _rows(num_rows: int = NUM_ROWS) -> list[dict[str, Any]]:
    generator = np.random.default_rng(3)
    return [
        {
            "id": 1000 + 3 * row,
            "code": f"c{row}",
            "a": float(generator.normal()) if row % 9 else None,
            "city": ("Rome", "Oslo")[int(generator.integers(2))],
            "y": ("no", "yes")[row % 2],
        }
        for row in range(num_rows)
    ]


def _database(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE people (id INT, code TEXT, a REAL, city TEXT, y TEXT)")
        cells = [tuple(row.values()) for row in rows]
        database.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?)", cells)
        database.commit()
    return f"sqlite:///{path}"


def _query(folder: Path, rows: list[dict[str, Any]], key: str = "id", order: str = "") -> Any:
    sql = f"SELECT * FROM people {order}"
    return {
        "source": {"sql": sql, "connection": _database(folder, rows), "key": key},
        "target": "y",
        "features": {"exclude": ["code"] if key == "id" else ["id"]},
    }


def huge(number: int) -> Iterator[Any]:
    """Rows of a user's function, of which the third has a large number."""
    for row in _rows():
        yield {**row, "a": number} if row["code"] == "c2" else row


def stream(num_rows: int = NUM_ROWS, fault: str = "") -> Iterator[Any]:
    """Rows as a user's function yields them."""
    for row in _rows(num_rows):
        if fault == "error" and row["code"] == "c3":
            raise ValueError("the service is down")
        if fault == "text" and row["code"] == "c3":
            yield "a line"
        if fault == "type" and row["code"] == "c3":
            row["a"] = "much"
        yield row


def _contents(prepared: Prepared) -> dict[str, str]:
    path = prepared.folder.local_path
    return {file.name: sha256(file.read_bytes()) for file in sorted(path.iterdir())}


def _ids(prepared: Prepared) -> dict[str, list[int]]:
    return {
        name: shards.open_rows(prepared.folder, name).ids.tolist()
        for name in ("train", "validation", "test")
    }


@pytest.mark.parametrize("key", ["id", "code"])
def test_order_of_a_query_changes_nothing(tmp_path: Path, key: str) -> None:
    one, _ = prepare_here(tmp_path / "one", _query(tmp_path, _rows(), key))
    other, _ = prepare_here(
        tmp_path / "two",
        {**_query(tmp_path, _rows()[::-1], key), "clean": {}},
        rows_per_block=17,
    )
    # The text of the query is not part of the data.
    assert _contents(one) == _contents(other)
    assert one.data_hash == other.data_hash
    assert key not in one.features.columns
    # Nothing stays beside the data set.
    assert len(list((tmp_path / "one" / "storage" / "data").iterdir())) == 1


def test_ids_are_those_of_the_key_and_stay_when_rows_come(tmp_path: Path) -> None:
    rows = _rows()
    all_rows, _ = prepare_here(tmp_path / "one", _query(tmp_path, rows))
    found = sorted(row_id for ids in _ids(all_rows).values() for row_id in ids)
    assert found == [row["id"] for row in rows]
    for key in ("id", "code"):
        whole = _ids(prepare_here(tmp_path / f"{key}-1", _query(tmp_path, rows, key))[0])
        less = _ids(prepare_here(tmp_path / f"{key}-2", _query(tmp_path, rows[7:], key))[0])
        for name, ids in less.items():
            assert set(ids) <= set(whole[name])


def test_changed_value_makes_another_data_set(tmp_path: Path) -> None:
    rows = _rows()
    one, _ = prepare_here(tmp_path, _query(tmp_path, rows))
    assert prepare_here(tmp_path, _query(tmp_path, rows))[0].reused
    rows[5]["city"] = "Lima"
    other, _ = prepare_here(tmp_path, _query(tmp_path, rows))
    assert other.data_hash != one.data_hash


def test_function_and_query_give_the_same_rows(tmp_path: Path) -> None:
    query, _ = prepare_here(tmp_path / "one", _query(tmp_path, _rows(40)))
    source = {"function": "test_keyed_rows:stream", "key": "id", "arguments": {"num_rows": 40}}
    data = {"source": source, "target": "y", "features": {"exclude": ["code"]}}
    function, _ = prepare_here(tmp_path / "two", data)
    assert _ids(function) == _ids(query)
    assert function.features == query.features


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1006}, r"query .*: rows 3 and 6 have the same id, '1006'"),
        ({"id": None}, r"query .*: row 6 has no id, which is the key"),
        ({"y": None}, r"query .*: row with id = 1015: y: the target is missing"),
    ],
)
def test_row_with_a_fault_is_named_by_its_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    rows = _rows()
    rows[5].update(change)
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, _query(tmp_path, rows))
    assert list((tmp_path / "storage").rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"sql": "SELECT * FROM pepole"}, r"query 'SELECT \* FROM pepole' failed: no such table"),
        ({"sql": "SELECT 1 AS id, 2 AS id"}, "has two columns 'id'"),
        ({"key": "uid"}, r"there is no column 'uid', which is the key\n.*id, code, a"),
        ({"connection": "sqlite:////nowhere.db"}, "failed: unable to open database file"),
        ({"connection": "$NO_SUCH_VARIABLE"}, "variable NO_SUCH_VARIABLE is not set"),
    ],
)
def test_query_that_cannot_be_read_is_named(
    tmp_path: Path, source: dict[str, Any], message: str
) -> None:
    data = _query(tmp_path, _rows(10))
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, {**data, "source": {**data["source"], **source}})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"function": "test_keyed_rows:steam"}, "module test_keyed_rows has no function steam"),
        ({"function": "no_such_module:rows"}, "cannot import no_such_module: No module named"),
        ({"arguments": {"fault": "error"}}, "failed: ValueError: the service is down"),
        ({"arguments": {"fault": "text"}}, "row 4 is 'a line', not a dict"),
        (
            {"arguments": {"fault": "type"}},
            "row with id = 1009: a: 'much' is a str, but the first value",
        ),
        ({"arguments": {"num_rows": 0}}, "there is no column 'id', which is the key"),
    ],
)
def test_function_that_fails_is_named(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    whole = {"function": "test_keyed_rows:stream", "key": "id", **source}
    with pytest.raises(DataError, match=f"function {whole['function']}.*{message}"):
        prepare_here(tmp_path, {"source": whole, "target": "y"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"sql": "SELECT 1", "connection": "sqlite:///x"}, "key"),
        ({"sql": "SELECT 1", "connection": "postgresql://u:secret@h/d", "key": "id"}, r"\$NAME"),
        ({"sql": "SELECT 1", "connection": "mysql://h/d", "key": "id"}, "must begin with"),
        ({"function": "rows", "key": "id"}, "function"),
    ],
)
def test_source_that_says_too_little_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        prepare_here(Path("/nowhere"), {"source": source})
    assert "unable to parse" not in str(caught.value)


def test_hashed_ids_do_not_depend_on_the_order_of_their_keys() -> None:
    keys = ["b", "a", -7, 2.5, "10"]
    ids = keyed_rows.make_ids("q", "k", keys)
    assert ids.tolist() == keyed_rows.make_ids("q", "k", keys[::-1]).tolist()[::-1]
    assert len(set(ids.tolist())) == 5
    assert ((ids >= 0) & (ids < 1 << 40)).all()


def test_id_of_a_row_stays_when_keys_of_another_kind_come() -> None:
    numbers = keyed_rows.make_ids("q", "k", [1, 2, 3]).tolist()
    texts = keyed_rows.make_ids("q", "k", ["b", "a"]).tolist()
    assert numbers == [1, 2, 3]
    for other in (-1, 1 << 40, 2.5, True):
        assert keyed_rows.make_ids("q", "k", [1, 2, 3, other]).tolist()[:3] == numbers
        assert keyed_rows.make_ids("q", "k", [other, "b", "a"]).tolist()[1:] == texts


def test_hash_takes_no_id_of_a_whole_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_rows, "_hash_of", lambda text: 7)
    assert keyed_rows.make_ids("q", "k", ["a", 8, 7, "b"]).tolist() == [9, 8, 7, 10]


def test_keys_with_one_hash_get_different_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_rows, "_NUM_IDS", 4)
    monkeypatch.setattr(keyed_rows, "_hash_of", lambda text: 3)
    assert keyed_rows.make_ids("q", "k", ["b", "a", "c"]).tolist() == [0, 3, 1]


def test_whole_number_beyond_64_bits_is_a_float_or_is_refused(tmp_path: Path) -> None:
    source = {"function": "test_keyed_rows:huge", "key": "id", "arguments": {"number": 10**30}}
    data = {"source": source, "target": "y", "features": {"exclude": ["code"]}}
    made, _ = prepare_here(tmp_path / "one", data)
    assert sum(made.num_rows.values()) == NUM_ROWS
    source["arguments"] = {"number": 10**400}
    with pytest.raises(DataError, match=r"row with id = 1006: a: .*beyond the range of 64-bit"):
        prepare_here(tmp_path / "two", data)
