"""Every field of `data` has an effect on the prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import preparing
import pytest
from PIL import Image
from preparing import people, write_csv

from raydc.data.prepared import Prepared
from raydc.data.shard_writer import NUM_GOLDEN_ROWS
from raydc.errors import DataError
from raydc.features import Categorical, Column, Numeric

pytestmark = pytest.mark.usefixtures("ray_engine")


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return str(write_csv(tmp_path / "rows.csv", people(300)))


def _made(folder: Path, source: str, seed: int = 0, **data: Any) -> Prepared:
    return preparing.run(folder / "storage", {"source": source, **data}, seed)[0]


def _column(prepared: Prepared, name: str, kind: type[Column]) -> Any:
    column = prepared.features.columns[name]
    assert isinstance(column, kind)
    return column


def test_target_and_task_select_column_and_kind(tmp_path: Path, rows: str) -> None:
    prepared = _made(tmp_path, rows, target="age", task="regression")
    x, y, _ = preparing.split(prepared, "train")
    ages = prepared.features.unscale(y)
    assert y.dtype == np.float32
    assert abs(float(y.mean())) < 1e-5
    assert float(y.std()) == pytest.approx(1.0, abs=1e-5)
    assert {round(age) for age in ages.tolist()} <= set(range(18, 90))
    assert "label" in prepared.features.columns
    assert prepared.features.signature.num_outputs == 1
    assert len(x) == prepared.num_rows["train"]


def test_classes_fix_the_order_of_labels(tmp_path: Path, rows: str) -> None:
    inferred, given = (
        _made(tmp_path, rows),
        _made(tmp_path, rows, classes=["young", "old", "other"]),
    )
    assert inferred.features.signature.classes == ("old", "young")
    assert given.features.signature.classes == ("young", "old", "other")
    np.testing.assert_array_equal(
        preparing.split(given, "train")[1], 1 - preparing.split(inferred, "train")[1]
    )


def test_numeric_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    listed = [{"a": row, "label": (10, 9, 2)[row % 3]} for row in range(90)]
    assert _made(
        tmp_path, str(write_csv(tmp_path / "r.csv", listed))
    ).features.signature.classes == ("2", "9", "10")


def test_format_overrides_the_file_name(tmp_path: Path, rows: str) -> None:
    (tmp_path / "rows.data").write_bytes(Path(rows).read_bytes())
    assert (
        _made(tmp_path, str(tmp_path / "rows.data"), format="csv").num_rows
        == _made(tmp_path, rows).num_rows
    )


def test_seed_and_fractions_determine_the_split(tmp_path: Path, rows: str) -> None:
    def ids(part: str, seed: int = 0, **split: float) -> set[int]:
        return set(preparing.split(_made(tmp_path, rows, seed, split=split), part)[2].tolist())

    assert 10 < len(ids("validation", validation_fraction=0.1)) < 60
    assert 100 < len(ids("validation", validation_fraction=0.5)) < 200
    assert 100 < len(ids("test", test_fraction=0.5)) < 200
    # A different validation part takes no row from the test part.
    assert ids("test", validation_fraction=0.1, test_fraction=0.2) == ids(
        "test", validation_fraction=0.3, test_fraction=0.2
    )
    assert ids("test", 0, test_fraction=0.2) != ids("test", 1, test_fraction=0.2)


def test_fraction_zero_gives_an_empty_split(tmp_path: Path, rows: str) -> None:
    prepared = _made(tmp_path, rows, split={"validation_fraction": 0.0, "test_fraction": 0.1})
    assert prepared.num_rows["validation"] == 0
    assert prepared.num_rows["train"] + prepared.num_rows["test"] == 300
    assert 0 < prepared.num_rows["test"] < 60
    assert len(prepared.folder.read_json("golden_rows.json")) == min(
        NUM_GOLDEN_ROWS, prepared.num_rows["test"]
    )


def test_test_source_is_used_whole(tmp_path: Path, rows: str) -> None:
    source = {"train": rows, "test": str(write_csv(tmp_path / "held-out.csv", people(40, 9)))}
    prepared = preparing.run(tmp_path / "storage", {"source": source})[0]
    assert prepared.num_rows["test"] == 40
    assert prepared.num_rows["train"] + prepared.num_rows["validation"] == 300


def test_missing_features_are_imputed_or_dropped(tmp_path: Path, rows: str) -> None:
    filled, dropped = _made(tmp_path, rows), _made(tmp_path, rows, clean={"missing": "drop"})
    whole = sum(None not in row.values() for row in people(300))
    assert sum(filled.num_rows.values()) == 300
    assert sum(dropped.num_rows.values()) == whole < 300
    assert _column(filled, "city", Categorical).has_missing
    assert not _column(dropped, "city", Categorical).has_missing


def test_missing_target_is_dropped_under_drop(tmp_path: Path) -> None:
    listed = people(100)
    listed[30]["label"] = None
    source = str(write_csv(tmp_path / "r.csv", listed))
    prepared = _made(tmp_path, source, clean={"missing": "drop"})
    assert 30 not in np.concatenate(
        [preparing.split(prepared, part)[2] for part in ("train", "validation", "test")]
    )


def test_missing_values_lists_strings_that_mean_missing(tmp_path: Path) -> None:
    listed = [{"a": "-" if row % 10 == 0 else row, "label": row % 2} for row in range(100)]
    source = str(write_csv(tmp_path / "r.csv", listed))
    data = {"source": source}
    prepared, said = preparing.run(tmp_path / "storage", data)
    assert isinstance(prepared.features.columns["a"], Categorical)
    assert any(
        "column 'a' is taken as categorical, but 90 of its 100 values are numbers" in line
        for line in said
    )
    told, said = preparing.run(tmp_path / "storage", {**data, "clean": {"missing_values": ["-"]}})
    assert isinstance(told.features.columns["a"], Numeric)
    assert not any("note" in line for line in said)
    assert told.features.missing_values == ("-",)


def test_duplicates_drop_removes_later_copies(tmp_path: Path) -> None:
    listed = people(100)
    for path, part in (
        ("a.csv", listed[:60]),
        ("b.csv", [*listed[60:], listed[3], listed[50], listed[70]]),
    ):
        write_csv(tmp_path / "rows" / path, part)
    kept = _made(tmp_path, str(tmp_path / "rows"))
    dropped = _made(tmp_path, str(tmp_path / "rows"), clean={"duplicates": "drop"})
    assert sum(kept.num_rows.values()) == 103
    assert sum(dropped.num_rows.values()) == 100
    ids = np.concatenate(
        [preparing.split(dropped, part)[2] for part in ("train", "validation", "test")]
    )
    assert not set(ids.tolist()) & {(1 << 40) + row for row in (40, 41, 42)}


def test_excluded_columns_are_no_inputs(tmp_path: Path, rows: str) -> None:
    prepared = _made(tmp_path, rows, features={"exclude": ["height"]})
    assert list(prepared.features.columns) == ["age", "city"]
    assert prepared.features.from_json_rows([{"age": 3, "height": 170}]) == {
        "age": [3],
        "city": [None],
    }


def test_columns_override_the_inferred_kind(tmp_path: Path, rows: str) -> None:
    column = _column(
        _made(tmp_path, rows, features={"columns": {"age": "categorical"}}), "age", Categorical
    )
    assert set(column.categories) <= {str(age) for age in range(18, 90)}


def test_max_categories_groups_the_rest_as_other(tmp_path: Path, rows: str) -> None:
    column = _column(_made(tmp_path, rows, features={"max_categories": 2}), "city", Categorical)
    assert len(column.categories) == 2
    assert column.has_other


def test_scale_of_numbers_is_applied(tmp_path: Path, rows: str) -> None:
    def ages(scale: str) -> Any:
        return preparing.split(_made(tmp_path, rows, features={"scale": scale}), "train")[0][:, 0]

    assert float(ages("standard").mean()) == pytest.approx(0, abs=1e-5)
    assert (float(ages("min_max").min()), float(ages("min_max").max())) == (0.0, 1.0)
    assert float(ages("none").min()) >= 18


def test_constant_column_becomes_zero(tmp_path: Path) -> None:
    listed = [{"a": 0.1, "b": row, "label": row % 2} for row in range(60)]
    for scale in ("standard", "min_max"):
        prepared = _made(
            tmp_path, str(write_csv(tmp_path / "r.csv", listed)), features={"scale": scale}
        )
        assert (preparing.split(prepared, "train")[0][:, 0] == 0).all()


def test_identifier_like_columns_are_reported(tmp_path: Path) -> None:
    listed = [{"id": f"person-{row}", "a": row, "label": row % 2} for row in range(300)]
    source = str(write_csv(tmp_path / "r.csv", listed))
    _, said = preparing.run(tmp_path / "storage", {"source": source})
    assert any(
        "note: column 'id' has" in line and "data.features.exclude: [id]" in line for line in said
    )


@pytest.fixture
def photos(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    for index in range(40):
        path = tmp_path / "photos" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (8, 6, 3) if index % 3 else (8, 6)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return str(tmp_path / "photos")


def test_image_size_and_channels_are_applied(tmp_path: Path, photos: str) -> None:
    shapes = {
        (): (3, 8, 6),
        (("image_size", (4, 5)),): (3, 4, 5),
        (("image_channels", 1),): (1, 8, 6),
    }
    for fields, shape in shapes.items():
        features = {name: list(v) if isinstance(v, tuple) else v for name, v in fields}
        prepared = _made(tmp_path, photos, features=features)
        assert prepared.features.signature.shape == shape
        assert preparing.split(prepared, "train")[0].shape[1:] == shape
        assert len(prepared.features.signature.mean) == shape[0]


def test_scale_of_pixels_is_applied(tmp_path: Path, photos: str) -> None:
    for scale, mean, divisor in (("min_max", 0.0, 255.0), ("none", 0.0, 1.0)):
        signature = _made(tmp_path, photos, features={"scale": scale}).features.signature
        assert (signature.mean, signature.scale) == ((mean,) * 3, (divisor,) * 3)


def test_images_inside_a_table_are_decoded(tmp_path: Path, photos: str) -> None:
    import base64
    import json

    files = sorted(Path(photos).rglob("*.png"), key=lambda path: int(path.stem))
    lines = [
        {
            "picture": base64.b64encode(path.read_bytes()).decode(),
            "label": path.parent.name,
            "id": path.stem,
        }
        for path in files
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    features = {"columns": {"picture": "image"}, "exclude": ["id"]}
    prepared = _made(tmp_path, str(tmp_path / "rows.jsonl"), features=features)
    assert prepared.features.signature.shape == (3, 8, 6)
    # Beside another column, the images are a field of their own.
    features_of_both = {"columns": {"picture": "image"}}
    both = _made(tmp_path, str(tmp_path / "rows.jsonl"), features=features_of_both)
    fields = both.features.signature.fields
    assert {name: field.shape for name, field in fields.items()} == {
        "columns": (1,),
        "picture": (3, 8, 6),
    }
    lines[3]["picture"] = base64.b64encode(b"no image").decode()
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(DataError, match=r"rows\.jsonl: line 4: picture: not a readable image"):
        _made(tmp_path, str(tmp_path / "rows.jsonl"), features=features)
