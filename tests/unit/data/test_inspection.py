"""What `raydc inspect` finds in data that is odd on purpose, and that plain data is let be."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspected_here import inspect_here
from PIL import Image

from raydc.data.inspection import Inspection
from raydc.data.suspicions import Suspicion, find

NUM_ROWS = 3000
Row = dict[str, Any]


def write(
    folder: Path, make_row: Callable[[int, random.Random], Row], num_rows: int = NUM_ROWS
) -> str:
    choose = random.Random(7)
    rows = [make_row(index, choose) for index in range(num_rows)]
    lines = [
        ",".join(rows[0]),
        *(",".join("" if v is None else str(v) for v in row.values()) for row in rows),
    ]
    path = folder / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def plain(index: int, choose: random.Random) -> Row:
    age, city = choose.gauss(40, 10), choose.choice(["Rome", "Oslo", "Lima"])
    return {
        "age": f"{age:.9f}",
        "city": city,
        "y": "old" if age + choose.gauss(0, 20) > 40 else "young",
    }


def texts(found: list[Suspicion], about: str) -> list[str]:
    return [one.text for one in found if one.about == about]


def column(found: Inspection, name: str) -> Any:
    return next(one for one in found.columns if one.name == name)


def test_plain_data_raises_no_suspicion(tmp_path: Path) -> None:
    found = inspect_here(tmp_path, {"source": write(tmp_path, plain), "target": "y"})
    assert find(found) == []
    assert sum(found.num_rows.values()) == NUM_ROWS
    assert found.target.name == "y"
    assert not (tmp_path / "storage").exists()


def test_column_that_knows_the_class_is_found(tmp_path: Path) -> None:
    def leaking(index: int, choose: random.Random) -> Row:
        row = plain(index, choose)
        row["code"] = ("b" if row["y"] == "old" else "a") + str(choose.randrange(5))
        row["late"] = choose.gauss(1.5 if row["y"] == "old" else 0, 1)
        row["id"] = f"{choose.random()}x"
        return row

    source = write(tmp_path, leaking)
    found = inspect_here(tmp_path, {"source": source, "target": "y"})
    first, second = [one for one in find(found) if one.about == "leak"]
    assert (first.level, "'code' alone nearly determines the target (AUC 1.000)" in first.text) == (
        "high",
        True,
    )
    assert (second.level, "'late' alone is a strong predictor" in second.text) == ("low", True)
    # Judged on rows that its bins have not seen, an identifier knows nothing.
    assert column(found, "id").power == pytest.approx(0.5, abs=0.05)
    assert column(found, "age").power == pytest.approx(0.66, abs=0.06)


def test_columns_that_sum_up_to_the_target_are_found(tmp_path: Path) -> None:
    def adding(index: int, choose: random.Random) -> Row:
        casual, registered = choose.randrange(300), choose.randrange(500)
        return {
            "hour": choose.randrange(24), "casual": casual, "registered": registered,
            "half": choose.random(), "count": casual + registered - 2,
        }  # fmt: skip

    data = {"source": write(tmp_path, adding), "target": "count", "task": "regression"}
    found = inspect_here(tmp_path, data)
    first = find(found)[0]
    assert (first.level, first.about) == ("high", "leak")
    assert first.text.startswith("count = registered + casual + -2 in 3,000 of 3,000 rows") or (
        first.text.startswith("count = registered + casual - 2 in 3,000 of 3,000 rows")
    )
    assert 0.5 < column(found, "registered").power < 0.9
    assert column(found, "hour").power < 0.05


def test_sum_that_holds_in_most_rows_is_counted_and_noise_is_none(tmp_path: Path) -> None:
    def noisy(index: int, choose: random.Random) -> Row:
        a, b = choose.random(), choose.random()
        return {"a": a, "b": b, "y": a + b + choose.gauss(0, 1e-3)}

    data = {"source": write(tmp_path, noisy), "target": "y", "task": "regression"}
    assert inspect_here(tmp_path, data).identity is None


def test_rows_in_two_splits_and_conflicting_ones_are_counted(tmp_path: Path) -> None:
    def repeated(index: int, choose: random.Random) -> Row:
        row = plain(index, choose)
        # Each of the last rows is a copy of an earlier one; some say the opposite.
        if index >= NUM_ROWS - 200:
            row = plain(0, random.Random(index % 50))
            row["y"] = "old" if index % 2 else "young"
        return row

    found = inspect_here(tmp_path, {"source": write(tmp_path, repeated), "target": "y"})
    copies = found.copies
    # 200 rows in 50 groups of four: all but one of a group repeat another.
    assert sum(copies.repeated) > 50
    assert copies.across["train/test"] > 0
    first, second = found.copy_places["train/test"]
    assert first.startswith(str(tmp_path / "rows.csv: row "))
    assert first != second
    said = texts(find(found), "copies")
    assert any("test rows have the same inputs as a train row" in text for text in said)
    assert copies.conflicts == 0
    clashing = inspect_here(tmp_path, {"source": write(tmp_path, _clash), "target": "y"})
    assert clashing.copies.conflicts == 50
    assert any("50 groups of rows" in text for text in texts(find(clashing), "copies"))


def _clash(index: int, choose: random.Random) -> Row:
    row = plain(index, choose)
    if index >= NUM_ROWS - 100:
        row = plain(0, random.Random(index % 50)) | {"y": "old" if index % 100 < 50 else "young"}
    return row


def test_drift_between_parts_is_found_and_named(tmp_path: Path) -> None:
    for part, shift in (("train", 0.0), ("test", 1.0)):
        (tmp_path / part).mkdir()

        def shifted(index: int, choose: random.Random, shift: float = shift) -> Row:
            row = plain(index, choose)
            city = "Rome" if choose.random() < shift / 2 else row["city"]
            return {**row, "sensor": choose.gauss(shift, 1), "city": city}

        write(tmp_path / part, shifted)
    source = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    found = inspect_here(tmp_path, {"source": source, "target": "y"})
    drifted = {one.name: one.drifted for one in found.columns if one.drifted}
    assert drifted == {"sensor": ("test",), "city": ("test",)}
    assert column(found, "sensor").ks["test"] == pytest.approx(0.38, abs=0.06)
    said = texts(find(found), "drift")
    assert any(
        "'sensor' differs between the training rows and the test rows (PSI" in one for one in said
    )


def test_small_splits_that_differ_by_chance_raise_no_suspicion(tmp_path: Path) -> None:
    for seed in range(5):
        source = write(tmp_path, plain, 200)
        found = inspect_here(tmp_path, {"source": source, "target": "y"}, seed)
        assert texts(find(found), "drift") == []


def test_rare_classes_constant_and_empty_columns_are_named(tmp_path: Path) -> None:
    def odd(index: int, choose: random.Random) -> Row:
        row = plain(index, choose)
        return {
            "same": 1,
            "gone": None if index % 10 else choose.random(),
            **row,
            "y": "rare" if index % 100 == 0 else row["y"],
        }

    found = inspect_here(tmp_path, {"source": write(tmp_path, odd), "target": "y"})
    said = find(found)
    assert texts(said, "balance")[0].startswith("rare classes: 'rare' (30) of 3,000 rows.")
    assert texts(said, "column") == [
        "column 'same' has the same value in every row.",
        "column 'gone' has no value in 90% of the rows.",
    ]


def test_images_are_inspected_by_their_pixels_and_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "pictures" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        # Every tenth picture is a copy.
        seed = 0 if index % 10 == 0 else index
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    assert generator is not None
    found = inspect_here(tmp_path, {"source": str(tmp_path / "pictures")})
    picture = found.columns[1]
    assert (picture.kind, picture.power) == ("image", None)
    assert picture.whole.pixels is not None
    assert sum(map(sum, picture.whole.pixels.counts)) == 40 * 8 * 8 * 3
    assert sum(found.copies.repeated) + sum(found.copies.across.values()) >= 3


def test_inspection_is_the_same_however_the_rows_are_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    lines = Path(write(whole, plain)).read_text().splitlines()
    for number in range(5):
        part = [lines[0], *lines[1 + 600 * number : 601 + 600 * number]]
        (parts / f"{number}.csv").write_text("\n".join(part) + "\n")
    one, five = (
        inspect_here(tmp_path, {"source": str(folder), "target": "y"}) for folder in (whole, parts)
    )
    # The splits differ with the places of the rows; all rows together do not.
    assert [c.whole for c in one.columns] == [c.whole for c in five.columns]
    assert one.source != five.source
