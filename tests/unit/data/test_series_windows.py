"""Windows of series, prepared without Ray."""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here
from series_files import STEP_S, Row, machine_rows, series_data, write_rows

from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.shards import SPLITS, open_rows
from raydc.errors import DataError
from raydc.features import Record, SeriesWindow


def _windows(prepared: Prepared, split: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Past steps [B, L, C] and targets of a split, in the units of the source, rounded."""
    rows = open_rows(prepared.folder, split)
    x, y = rows.gather(np.arange(len(rows)))
    assert isinstance(x, Record)
    fitted = prepared.features.columns["window"]
    assert isinstance(fitted, SeriesWindow)
    past: Any = x.fields["window"]
    target = prepared.features.unscale(y)
    return np.round(past * fitted.scales + fitted.shifts, 2), np.round(target, 2)


def _as_set(prepared: Prepared, split: str) -> set[tuple[float, ...]]:
    past, target = _windows(prepared, split)
    return {
        (*one.reshape(-1).tolist(), *np.atleast_1d(next_).tolist())
        for one, next_ in zip(past, target, strict=True)
    }


def _expected(rows: list[Row], length: int = 4) -> dict[tuple[float, ...], float]:
    """Windows by hand: past heats and loads with the load after them, and its time."""
    found = {}
    for machine in {row["machine"] for row in rows}:
        own = sorted((row for row in rows if row["machine"] == machine), key=lambda r: r["time"])
        for first in range(length, len(own)):
            past = [own[i][name] for i in range(first - length, first) for name in ("heat", "load")]
            found[(*past, own[first]["load"])] = own[first]["time"]
    return found


@pytest.mark.parametrize("num_files", [1, 3])
@pytest.mark.parametrize("rows_per_block", [None, 7, 50])
def test_every_window_once_whatever_the_order_and_the_blocks(
    tmp_path: Path, num_files: int, rows_per_block: int | None
) -> None:
    rows = machine_rows()
    source = write_rows(tmp_path, rows, num_files)
    prepared, lines = prepare_here(tmp_path, series_data(source), rows_per_block=rows_per_block)
    expected = _expected(rows)
    found = [_as_set(prepared, split) for split in SPLITS]
    assert set.union(*found) == set(expected)
    assert sum(map(len, found)) == sum(prepared.num_rows.values()) == len(expected)
    # The last windows in time are held out.
    times = [{expected[window] for window in part} for part in found]
    assert max(times[0]) < min(times[1])
    assert max(times[1]) < min(times[2])
    assert any("112 windows of 2 series" in line for line in lines)


def test_the_content_is_the_same_however_rows_are_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many machines and few rows a task, so that several tasks cut windows.
    monkeypatch.setattr("raydc.data.window_stage._ROWS_PER_TASK", 40)
    machines = [f"machine {number}" for number in range(9)]
    source = write_rows(tmp_path, machine_rows(30, machines), 2)
    names = set()
    for rows_per_block in (None, 5, 33):
        folder = tmp_path / str(rows_per_block)
        prepared, _ = prepare_here(folder, series_data(source), rows_per_block=rows_per_block)
        rows = [open_rows(prepared.folder, split) for split in SPLITS]
        names.add((prepared.features.hash, *(part.ids.tobytes() for part in rows)))
        assert sum(map(len, rows)) == 9 * 26
    assert len(names) == 1


def test_no_training_window_holds_a_value_that_is_held_out(tmp_path: Path) -> None:
    rows = machine_rows()
    source = write_rows(tmp_path, rows)
    before, _ = prepare_here(tmp_path / "one", series_data(source, columns=["load"]))
    held_out = {target for split in SPLITS[1:] for target in _windows(before, split)[1]}
    past, target = _windows(before, "train")
    assert not held_out & {*past.reshape(-1).tolist(), *target.tolist()}
    # Nothing that is fitted follows from them either.
    changed = copy.deepcopy(rows)
    for row in changed:
        row["load"] += 5000 if row["load"] in held_out else 0
    other = write_rows(tmp_path / "changed", changed)
    after, _ = prepare_here(tmp_path / "two", series_data(other, columns=["load"]))
    assert after.features == before.features


def test_several_steps_are_a_list_and_no_window_crosses_a_bound(tmp_path: Path) -> None:
    rows = machine_rows()
    source = write_rows(tmp_path, rows)
    prepared, _ = prepare_here(tmp_path, series_data(source, horizon=5, columns=["load"]))
    assert prepared.features.signature.num_outputs == 5
    steps = []
    for split in SPLITS:
        past, target = _windows(prepared, split)
        assert target.shape == (len(past), 5)
        assert np.array_equal(target[:, 0], past[:, -1, 0] + 1)
        assert (np.diff(target, axis=1) == 1).all()
        steps.append({int(value) % 1000 for value in target.reshape(-1)})
    # Of 52 steps at which a window may begin; the four before each bound are left out.
    assert sum(prepared.num_rows.values()) == 2 * (52 - 4 - 4)
    assert max(steps[0]) < min(steps[1])
    assert max(steps[1]) < min(steps[2])
    # Scaled by all steps of the training windows, and not by the first ones alone.
    _, target = _windows(prepared, "train")
    assert prepared.features.target_mean == pytest.approx(target.mean())


@pytest.mark.parametrize("columns", [["heat", "load"], ["load", "heat"], ["heat"]])
def test_the_target_has_the_scale_of_its_column(tmp_path: Path, columns: list[str]) -> None:
    source = write_rows(tmp_path, machine_rows())
    prepared, _ = prepare_here(tmp_path, series_data(source, columns=columns))
    window, features = prepared.features.columns["window"], prepared.features
    assert isinstance(window, SeriesWindow)
    assert window.target == (columns.index("load") if "load" in columns else None)
    if window.target is not None:
        assert window.shifts[window.target] == features.target_mean
        assert window.scales[window.target] == features.target_scale
        assert len(set(window.shifts)) == len(set(window.scales)) == 2


def test_a_key_splits_whole_series(tmp_path: Path) -> None:
    machines = [f"machine {number}" for number in range(20)]
    source = write_rows(tmp_path, machine_rows(12, machines))
    data = series_data(source)
    data["split"] = {"by": "group", "column": "machine", "test_fraction": 0.3}
    prepared, _ = prepare_here(tmp_path, data)
    parts = [{int(one // 1000) for one in _windows(prepared, split)[1]} for split in SPLITS]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert set.union(*parts) == set(range(20))


def test_files_of_training_and_test_are_series_of_their_own(tmp_path: Path) -> None:
    rows = machine_rows(40)
    train = write_rows(tmp_path / "train", rows[:60])
    test = write_rows(tmp_path / "test", rows[60:])
    data = series_data(train)
    data["source"] = {"train": str(train), "test": str(test)}
    prepared, _ = prepare_here(tmp_path, data)
    assert _as_set(prepared, "test") == set(_expected(rows[60:]))
    assert _as_set(prepared, "train") <= set(_expected(rows[:60]))


def test_a_stride_leaves_windows_out(tmp_path: Path) -> None:
    source = write_rows(tmp_path, machine_rows())
    # 60 steps of a machine are no multiple of 7, so that the second counts from its own start.
    prepared, _ = prepare_here(tmp_path, series_data(source, stride=7))
    targets = sorted(target for split in SPLITS for target in _windows(prepared, split)[1])
    assert targets == [*range(4, 60, 7), *range(1004, 1060, 7)]


def test_other_columns_are_those_of_the_last_past_step(tmp_path: Path) -> None:
    source = write_rows(tmp_path, machine_rows())
    data = series_data(source, columns=None)
    data["features"] = {"columns": {"heat": "numeric", "room": "categorical"}}
    prepared, _ = prepare_here(tmp_path, data)
    assert list(prepared.features.columns) == ["window", "heat", "room"]
    heat = prepared.features.columns["heat"]
    rows = open_rows(prepared.folder, "test")
    x, y = rows.gather(np.arange(len(rows)))
    assert isinstance(x, Record)
    seen: Any = x.fields["columns.numbers"]
    for number, target in zip(seen[:, 0], prepared.features.unscale(y), strict=True):
        machine, step = divmod(round(float(target)), 1000)
        before = 20 + ((step - 1) * 7 + machine) % 5
        assert round(float(number * heat.scale + heat.shift), 3) == before  # type: ignore[union-attr]


def test_golden_rows_are_requests(tmp_path: Path) -> None:
    prepared, _ = prepare_here(tmp_path, series_data(write_rows(tmp_path, machine_rows())))
    golden = read_golden_rows(prepared.folder)
    assert np.array(golden[0]["window"]).shape == (4, 2)
    x = prepared.features.apply(prepared.features.from_json_rows(golden))
    rows = open_rows(prepared.folder, "test")
    stored, _ = rows.gather(np.arange(len(golden)))
    assert isinstance(x, Record)
    assert isinstance(stored, Record)
    assert np.array_equal(x.fields["window"], stored.fields["window"])  # type: ignore[arg-type]


def _odd(kind: str) -> list[Row]:
    rows = machine_rows()
    if kind == "gap":
        return [row for row in rows if (row["machine"], row["load"]) != ("a", 30)]
    if kind == "repeat":
        return [*rows, {**rows[20], "load": 77}]
    if kind == "missing":
        rows[20]["load"] = ""
    if kind == "text":
        rows[20]["load"] = "broken"
    if kind == "infinite":
        rows[20]["load"] = "inf"
    if kind == "time":
        rows[20]["time"] = "yesterday"
    if kind == "key":
        rows[20]["machine"] = ""
    return rows


# Row 21 of the file is step 10 of machine a: there are two rows of each step.
@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        ("gap", "row 62: time: 600 after the row before it", "data.windows.gaps: cut"),
        ("repeat", "row 121: time: another row of this series", "data.windows.repeats: first"),
        ("missing", "row 21: load: the value is missing", "data.windows.missing: cut"),
        ("text", "row 21: load: 'broken' is not a number", "data.clean.on_error: drop"),
        ("infinite", "row 21: load: 'inf' is not a finite number", "data.clean.on_error: drop"),
        ("time", "row 21: time: 'yesterday' is not a time", "data.clean.on_error: drop"),
        ("key", "row 21: machine: None has no value", "data.clean.on_error: drop"),
    ],
)
def test_odd_rows_are_refused_with_their_place(
    tmp_path: Path, kind: str, message: str, hint: str
) -> None:
    source = write_rows(tmp_path, _odd(kind), seed=None)
    with pytest.raises(DataError) as refused:
        prepare_here(tmp_path, series_data(source))
    assert message in refused.value.message
    assert str(source / "0.csv") in refused.value.message
    assert (refused.value.hint or "").startswith(hint)


@pytest.mark.parametrize(
    ("kind", "options", "num_windows", "line"),
    [
        # The gap is one of 60 steps: two series of 30 and 29 rows instead of 60.
        ("gap", {"gaps": "cut"}, 56 + 26 + 25, "no window reaches across"),
        ("gap", {"gaps": "ignore"}, 56 + 55, None),
        ("gap", {"gaps": "cut", "step": 2 * STEP_S}, None, None),
        (
            "repeat",
            {"repeats": "first"},
            112,
            "another row of this series has the same time: 1 row",
        ),
        ("repeat", {"repeats": "last"}, 112, "another row of this series has the same time: 1 row"),
        # One target and four pasts.
        ("missing", {"missing": "cut"}, 112 - 5, "numbers that are missing: load"),
        ("missing", {"missing": "previous"}, 112 - 1, "numbers that are missing: load"),
    ],
)
def test_odd_rows_are_counted_where_an_option_says_so(
    tmp_path: Path,
    kind: str,
    options: dict[str, Any],
    num_windows: int | None,
    line: str | None,
) -> None:
    data = series_data(write_rows(tmp_path, _odd(kind), seed=None), **options)
    if num_windows is None:
        with pytest.raises(DataError, match="there is no window of 4 past and"):
            prepare_here(tmp_path, data)
        return
    prepared, lines = prepare_here(tmp_path, data)
    assert sum(prepared.num_rows.values()) == num_windows
    if line is not None:
        assert any(line in one and "0.csv" in one for one in lines), lines
    targets = {target for split in SPLITS for target in _windows(prepared, split)[1]}
    assert (77.0 in targets) == (options.get("repeats") == "last")
    if options.get("missing") == "previous":
        past, _ = _windows(prepared, "train")
        # Step 10 of machine a counts as step 9.
        loads = past[:, :3, 1].tolist()
        assert [9.0, 9.0, 11.0] in loads or [8.0, 9.0, 9.0] in loads


@pytest.mark.parametrize("kind", ["text", "time", "key"])
def test_rows_that_cannot_be_used_are_left_out_on_request(tmp_path: Path, kind: str) -> None:
    data = series_data(write_rows(tmp_path, _odd(kind), seed=None), gaps="cut")
    data["clean"] = {"on_error": "drop"}
    prepared, lines = prepare_here(tmp_path, data)
    assert sum(prepared.num_rows.values()) == 56 + 6 + 45
    assert any(line.startswith("left out: ") and "1 row, the first at" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("key", "maschine", "data.windows.key: there is no column 'maschine'"),
        ("columns", ["load", "heet"], "data.windows.columns: there is no column 'heet'"),
        ("length", 100, "there is no window of 100 past and 1 next steps in 2 series"),
        ("key", None, "there is no window of 200 past and 1 next steps in 1 series$"),
    ],
)
def test_windows_that_do_not_fit_the_table(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    rows = machine_rows(machines=["a"]) if value is None else machine_rows()
    changes = {path: value, **({"length": 200} if value is None else {})}
    with pytest.raises(DataError) as refused:
        prepare_here(tmp_path, series_data(write_rows(tmp_path, rows), **changes))
    assert re.search(message, refused.value.message)


def test_a_time_that_is_no_column(tmp_path: Path) -> None:
    data = series_data(write_rows(tmp_path, machine_rows()), time="tyme")
    data["split"]["column"] = "tyme"
    with pytest.raises(DataError, match=r"data\.windows\.time: there is no column 'tyme'"):
        prepare_here(tmp_path, data)


def test_dates_are_times(tmp_path: Path) -> None:
    rows = machine_rows(24)
    for row in rows:
        row["time"] = f"2024-02-29T{row['time'] // STEP_S:02}:00"
    prepared, _ = prepare_here(tmp_path, series_data(write_rows(tmp_path, rows), step=3600.0))
    assert sum(prepared.num_rows.values()) == 40


def _steady(folder: Path, times: list[Any], **columns: list[Any]) -> dict[str, Any]:
    """Section `data` for one series in a Parquet file, whose load counts up."""
    pq.write_table(
        pa.table({"time": times, "load": [float(row) for row in range(len(times))], **columns}),
        folder / "steady.parquet",
        row_group_size=25,
    )
    return series_data(folder / "steady.parquet", key=None, columns=["load"])


_START = datetime(2024, 1, 1, tzinfo=UTC)
_REGULAR: dict[str, Any] = {
    "10 a second as text": lambda row: (_START + timedelta(milliseconds=100 * row)).isoformat(),
    "100 a second": lambda row: _START + timedelta(milliseconds=10 * row),
    "30 a second as text": lambda row: (_START + timedelta(seconds=row / 30)).isoformat(),
    "30 a second as numbers": lambda row: row / 30,
    "hours in days": lambda row: 45000 + row / 24,
    "tiny": lambda row: row * 1e-7,
    "1000 a second": lambda row: _START + timedelta(milliseconds=row),
}


@pytest.mark.parametrize("name", _REGULAR)
def test_regular_times_have_no_gap_whatever_their_rounding(tmp_path: Path, name: str) -> None:
    times = list(map(_REGULAR[name], range(101)))
    data = _steady(tmp_path, times[:100])
    prepared, lines = prepare_here(tmp_path / "regular", data)
    assert sum(prepared.num_rows.values()) == 96
    assert not any("no window reaches across" in line for line in lines)
    # One row is missing after half of them.
    data = _steady(tmp_path, [*times[:50], *times[51:]])
    with pytest.raises(DataError, match=r"row 51: time: .* after the row before it"):
        prepare_here(tmp_path / "gap", data)


def test_step_of_the_spec_is_compared_like_any_other(tmp_path: Path) -> None:
    data = _steady(tmp_path, list(map(_REGULAR["10 a second as text"], range(100))))
    data["windows"]["step"] = 0.1
    prepared, _ = prepare_here(tmp_path, data)
    assert sum(prepared.num_rows.values()) == 96


def test_most_frequent_step_need_not_be_that_in_the_middle(tmp_path: Path) -> None:
    # 40 steps of 1 and 59 of different sizes above it.
    steps = [1.0] * 40 + [2.0 + part / 10 for part in range(59)]
    data = _steady(tmp_path, [0.0, *np.cumsum(steps).tolist()])
    with pytest.raises(DataError, match=r"row 42: time: 2 after .* step of this series is 1\n"):
        prepare_here(tmp_path, data)


def test_text_beside_a_window_is_stored_as_it_is_served(tmp_path: Path) -> None:
    words = [("3.0", "ab 3.0", "x")[row % 3] for row in range(100)]
    data = _steady(tmp_path, list(range(100)), said=words)
    data["features"] = {"columns": {"said": "text"}}
    prepared, _ = prepare_here(tmp_path, data)
    column = prepared.features.columns["said"]
    for split in SPLITS:
        rows = open_rows(prepared.folder, split)
        x, targets = rows.gather(np.arange(len(rows)))
        assert isinstance(x, Record)
        stored: Any = x.fields["said"]
        loads = prepared.features.unscale(targets)
        # The text is that of the last past step.
        served: Any = column.apply([words[round(load) - 1] for load in loads], "said", frozenset())
        assert np.array_equal(stored.values_N, served.values_N)
        assert np.array_equal(stored.offsets, served.offsets)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_lists_beside_a_window_are_inputs(tmp_path: Path, form: str) -> None:
    # The first file has no item at all, and the second has items of two numbers.
    lists: list[Any] = [[] if row % 2 else None for row in range(25)]
    lists += [[[1.0, float(row)]] * (row % 3) for row in range(25, 100)]
    data = _steady(tmp_path, list(range(100)), said=lists)
    if form == "jsonl":
        (tmp_path / "in").mkdir()
        for part in range(4):
            lines = [
                json.dumps({"time": row, "load": row, **({"said": lists[row]} if part else {})})
                for row in range(part * 25, part * 25 + 25)
            ]
            (tmp_path / "in" / f"{part}.jsonl").write_text("\n".join(lines))
        data["source"] = str(tmp_path / "in")
    data["features"] = {"columns": {"said": "list"}}
    prepared, _ = prepare_here(tmp_path, data)
    num_items = 0
    for split in SPLITS:
        rows = open_rows(prepared.folder, split)
        x, targets = rows.gather(np.arange(len(rows)))
        assert isinstance(x, Record)
        stored: Any = x.fields["said"]
        loads = prepared.features.unscale(targets).round().astype(int)
        assert np.diff(stored.offsets).tolist() == [len(lists[load - 1] or ()) for load in loads]
        num_items += len(stored.values_N)
    assert num_items == sum(len(cell or ()) for cell in lists[3:99])


def test_lists_of_two_shapes_beside_a_window_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for part, cell in enumerate(([1.0], [[1.0, 2.0]])):
        lines = [
            json.dumps({"time": row, "load": row, "said": cell})
            for row in range(part * 25, part * 25 + 25)
        ]
        (tmp_path / "in" / f"{part}.jsonl").write_text("\n".join(lines))
    data = series_data(tmp_path / "in", key=None, columns=["load"])
    data["features"] = {"columns": {"said": "list"}}
    message = (
        r"'said' holds lists of numbers at .*0\.jsonl.*, but lists of 2 numbers each at .*1\.js"
    )
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, data)


def test_no_window_has_a_target_that_is_missing(tmp_path: Path) -> None:
    rows = _odd("missing")
    data = series_data(write_rows(tmp_path, rows, seed=None), horizon=3, missing="cut")
    prepared, _ = prepare_here(tmp_path, data)
    targets = np.concatenate([_windows(prepared, split)[1] for split in SPLITS])
    assert np.isfinite(targets).all()
    assert not (targets == 10).any()
    # Step 10 of machine a is one of three targets or of four past steps of seven windows.
    found = {int(first) for first in targets[:, 0] if first < 1000}
    assert found.isdisjoint(range(8, 15))
    assert {7, 15} <= found


def test_a_number_before_comes_from_the_same_series(tmp_path: Path) -> None:
    rows = machine_rows()
    first_of_b = next(row for row in rows if row["machine"] == "b")
    first_of_b["load"] = ""
    data = series_data(write_rows(tmp_path, rows, seed=None), missing="previous", columns=["load"])
    prepared, _ = prepare_here(tmp_path, data)
    past = np.concatenate([_windows(prepared, split)[0] for split in SPLITS])
    # Nothing comes before the first row of machine b.
    assert [1001.0, 1002.0, 1003.0] not in past[:, 1:, 0].tolist()
    assert [1001.0, 1002.0, 1003.0, 1004.0] in past[:, :, 0].tolist()
