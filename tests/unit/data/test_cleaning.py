"""Missing values, outliers and rows that cannot be used: exact at any cut into blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from prepared_here import prepare_here

from raydc.data import shards
from raydc.data.prepared import Prepared
from raydc.errors import DataError, SpecError
from raydc.features import Categorical, Numeric
from raydc.features.record import expanded
from raydc.storage import sha256

CUTS = (None, 37)


def _rows(num_rows: int = 160) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    rows = []
    for row in range(num_rows):
        a = round(float(generator.normal(10, 3)), 1)
        b = int(generator.integers(0, 5))
        city = ("Rome", "Oslo", "Lima")[int(generator.integers(3))]
        y = ("no", "yes")[row % 2]
        rows.append(
            {"a": a if row % 6 else None, "b": b, "city": city if row % 7 else None, "y": y}
        )
    return rows


def _write(folder: Path, rows: list[dict[str, Any]]) -> str:
    lines = [",".join(rows[0])]
    lines += [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.csv")


def _contents(prepared: Prepared) -> dict[str, str]:
    path = prepared.folder.local_path
    return {file.name: sha256(file.read_bytes()) for file in sorted(path.iterdir())}


def _prepare(folder: Path, data: dict[str, Any]) -> tuple[Prepared, list[str]]:
    """Prepares at several cuts into blocks, which all give the same files."""
    made = []
    for cut in CUTS:
        (folder / f"cut-{cut}").mkdir()
        made.append(prepare_here(folder / f"cut-{cut}", data, rows_per_block=cut))
    assert [_contents(prepared) for prepared, _ in made[1:]] == [_contents(made[0][0])]
    assert [lines for _, lines in made[1:]] == [made[0][1]]
    return made[0]


def _ids(prepared: Prepared, name: str = "train") -> npt.NDArray[np.int64]:
    return shards.open_rows(prepared.folder, name).ids


def _training(prepared: Prepared, rows: list[dict[str, Any]], name: str) -> npt.NDArray[Any]:
    found = [rows[row_id][name] for row_id in _ids(prepared)]
    return np.array([value for value in found if value is not None])


def _numeric(prepared: Prepared, name: str = "a") -> Numeric:
    column = prepared.features.columns[name]
    assert isinstance(column, Numeric)
    return column


@pytest.mark.parametrize("policy", ["mean", "median", "most_frequent", "constant"])
def test_missing_number_is_filled_as_said(tmp_path: Path, policy: str) -> None:
    rows = _rows()
    clean: dict[str, Any] = {"missing": policy}
    if policy == "constant":
        clean = {"columns": {"a": {"missing": "constant", "constant": -7.5}}}
    prepared, _ = _prepare(
        tmp_path, {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    )
    numbers = _training(prepared, rows, "a")
    different, counts = np.unique(numbers, return_counts=True)
    expected = {
        "mean": numbers.mean(),
        "median": np.median(numbers),
        "most_frequent": different[counts.argmax()],
        "constant": -7.5,
    }
    assert _numeric(prepared).mean == pytest.approx(expected[policy], rel=1e-14)
    # The scale is that of the numbers, whatever fills the gaps.
    assert _numeric(prepared).shift == pytest.approx(numbers.mean(), rel=1e-14)


def test_rows_without_a_value_are_dropped_by_column(tmp_path: Path) -> None:
    rows = _rows()
    clean = {"columns": {"a": {"missing": "drop"}}}
    data = {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    prepared, _ = _prepare(tmp_path, data)
    assert sum(prepared.num_rows.values()) == sum(row["a"] is not None for row in rows)
    city = prepared.features.columns["city"]
    assert isinstance(city, Categorical)
    assert city.has_missing


def test_robust_scaling_has_median_and_quartiles(tmp_path: Path) -> None:
    rows = _rows()
    rows[1]["a"] = 1e9
    clean = {"columns": {"a": {"outliers": "robust"}}}
    data = {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    prepared, _ = _prepare(tmp_path, data)
    numbers = _training(prepared, rows, "a")
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    assert _numeric(prepared).shift == pytest.approx(middle, rel=1e-12)
    assert _numeric(prepared).scale == pytest.approx(high - low, rel=1e-12)


def _inputs(prepared: Prepared, name: str = "train") -> npt.NDArray[Any]:
    rows = shards.open_rows(prepared.folder, name)
    return np.asarray(expanded(rows.gather(np.arange(len(rows)))[0]))


def test_clipped_numbers_are_clipped_before_the_scale_is_fitted_and_when_serving(
    tmp_path: Path,
) -> None:
    rows = _rows()
    rows[1]["a"] = 1e9
    clean = {"columns": {"a": {"outliers": "clip", "outlier_quantile": 0.05}}}
    data = {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    prepared, _ = _prepare(tmp_path, data)
    numbers = np.sort(_training(prepared, rows, "a"))
    outside = int(0.05 * (len(numbers) - 1))
    low, high = numbers[outside], numbers[-1 - outside]
    column = _numeric(prepared)
    assert (column.low, column.high) == (low, high)
    assert column.shift == pytest.approx(numbers.clip(low, high).mean(), rel=1e-12)
    assert _inputs(prepared)[:, 0].max() == np.float32((high - column.shift) / column.scale)
    features = prepared.features
    assert not features.are_numbers
    answers = [
        features.apply(features.from_json_rows([{"a": a, "b": 1, "city": "Rome"}])).tolist()
        for a in (high, 1e12)
    ]
    assert answers[0] == answers[1]
    assert type(features).from_dict(features.to_dict()) == features


def test_mark_of_missing_numbers_is_an_input_where_training_rows_lack_some(tmp_path: Path) -> None:
    rows = _rows()
    clean = {"missing": "median", "indicator": True}
    data = {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    prepared, _ = _prepare(tmp_path, data)
    # All rows have a `b`, and categories have an input for missing ones anyway.
    assert (_numeric(prepared).num_inputs, _numeric(prepared, "b").num_inputs) == (2, 1)
    assert prepared.features.signature.shape == (2 + 1 + 4,)
    for name in ("train", "test"):
        expected = [rows[row_id]["a"] is None for row_id in _ids(prepared, name).tolist()]
        assert _inputs(prepared, name)[:, 1].tolist() == expected
    features = prepared.features
    assert type(features).from_dict(features.to_dict()) == features


@pytest.mark.parametrize("own", [{"missing": "most_frequent"}, {"missing": "constant"}])
def test_missing_category_is_filled_as_said(tmp_path: Path, own: dict[str, Any]) -> None:
    rows = _rows()
    if own["missing"] == "constant":
        own = {**own, "constant": "Oslo"}
    clean = {"columns": {"city": own}}
    data = {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    prepared, _ = _prepare(tmp_path, data)
    city = prepared.features.columns["city"]
    assert isinstance(city, Categorical)
    different, counts = np.unique(_training(prepared, rows, "city"), return_counts=True)
    fill = own.get("constant", different[counts.argmax()])
    assert (city.fill, city.has_missing) == (fill, False)
    found = city.apply([None, fill, "Rome"], "city", frozenset())
    assert found[0].tolist() == found[1].tolist()
    assert found.sum() == 3


def test_constant_category_that_no_row_has_is_the_input_of_missing_values(tmp_path: Path) -> None:
    clean = {"columns": {"city": {"missing": "constant", "constant": "unknown"}}}
    data = {"source": _write(tmp_path, _rows()), "target": "y", "clean": clean}
    prepared, _ = _prepare(tmp_path, data)
    city = prepared.features.columns["city"]
    assert isinstance(city, Categorical)
    assert (city.fill, city.has_missing) == (None, True)


@pytest.mark.parametrize("limit", [{"outlier_quantile": 0.1}, {"outlier_deviations": 1.5}])
def test_training_rows_with_outliers_are_dropped_and_held_out_ones_stay(
    tmp_path: Path, limit: dict[str, float]
) -> None:
    rows = _rows()
    source = _write(tmp_path, rows)
    plain, _ = prepare_here(tmp_path, {"source": source, "target": "y"})
    clean = {"columns": {"a": {"outliers": "drop", **limit}}}
    prepared, _ = _prepare(tmp_path, {"source": source, "target": "y", "clean": clean})
    numbers = np.sort(_training(plain, rows, "a"))
    outside = int(0.1 * (len(numbers) - 1))
    low, high = numbers[outside], numbers[-1 - outside]
    if "outlier_deviations" in limit:
        reach = 1.5 * numbers.std()
        low, high = numbers.mean() - reach, numbers.mean() + reach
    kept = [
        row_id
        for row_id in _ids(plain).tolist()
        if rows[row_id]["a"] is None or low <= rows[row_id]["a"] <= high
    ]
    assert _ids(prepared).tolist() == kept
    assert 0 < len(kept) < len(_ids(plain))
    for name in ("validation", "test"):
        assert _ids(prepared, name).tolist() == _ids(plain, name).tolist()


@pytest.mark.parametrize(
    "clean",
    [
        {"missing": "median"},
        {"missing": "most_frequent"},
        {"outliers": "drop", "outlier_deviations": 2},
        {"outliers": "robust"},
        {"missing": "drop"},
        {"outliers": "clip", "indicator": True},
    ],
)
def test_nothing_fitted_depends_on_a_row_that_is_held_out(
    tmp_path: Path, clean: dict[str, Any]
) -> None:
    rows = _rows()
    data = {"source": _write(tmp_path, rows), "target": "y", "clean": clean}
    before, _ = prepare_here(tmp_path, data)
    for name in ("validation", "test"):
        for row_id in _ids(before, name).tolist():
            rows[row_id].update({"a": 1e6, "b": 77, "city": "Paris"})
    _write(tmp_path, rows)
    after, _ = prepare_here(tmp_path, data)
    assert after.data_hash != before.data_hash
    assert after.features == before.features


def _faulty(folder: Path) -> dict[str, Any]:
    rows = _rows(80)
    rows[10]["b"] = "many"
    rows[20]["b"] = "inf"
    rows[30]["y"] = "maybe"
    rows[40]["y"] = None
    rows[41].update({"b": "few", "y": "perhaps"})
    path = Path(_write(folder, rows))
    lines = path.read_bytes().splitlines()
    lines[51] += b",1,2"
    lines[61] = b"1,2,M\xfcnchen,no"
    lines[80] = b"1"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return {
        "source": str(path),
        "target": "y",
        "classes": ["no", "yes"],
        "features": {"columns": {"b": "numeric"}},
    }


REFUSED = [
    (11, "b", "many", "is not a number"),
    (21, "b", "inf", "is not a finite number"),
    (31, "y", "maybe", "is not one of data.classes"),
    (41, "y", None, "the target is missing"),
    (42, "b", "few", "is not a number"),
    (42, "y", "perhaps", "is not one of data.classes"),
    (51, None, None, "6 cells instead of 4"),
    (61, "city", r"M\xfcnchen", "is not UTF-8 text"),
    (80, None, "1", "1 cells instead of 4"),
]


def test_rows_that_cannot_be_used_are_left_out_counted_and_listed(tmp_path: Path) -> None:
    data = _faulty(tmp_path)
    with pytest.raises(DataError, match=r"row 51: 6 cells"):
        prepare_here(tmp_path, data)
    prepared, lines = _prepare(tmp_path, {**data, "clean": {"on_error": "quarantine"}})
    assert sum(prepared.num_rows.values()) == 80 - 8
    listed = [
        json.loads(line)
        for line in (prepared.folder.local_path / "quarantine.jsonl").read_text().splitlines()
    ]
    found = [(row["row"], row["column"], row["value"], row["reason"]) for row in listed]
    found[6] = (*found[6][:2], None, found[6][3])
    assert found == REFUSED
    assert {row["file"] for row in listed} == {"rows.csv"}
    facts = prepared.folder.read_json("MANIFEST.json")
    assert facts["refused"]["rows"] == 8
    assert sum(facts["refused"]["faults"].values()) == len(REFUSED)
    assert (
        f"left out: b: is not a number: 2 rows, the first at {tmp_path}/rows.csv: row 11 ('many')"
        in lines
    )


def test_dropped_rows_are_counted_and_not_listed(tmp_path: Path) -> None:
    prepared, _ = _prepare(tmp_path, {**_faulty(tmp_path), "clean": {"on_error": "drop"}})
    assert sum(prepared.num_rows.values()) == 80 - 8
    assert not (prepared.folder.local_path / "quarantine.jsonl").exists()
    assert prepared.folder.read_json("MANIFEST.json")["refused"]["rows"] == 8


def test_faulty_lines_of_json_are_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({"a": row, "y": ("no", "yes")[row % 2]}) for row in range(60)]
    lines[5] = '{"a": 1'
    lines[9] = "[1]"
    lines[33] = '{"a": {"b": 1}, "y": "no"}'
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    data = {"source": str(tmp_path / "rows.jsonl"), "target": "y"}
    prepared, _ = _prepare(tmp_path, {**data, "clean": {"on_error": "quarantine"}})
    assert sum(prepared.num_rows.values()) == 57
    text = (prepared.folder.local_path / "quarantine.jsonl").read_text()
    assert [json.loads(line)["row"] for line in text.splitlines()] == [6, 10, 34]


def test_file_in_which_no_row_can_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{\n[\n")
    data = {"source": str(tmp_path / "rows.jsonl"), "clean": {"on_error": "drop"}}
    with pytest.raises(DataError, match=r"rows\.jsonl: none of 2 rows can be read"):
        prepare_here(tmp_path, data)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"cty": {"missing": "drop"}},
            r"data\.clean\.columns\.cty: there is no such column\n.*city",
        ),
        (
            {"y": {"missing": "drop"}},
            r"data\.clean\.columns\.y: 'y' is not an input column\n.*target",
        ),
        (
            {"city": {"missing": "median"}},
            r"city\.missing: there is no median for a column that is",
        ),
        ({"city": {"outliers": "clip"}}, r"city\.outliers: there are no outliers for a column"),
        ({"city": {"indicator": True}}, r"city\.indicator: there is none for a column that is"),
        (
            {"a": {"missing": "constant", "constant": "x"}},
            r"the constant 'x' is not a number, which",
        ),
    ],
)
def test_policy_that_does_not_fit_its_column_is_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    data = {"source": _write(tmp_path, _rows()), "target": "y", "clean": {"columns": columns}}
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, data)


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ({"missing": "constant"}, "missing: constant needs the value"),
        ({"constant": 3}, "constant is used with missing: constant only"),
        ({"columns": {"a": {"missing": "constant"}}}, "missing: constant needs the value"),
        ({"outlier_quantile": 0.1, "outlier_deviations": 2}, "not both"),
        ({"outlier_quantile": 0.6}, "0.5"),
        ({"on_error": "ignore"}, "on_error"),
        ({"missing": "meen"}, "missing"),
    ],
)
def test_cleaning_that_contradicts_itself_is_refused(
    tmp_path: Path, clean: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        prepare_here(tmp_path, {"source": "x.csv", "clean": clean})
