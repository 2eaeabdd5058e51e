"""Tables that are joined to the rows by a key: exact at any cut, and named where it cannot be."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from contextlib import closing
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dirty import kept_rows
from prepared_here import prepare_here

from raydc.data import joins, manifest, source_check
from raydc.data.prepared import Prepared
from raydc.errors import DataError, SpecError
from raydc.spec import from_dict, resolve
from raydc.storage import sha256

NUM_ROWS = 90
SHOPS = {str(n): {"city": ("Rome", "Oslo")[n % 2], "size": n * 10} for n in range(10)}


def _orders() -> list[dict[str, Any]]:
    choose = np.random.default_rng(0)
    return [
        # Shops 10 and 11 are in no table, and some rows name none.
        {"shop": "" if row % 13 == 0 else int(choose.integers(0, 12)), "a": row, "y": "ny"[row % 2]}
        for row in range(NUM_ROWS)
    ]


def _csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def _shops(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": key, **shop} for key, shop in SHOPS.items()]


def _data(folder: Path, **join: Any) -> dict[str, Any]:
    """Rows of orders with the shops that a CSV file has."""
    orders = _csv(folder / "orders.csv", _orders())
    path = join.pop("path", None) or _csv(folder / "shops.csv", _shops())
    return {
        "source": orders,
        "target": "y",
        "joins": [{"path": path, "key": "id", "on": "shop", **join}],
        "features": {"exclude": ["shop"]},
    }


def _contents(prepared: Prepared) -> dict[str, str]:
    files = sorted(prepared.folder.local_path.iterdir())
    return {file.name: sha256(file.read_bytes()) for file in files}


def _prepare(folder: Path, data: dict[str, Any]) -> tuple[Prepared, list[str]]:
    made = []
    for cut in (None, 17, 4):
        (folder / f"cut-{cut}").mkdir(parents=True)
        made.append(prepare_here(folder / f"cut-{cut}", data, rows_per_block=cut))
    assert _contents(made[0][0]) == _contents(made[1][0]) == _contents(made[2][0])
    assert made[0][1] == made[1][1] == made[2][1]
    return made[0]


def test_each_row_gets_the_columns_of_its_key_and_keeps_its_place(tmp_path: Path) -> None:
    with kept_rows() as rows:
        prepared, lines = _prepare(tmp_path, _data(tmp_path))
    for number, order in enumerate(_orders(), start=1):
        shop = SHOPS.get(str(order["shop"]), {})
        found = {name: rows[number].get(name) for name in ("a", "city", "size")}
        assert found == {"a": order["a"], "city": shop.get("city"), "size": shop.get("size")}
    num_without = sum(str(order["shop"]) not in SHOPS for order in _orders())
    path = tmp_path / "shops.csv"
    assert f"join with {path}: {num_without} of 90 rows have no match" in lines
    assert list(prepared.features.columns) == ["a", "city", "size"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "folder"])
def test_formats_and_orders_of_the_table_give_the_same_rows(tmp_path: Path, kind: str) -> None:
    plain, _ = _prepare(tmp_path / "plain", _data(tmp_path))
    other, shops = tmp_path / f"shops.{kind}", _shops()[::-1]
    if kind == "parquet":
        table = pa.Table.from_pylist([{**shop, "id": float(shop["id"])} for shop in shops])
        pq.write_table(table, other, row_group_size=3)
    elif kind == "jsonl":
        other.write_text("".join(json.dumps({**s, "id": int(s["id"])}) + "\n" for s in shops))
    else:
        other.mkdir()
        _csv(other / "0.csv", shops[:4])
        _csv(other / "1.csv", shops[4:])
    made, _ = _prepare(tmp_path / "other", _data(tmp_path, path=str(other)))
    assert made.features == plain.features
    shards = [
        {name: digest for name, digest in _contents(one).items() if name.endswith(".arrow")}
        for one in (plain, made)
    ]
    assert shards[0]
    assert shards[0] == shards[1]


def test_content_of_the_table_belongs_to_the_data_and_its_place_does_not(tmp_path: Path) -> None:
    data = _data(tmp_path)
    first, _ = prepare_here(tmp_path, data)
    assert prepare_here(tmp_path, data)[0].reused
    (tmp_path / "moved").mkdir()
    moved = _csv(tmp_path / "moved" / "shops.csv", _shops())
    assert prepare_here(tmp_path, _data(tmp_path, path=moved))[0].reused
    shops = _shops()
    shops[3]["size"] = 31
    _csv(tmp_path / "shops.csv", shops)
    changed, _ = prepare_here(tmp_path, data)
    assert changed.data_hash != first.data_hash
    assert not changed.reused
    # A data set without joins is named as it always was.
    plain = {name: part for name, part in data.items() if name != "joins"}
    facts = manifest.read(prepare_here(tmp_path, plain)[0].folder)
    assert "joined" not in facts
    assert "joins" not in facts["data"]


def test_several_tables_one_after_the_other(tmp_path: Path) -> None:
    cities = [{"city": "Rome", "people": 3}, {"city": "Oslo", "people": 1}]
    data = _data(tmp_path, columns=["city"], prefix="shop_")
    second = {"path": _csv(tmp_path / "cities.csv", cities), "key": "city", "on": "shop_city"}
    with kept_rows() as rows:
        prepared, _ = _prepare(tmp_path, {**data, "joins": [*data["joins"], second]})
    assert list(prepared.features.columns) == ["a", "shop_city", "people"]
    assert {row.get("people") for row in rows.values()} == {None, 1, 3}
    people = {"Rome": 3, "Oslo": 1, None: None}
    assert all(row.get("people") == people[row.get("shop_city")] for row in rows.values())


def test_rows_of_a_query_and_lists_are_joined(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "rows.db")) as database:
        database.execute("CREATE TABLE t (id, shop, y)")
        cells = [(row, order["shop"] or None, order["y"]) for row, order in enumerate(_orders())]
        database.executemany("INSERT INTO t VALUES (?, ?, ?)", cells)
        database.commit()
    query = {"sql": "SELECT * FROM t", "connection": f"sqlite:///{tmp_path}/rows.db", "key": "id"}
    shops = [{"id": key, "sales": [1.0] * (int(key) % 4)} for key in SHOPS]
    pq.write_table(pa.Table.from_pylist(shops), tmp_path / "shops.parquet")
    data = {**_data(tmp_path, path=str(tmp_path / "shops.parquet")), "source": query}
    with kept_rows() as rows:
        prepared, _ = _prepare(tmp_path, data)
    assert prepared.features.signature.fields["sales"].form == "list"
    for number, order in enumerate(_orders(), start=1):
        key = str(order["shop"] or "")
        expected = [1.0] * (int(key) % 4) if key in SHOPS else None
        assert rows[number].get("sales") == expected


_DAYS = [date(2024, 1, 1) + timedelta(days=number) for number in range(20)]


def _written(path: Path, kind: str, columns: dict[str, Any]) -> str:
    """Writes a table as Parquet, with its types, or as CSV."""
    if kind != "parquet":
        names = list(columns)
        rows = [
            dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
        ]
        return _csv(path.with_suffix(".csv"), rows)
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"), row_group_size=7)
    return str(path.with_suffix(".parquet"))


@pytest.mark.parametrize("kinds", [("csv", "parquet"), ("parquet", "csv"), ("parquet", "parquet")])
@pytest.mark.parametrize("form", ["days", "times", "dictionary"])
def test_days_are_keys_whatever_formats_hold_them(
    tmp_path: Path, kinds: tuple[str, str], form: str
) -> None:
    days: list[Any] = list(_DAYS)
    if form == "times":
        days = [datetime(2024, 1, 1, 7) + timedelta(hours=number) for number in range(20)]
    rows = {"day": [days[row % 20] for row in range(60)], "a": list(range(60)), "y": [0, 1] * 30}
    table = {"day": days[:15], "size": [number * 10 for number in range(15)]}
    if form == "dictionary" and kinds[0] == "parquet":
        rows["day"] = pa.array(rows["day"], pa.date32()).dictionary_encode()
    if form == "dictionary" and kinds[1] == "parquet":
        table["day"] = pa.array(table["day"], pa.date32()).dictionary_encode()
    data = {
        "source": _written(tmp_path / "rows", kinds[0], rows),
        "target": "y",
        "joins": [{"path": _written(tmp_path / "table", kinds[1], table), "key": "day"}],
        "features": {"exclude": ["day"]},
    }
    with kept_rows() as found:
        _, lines = prepare_here(tmp_path, data)
    assert any("15 of 60 rows have no match" in line for line in lines)
    sizes = [row % 20 * 10 if row % 20 < 15 else None for row in range(60)]
    assert [found[row + 1].get("size") for row in range(60)] == sizes


@pytest.mark.parametrize("prefix", ["", "t_"])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_joined_days_that_are_categories_are_as_written(
    tmp_path: Path, prefix: str, is_dictionary: bool
) -> None:
    since: Any = pa.array(_DAYS[:3], pa.date32())
    table = {"id": ["0", "1", "2"], "since": since.dictionary_encode() if is_dictionary else since}
    rows = {"id": [row % 3 for row in range(60)], "a": list(range(60)), "y": [0, 1] * 30}
    data = {
        "source": _written(tmp_path / "rows", "csv", rows),
        "target": "y",
        "joins": [
            {"path": _written(tmp_path / "t", "parquet", table), "key": "id", "prefix": prefix}
        ],
        "features": {"columns": {f"{prefix}since": "categorical"}},
    }
    prepared, _ = prepare_here(tmp_path, data)
    column: Any = prepared.features.columns[f"{prefix}since"]
    assert column.categories == ("2024-01-01", "2024-01-02", "2024-01-03")


def test_decimals_are_the_categories_and_keys_that_numbers_are(tmp_path: Path) -> None:
    cells = [Decimal(row % 3) + Decimal("0.5") * (row % 2) for row in range(60)]
    rows = {
        "size": pa.array(cells, pa.decimal128(10, 2)),
        "shop": pa.array([Decimal(row % 5) for row in range(60)], pa.decimal128(10, 2)),
        "y": [0, 1] * 30,
    }
    table = {"shop": [0, 1, 2, 3, 4], "city": ["Rome", "Oslo", "Bern", "Lima", "Kyiv"]}
    data = {
        "source": _written(tmp_path / "rows", "parquet", rows),
        "target": "y",
        "joins": [{"path": _written(tmp_path / "table", "csv", table), "key": "shop"}],
        "features": {"columns": {"size": "categorical"}, "exclude": ["shop"]},
    }
    prepared, lines = prepare_here(tmp_path, data)
    assert any("0 of 60 rows have no match" in line for line in lines)
    column: Any = prepared.features.columns["size"]
    assert set(column.categories) == {"0", "0.5", "1", "1.5", "2", "2.5"}


def test_rows_with_a_column_for_each_label_are_joined(tmp_path: Path) -> None:
    orders = [
        {**{key: row[key] for key in ("shop", "a")}, "big": number % 2, "new": number % 3 // 2}
        for number, row in enumerate(_orders())
    ]
    data = _data(tmp_path)
    data |= {"target": "labels", "task": "multilabel", "label_columns": ["big", "new"]}
    _csv(tmp_path / "orders.csv", orders)
    prepared, _ = _prepare(tmp_path, data)
    assert list(prepared.features.columns) == ["a", "city", "size"]
    assert prepared.features.signature.classes == ("big", "new")


@pytest.mark.parametrize(
    ("shops", "join", "message"),
    [
        (
            [{"id": key, "row_id": 1} for key in SHOPS],
            {"prefix": "__"},
            r"^data\.joins: .*shops\.csv: the column '__row_id' has a name of raydc's own",
        ),
        (
            [*_shops(), {"id": 3.0, "city": "Lima", "size": 1}],
            {},
            r"^data\.joins: .*shops\.csv: row 11 has the same id as .*shops\.csv: row 4: '3'\n",
        ),
        (None, {"key": "name"}, r"^data\.joins: there is no column 'name' in .*There are id, city"),
        (None, {"columns": ["cty"]}, r"^data\.joins: there is no column 'cty' in .*mean city"),
        (
            None,
            {"on": "shp"},
            r"^data\.joins: there is no column 'shp' in .*orders.*mean shop",
        ),
        (
            [{"id": key, "a": 1} for key in SHOPS],
            {},
            r"^data\.joins: .*shops\.csv adds a column 'a', which .* has already\n.*prefix",
        ),
        (
            [{"id": f"s{key}", "city": "Rome"} for key in SHOPS],
            {},
            r"^data\.joins: none of 90 rows has a match in .*shops\.csv\n.*'shop'.*'id'.*same",
        ),
        ([{"id": 1, "city": "Rome\x00", "__row_id": 1}], {}, "has a name of raydc's own"),
    ],
)
def test_table_that_cannot_be_joined_is_named(
    tmp_path: Path, shops: Any, join: dict[str, Any], message: str
) -> None:
    data = _data(tmp_path, **join)
    if shops is not None:
        _csv(tmp_path / "shops.csv", shops)
    with pytest.raises(DataError) as caught:
        prepare_here(tmp_path, data)

    assert re.search(message, f"{caught.value.message}\n{caught.value.hint}", re.DOTALL), caught


def test_table_that_is_too_large_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"shops\.csv takes more than 100 bytes of memory"):
        prepare_here(tmp_path, _data(tmp_path))


def test_missing_file_and_column_are_found_before_anything_is_prepared(tmp_path: Path) -> None:
    def check(data: dict[str, Any]) -> None:
        spec = {"name": "x", "data": data, "model": {"name": "linear"}}
        source_check.check_source(resolve(from_dict(spec)).data)

    data = _data(tmp_path)
    check({**data, "features": {"exclude": ["shop"], "columns": {"city": "categorical"}}})
    with pytest.raises(DataError, match="there is no column 'town'"):
        check({**data, "features": {"columns": {"town": "categorical"}}})
    with pytest.raises(DataError, match=r"source .*no\.csv does not exist"):
        check(_data(tmp_path, path=str(tmp_path / "no.csv")))
    with pytest.raises(SpecError, match=r"data\.joins"):
        check({**data, "joins": [{"path": "x.csv"}]})
