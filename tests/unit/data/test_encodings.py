"""Scales, encodings and dates from a file to stored rows: exact, without leaks, as scikit-learn's.

Where scikit-learn does something else, the test says what.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here
from sklearn import preprocessing

from raydc.data import shards
from raydc.data.features_check import check_features
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.errors import DataError, SpecError
from raydc.features import DateParts, HashedCategory, Numeric, OrdinalCategory, TargetMean
from raydc.features.encoded_categories import NUM_FOLDS, folds_of
from raydc.features.record import Record, expanded
from raydc.spec.data import Data
from raydc.storage import sha256

Rows = list[dict[str, Any]]
CITIES = ("Rome", "Oslo", "Lima", "Kyiv", "Bern", "Quito")
SIZES = ("S", "M", "L")
FEATURES: dict[str, Any] = {
    "columns": {"when": "date"},
    "date_parts": {"when": ["elapsed", "year", "month", "day_of_week", "hour"]},
    "encodings": {"city": "target", "size": "ordinal", "shop": "hashing"},
    "orders": {"size": ["S", "M", "L", "XL"]},
    "hash_buckets": 16,
    "scales": {"gain": "quantile", "pay": "log", "age": "robust"},
}


def _rows(count: int = 240) -> Rows:
    choose = np.random.default_rng(4)
    rows: Rows = []
    for row in range(count):
        city = CITIES[int(min(5, choose.exponential(1.5)))]
        rows.append(
            {
                "gain": 0 if choose.random() < 0.4 else int(choose.integers(1, 9000)),
                "pay": round(float(choose.normal(0, 1) * 10.0 ** choose.integers(0, 4)), 2),
                "age": int(choose.integers(18, 90)) if row % 9 else None,
                "city": city if row % 11 else None,
                "size": SIZES[int(choose.integers(3))] if row % 13 else None,
                "shop": f"shop {int(choose.integers(40))}",
                "when": f"{choose.integers(2010, 2024)}-0{row % 9 + 1}-1{row % 10}T0{row % 7}:30",
                "y": "yes" if choose.random() < 0.2 + 0.1 * CITIES.index(city) else "no",
            }
        )
    return rows


def _write(folder: Path, rows: Rows) -> str:
    folder.mkdir(exist_ok=True)
    lines = [",".join(rows[0])]
    lines += [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.csv")


def _prepare(
    folder: Path, rows: Rows, cut: int | None = None, target: str = "y", **changed: Any
) -> Prepared:
    data: dict[str, Any] = {"source": _write(folder, rows), "target": target}
    if target != "y":
        data["task"] = "regression"
    options = {**FEATURES, **changed}
    if target != "y":
        options["scales"] = {k: v for k, v in options["scales"].items() if k != target}
    return prepare_here(folder, {**data, "features": options}, rows_per_block=cut)[0]


def _inputs(prepared: Prepared, split: str = "train") -> tuple[npt.NDArray[Any], Any]:
    rows = shards.open_rows(prepared.folder, split)
    x, _ = rows.gather(np.arange(len(rows)))
    found = expanded(x)
    assert isinstance(found, np.ndarray)
    return found, rows.ids


def _of(prepared: Prepared, name: str, split: str = "train") -> npt.NDArray[Any]:
    """Stored inputs of one column."""
    start = 0
    for other, column in prepared.features.columns.items():
        if other == name:
            return _inputs(prepared, split)[0][:, start : start + column.num_inputs]
        start += column.num_inputs
    raise KeyError(name)


def _raw(prepared: Prepared, rows: Rows, name: str, split: str = "train") -> list[Any]:
    return [rows[row_id][name] for row_id in _inputs(prepared, split)[1].tolist()]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return _rows()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> Prepared:
    return _prepare(tmp_path_factory.mktemp("made"), rows)


def _contents(prepared: Prepared) -> dict[str, str]:
    path = prepared.folder.local_path
    return {file.name: sha256(file.read_bytes()) for file in sorted(path.iterdir())}


@pytest.mark.parametrize("cut", [9, 37])
@pytest.mark.parametrize("target", ["y", "gain"])
def test_content_is_the_same_for_any_blocks(
    tmp_path: Path, rows: Rows, cut: int, target: str
) -> None:
    whole = _prepare(tmp_path / "whole", rows, target=target)
    cut_up = _prepare(tmp_path / "cut", rows, cut, target=target)
    assert _contents(cut_up) == _contents(whole)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_served_rows_are_the_stored_ones(made: Prepared, rows: Rows, split: str) -> None:
    stored, ids = _inputs(made, split)
    sent = [{k: v for k, v in rows[one].items() if v is not None} for one in ids.tolist()]
    # A client sends text or numbers as it likes.
    for row in sent[::2]:
        row["gain"] = str(row["gain"])
    given = made.features.apply_given(made.features.from_json_rows(sent))
    assert isinstance(given, np.ndarray)
    np.testing.assert_array_equal(given.view(np.uint32), stored.view(np.uint32))
    if split == "test":
        golden = read_golden_rows(made.folder)
        again = made.features.apply(made.features.from_json_rows(golden))
        np.testing.assert_array_equal(again, stored[: len(golden)])


def test_columns_have_the_kinds_that_were_asked_for(made: Prepared) -> None:
    columns = made.features.columns
    assert isinstance(columns["city"], TargetMean)
    assert isinstance(columns["size"], OrdinalCategory)
    assert isinstance(columns["shop"], HashedCategory)
    assert isinstance(columns["when"], DateParts)
    assert columns["when"].num_inputs == 8
    x, _ = shards.open_rows(made.folder, "train").gather(np.arange(4))
    # A bucket and the mark of a missing size are codes of a byte each.
    assert isinstance(x, Record)
    assert x.fields["columns.codes"].shape == (4, 2)  # type: ignore[union-attr]


def test_robust_scale_is_that_of_scikit_learn(made: Prepared, rows: Rows) -> None:
    ages = np.array([age for age in _raw(made, rows, "age") if age is not None], dtype=float)
    theirs = preprocessing.RobustScaler().fit(ages[:, None])
    ours = made.features.columns["age"]
    assert isinstance(ours, Numeric)
    # Where the quartiles are equal, scikit-learn divides by 1, and raydc by the deviation.
    assert (ours.shift, ours.scale) == pytest.approx((theirs.center_[0], theirs.scale_[0]))


def test_log_scale_is_standardised_log1p(made: Prepared, rows: Rows) -> None:
    # scikit-learn has no logarithm of numbers below 0; there it is the mirror.
    pay = np.array(_raw(made, rows, "pay"))
    logs = np.sign(pay) * np.log1p(np.abs(pay))
    theirs = preprocessing.StandardScaler().fit_transform(logs[:, None])
    np.testing.assert_allclose(_of(made, "pay"), theirs, atol=1e-6)


def test_quantile_scale_is_that_of_scikit_learn(made: Prepared, rows: Rows) -> None:
    gains = np.array(_raw(made, rows, "gain"), dtype=float)[:, None]
    theirs = preprocessing.QuantileTransformer(n_quantiles=1000, subsample=None)
    # It warns that there are fewer rows than quantiles, and takes as many as rows.
    with pytest.warns(UserWarning, match="n_quantiles"):
        theirs.fit(gains)
    column = made.features.columns["gain"]
    assert isinstance(column, Numeric)
    np.testing.assert_allclose(column.quantiles, theirs.quantiles_[:, 0], rtol=1e-12)
    np.testing.assert_allclose(_of(made, "gain"), theirs.transform(gains), atol=1e-6)
    held_out = np.array(_raw(made, rows, "gain", "test"), dtype=float)[:, None]
    np.testing.assert_allclose(_of(made, "gain", "test"), theirs.transform(held_out), atol=1e-6)


def test_more_rows_than_quantiles(tmp_path: Path) -> None:
    choose = np.random.default_rng(0)
    rows = [{"a": float(n), "y": "no" if n < 0 else "yes"} for n in choose.normal(size=2000)]
    made = _prepare(
        tmp_path,
        rows,
        300,
        columns={},
        date_parts={},
        encodings={},
        orders={},
        scales={"a": "quantile"},
    )
    column = made.features.columns["a"]
    assert isinstance(column, Numeric)
    numbers = np.array(_raw(made, rows, "a"))
    assert len(column.quantiles) == 1000
    np.testing.assert_allclose(column.quantiles, np.quantile(numbers, np.linspace(0, 1, 1000)))


def test_order_is_that_of_scikit_learn_and_standardised(made: Prepared, rows: Rows) -> None:
    sizes = _raw(made, rows, "size")
    known = np.array([[size] for size in sizes if size is not None], dtype=object)
    codes = preprocessing.OrdinalEncoder(categories=[["S", "M", "L", "XL"]]).fit_transform(known)
    theirs = preprocessing.StandardScaler().fit_transform(codes)
    ours = _of(made, "size")
    is_known = np.array([size is not None for size in sizes])
    np.testing.assert_allclose(ours[is_known, 0], theirs[:, 0], atol=1e-6)
    np.testing.assert_array_equal(ours[:, 1], 1 - is_known)
    # scikit-learn refuses a missing or unknown value, or gives it a code of its own.
    assert (ours[~is_known, 0] == 0).all()


def _their_means(
    cities: list[Any], y: npt.NDArray[Any], asked: list[Any]
) -> npt.NDArray[np.float64]:
    kind = "binary" if set(y.tolist()) <= {0, 1} else "continuous"
    encoder = preprocessing.TargetEncoder(smooth=10.0, target_type=kind)
    encoder.fit(np.array(cities, dtype=object)[:, None], y)
    means: npt.NDArray[np.float64] = encoder.transform(np.array(asked, dtype=object)[:, None])
    return (means - y.mean()) / y.std()


@pytest.mark.parametrize("target", ["y", "pay"])
def test_target_means_are_those_of_scikit_learn(tmp_path: Path, rows: Rows, target: str) -> None:
    made = _prepare(tmp_path, rows, 50, target=target)
    cities, ids = _raw(made, rows, "city"), _inputs(made)[1]
    y = np.array([v == "yes" if target == "y" else v for v in _raw(made, rows, target)], float)
    held_out = _their_means(cities, y, _raw(made, rows, "city", "test"))
    np.testing.assert_allclose(_of(made, "city", "test"), held_out, atol=1e-5)
    # `fit_transform` of scikit-learn does the same with other folds: by place, not by row id.
    folds = folds_of(ids)
    for fold in range(NUM_FOLDS):
        others, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        theirs = _their_means([cities[row] for row in others], y[others], [cities[r] for r in own])
        np.testing.assert_allclose(_of(made, "city")[own], theirs, atol=1e-5)


def test_three_classes_have_a_mean_each(tmp_path: Path, rows: Rows) -> None:
    made = _prepare(tmp_path, [{**row, "y": SIZES[n % 3]} for n, row in enumerate(rows)])
    column = made.features.columns["city"]
    assert isinstance(column, TargetMean)
    assert column.num_inputs == 3
    # The fractions of all classes add up to 1.
    assert [sum(means) for means in column.numbers] == pytest.approx([1.0] * len(column.numbers))


@pytest.mark.parametrize("target", ["y", "pay"])
def test_target_of_a_row_has_no_part_in_its_own_inputs(
    tmp_path: Path, rows: Rows, target: str
) -> None:
    before = _prepare(tmp_path / "before", rows, target=target)
    x, ids = _inputs(before)
    for row in (0, 5, len(ids) - 1):
        changed = [dict(one) for one in rows]
        value = changed[ids[row]][target]
        changed[ids[row]][target] = {"yes": "no", "no": "yes"}[value] if target == "y" else 1e6
        after = _prepare(tmp_path / f"after-{row}", changed, target=target)
        found, same_ids = _inputs(after)
        np.testing.assert_array_equal(same_ids, ids)
        same_fold = folds_of(ids) == folds_of(ids[[row]])
        np.testing.assert_array_equal(found[same_fold], x[same_fold])
        # It does have one in those of other rows, and in what is served.
        assert (found[~same_fold] != x[~same_fold]).any()
        assert after.features.columns["city"] != before.features.columns["city"]


def test_target_of_a_held_out_row_changes_nothing_that_is_fitted(
    tmp_path: Path, rows: Rows, made: Prepared
) -> None:
    changed = [dict(one) for one in rows]
    for split in ("test", "validation"):
        for row_id in _inputs(made, split)[1].tolist():
            changed[row_id] |= {"y": "yes", "city": "Rome", "gain": 5, "pay": -3.0, "age": 44}
    assert _prepare(tmp_path, changed).features.hash == made.features.hash


def test_missing_city_counts_as_the_most_frequent_one(tmp_path: Path, rows: Rows) -> None:
    data = {"source": _write(tmp_path, rows), "target": "y", "features": FEATURES}
    clean = {
        "columns": {
            "city": {"missing": "most_frequent"},
            "size": {"missing": "constant", "constant": "L"},
        }
    }
    filled = prepare_here(tmp_path, {**data, "clean": clean})[0]
    replaced = [{**row, "city": row["city"] or "Rome", "size": row["size"] or "L"} for row in rows]
    plain = _prepare(tmp_path / "plain", replaced)
    for name in ("city", "size"):
        np.testing.assert_array_equal(_of(filled, name), _of(plain, name))
        np.testing.assert_array_equal(_of(filled, name, "test"), _of(plain, name, "test"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scales": {"city": "log"}}, "scales: column 'city' is categorical, and only numbers"),
        ({"scales": {"town": "log"}}, "scales: there is no column 'town'"),
        ({"scales": {"y": "log"}}, "'y' is the target"),
        ({"encodings": {"age": "hashing"}, "orders": {}}, "'age' is numeric, and only categories"),
        ({"encodings": {"when": "target"}, "orders": {}}, "'when' is date, and only categories"),
        ({"orders": {"size": ["S", "M"]}}, "orders: 'size' leaves out the category 'L' of"),
    ],
)
def test_option_that_does_not_fit_its_column(
    tmp_path: Path, rows: Rows, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        _prepare(tmp_path, rows, **changed)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"orders": {"shop": ["a", "b"]}}, "orders: 'shop' needs encodings: {shop: ordinal}"),
        ({"orders": {"size": ["S", "M", "S"]}}, "orders: 'size' names a category twice"),
        ({"date_parts": {"age": ["hour"]}}, "date_parts: 'age' needs columns: {age: date}"),
        ({"date_parts": {"when": ["hour", "hour"]}}, "date_parts: 'when' names a part twice"),
        ({"scales": {"when": "log"}}, "scales: 'when' is declared date"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path, rows: Rows, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        _prepare(tmp_path, rows, **changed)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "several",
    [{"task": "multilabel"}, {"windows": {"time": "t", "length": 3, "horizon": 2}}],
)
def test_means_of_several_targets_are_refused(several: dict[str, Any]) -> None:
    data = Data.model_validate(
        {"source": "rows.csv", "features": {"encodings": {"city": "target"}}, **several}
    )
    with pytest.raises(DataError, match="'city' cannot have the encoding target"):
        check_features(data, {"city": "categorical"})
    one = data.model_copy(update={"task": "regression", "windows": None})
    check_features(one, {"city": "categorical"})


def test_cell_that_is_no_date_is_named_or_left_out(tmp_path: Path, rows: Rows) -> None:
    wrong = [{**row, "when": "soon"} if n == 7 else row for n, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"rows\.csv: row 8: when: 'soon' is not a date: neither"):
        _prepare(tmp_path / "fail", wrong)
    data = {"source": _write(tmp_path, wrong), "target": "y", "features": FEATURES}
    made, lines = prepare_here(tmp_path, {**data, "clean": {"on_error": "drop"}})
    assert sum(made.num_rows.values()) == len(rows) - 1
    assert any("left out: when: is not a date" in line for line in lines)


def test_dates_of_parquet_are_dates_of_csv(tmp_path: Path, rows: Rows) -> None:
    moments = [datetime.fromisoformat(row["when"]) for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table({**columns, "when": moments}), tmp_path / "rows.parquet")
    data = {"source": str(tmp_path / "rows.parquet"), "target": "y", "features": FEATURES}
    found = prepare_here(tmp_path, data)[0]
    plain = _prepare(tmp_path / "csv", rows)
    for split in ("train", "test"):
        np.testing.assert_array_equal(_of(found, "when", split), _of(plain, "when", split))
