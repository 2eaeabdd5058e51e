"""From sources to shards: the same content however it is read, and every row in its place."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import preparing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from preparing import people, write_csv, write_jsonl
from ray.data import DataContext

from raydc import engine
from raydc.data import prepare, prepared, tasks
from raydc.data.shard_writer import NUM_GOLDEN_ROWS
from raydc.errors import DataError
from raydc.features import Categorical, Numeric
from raydc.spec import loads, resolve

pytestmark = pytest.mark.usefixtures("ray_engine")


@pytest.fixture
def tiny_blocks() -> Iterator[None]:
    """Ray Data cuts its blocks after every few rows."""
    context = DataContext.get_current()
    largest, smallest = context.target_max_block_size, context.target_min_block_size
    context.target_max_block_size, context.target_min_block_size = 8_000, 1
    yield
    context.target_max_block_size, context.target_min_block_size = largest, smallest


def _csv_files(folder: Path) -> dict[str, Any]:
    for index in range(3):
        write_csv(folder / "rows" / f"part-{index}.csv", people(150, index))
    return {"source": str(folder / "rows"), "clean": {"duplicates": "drop"}}


def _parquet_file(folder: Path) -> dict[str, Any]:
    pq.write_table(pa.Table.from_pylist(people(400)), folder / "rows.parquet", row_group_size=90)
    return {"source": str(folder / "rows.parquet")}


def _json_lines(folder: Path) -> dict[str, Any]:
    return {
        "source": str(write_jsonl(folder / "rows.jsonl", people(400))),
        "clean": {"missing": "drop"},
    }


def _regression(folder: Path) -> dict[str, Any]:
    return {
        "source": str(write_csv(folder / "rows.csv", people(400))),
        "task": "regression",
        "target": "age",
    }


def _idx_files(folder: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    (folder / "idx").mkdir()
    for part, num_rows in (("train", 300), ("t10k", 50)):
        images = generator.integers(0, 256, (num_rows, 6, 5), dtype=np.uint8)
        labels = generator.integers(0, 3, num_rows, dtype=np.uint8)
        (folder / "idx" / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(preparing.idx(images))
        )
        (folder / "idx" / f"{part}-labels-idx1-ubyte").write_bytes(preparing.idx(labels))
    return {"source": str(folder / "idx")}


def _image_folder(folder: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for index in range(count):
            path = folder / "photos" / part / ("cat", "dog")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8 + index % 3, 9, 3), dtype=np.uint8)).save(
                path
            )
    return {"source": str(folder / "photos"), "features": {"image_size": [6, 7]}}


def _documents(folder: Path) -> dict[str, Any]:
    (folder / "texts").mkdir()
    for index in range(8):
        rows = people(40, index)
        text = "\n\n".join(f"{row['city']} {row['age']}\n{row}" for row in rows)
        (folder / "texts" / f"{index}.txt").write_text(text)
    return {
        "source": str(folder / "texts"),
        "task": "language_modelling",
        "blocks": {"length": 16, "documents": "paragraph"},
    }


def no_ray() -> None:
    raise AssertionError("a small source needs no Ray")


SOURCES = [_csv_files, _parquet_file, _json_lines, _regression, _idx_files, _image_folder]


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("make", [*SOURCES, _documents])
def test_prepare_content_is_the_same_at_any_parallelism(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_blocks = []

    def read_and_shuffle(*arguments: Any) -> list[Any]:
        blocks = read(*arguments)
        num_blocks.append(len(blocks))
        return blocks[::-2] + blocks[-2::-2]  # Blocks arrive in any order.

    read = tasks.read_blocks
    data = make(tmp_path)
    one, _ = preparing.run(tmp_path / "one", data, parallelism=1)
    monkeypatch.setattr(tasks, "read_blocks", read_and_shuffle)
    seven, _ = preparing.run(tmp_path / "seven", data, parallelism=7)
    assert num_blocks[0] >= 7
    assert not seven.reused
    assert seven.folder.local_path.name == one.folder.local_path.name
    assert preparing.contents(seven) == preparing.contents(one)
    assert one.num_rows["train"] > 0
    monkeypatch.undo()
    here, _ = preparing.run(tmp_path / "here", data, connect=no_ray)
    assert preparing.contents(here) == preparing.contents(one)


@pytest.mark.parametrize("make", SOURCES)
def test_golden_rows_equal_rows_of_the_shard(tmp_path: Path, make: Any) -> None:
    prepared, _ = preparing.run(tmp_path / "storage", make(tmp_path))
    golden = prepared.folder.read_json("golden_rows.json")
    x, _, _ = preparing.split(prepared, "test")
    features = prepared.features
    assert len(golden) == min(NUM_GOLDEN_ROWS, len(x))
    np.testing.assert_array_equal(features.apply(features.from_json_rows(golden)), x[: len(golden)])


def test_prepare_twice_reuses_the_data_set_and_says_so(tmp_path: Path) -> None:
    data = _parquet_file(tmp_path)
    first, lines = preparing.run(tmp_path / "storage", data)
    before = {path: path.stat().st_mtime_ns for path in first.folder.local_path.iterdir()}
    again, said = preparing.run(tmp_path / "storage", data)
    name = first.folder.local_path.name
    assert said == [f"data set {name} is prepared already: 400 rows; nothing to do"]
    assert lines[-1] == f"data set {name}: 400 rows"
    assert again.reused
    assert not first.reused
    assert again.features == first.features
    assert {path: path.stat().st_mtime_ns for path in first.folder.local_path.iterdir()} == before


def test_moved_source_or_augmentation_keeps_the_data_set(tmp_path: Path) -> None:
    data = _csv_files(tmp_path)
    first, _ = preparing.run(tmp_path / "storage", data)
    (tmp_path / "rows").rename(tmp_path / "elsewhere")
    elsewhere = {"source": str(tmp_path / "elsewhere"), "augment": {"horizontal_flip": True}}
    moved, _ = preparing.run(tmp_path / "storage", {**data, **elsewhere})
    assert moved.reused
    assert moved.data_hash == first.data_hash


def test_changed_byte_makes_another_data_set(tmp_path: Path) -> None:
    data = _csv_files(tmp_path)
    first, _ = preparing.run(tmp_path / "storage", data)
    path = tmp_path / "rows" / "part-1.csv"
    path.write_text(path.read_text().replace("Rome", "Roma", 1))
    second, _ = preparing.run(tmp_path / "storage", data)
    assert second.data_hash != first.data_hash
    assert prepared.load(first.folder).num_rows == first.num_rows


def test_damaged_data_set_is_refused_by_name(tmp_path: Path) -> None:
    data = _parquet_file(tmp_path)
    first, _ = preparing.run(tmp_path / "storage", data)
    (first.folder.local_path / "train-00000.arrow").unlink()
    with pytest.raises(DataError, match=r"train-00000\.arrow is missing"):
        preparing.run(tmp_path / "storage", data)


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = people(300)
    write_csv(tmp_path / "rows.csv", rows)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    names = ("rows.csv", "rows.csv.gz", "rows.jsonl", "rows.parquet")
    made = [
        preparing.run(tmp_path / "storage", {"source": str(tmp_path / name)})[0] for name in names
    ]
    for other in made[1:]:
        for part in ("train", "validation", "test"):
            for a, b in zip(
                preparing.split(made[0], part), preparing.split(other, part), strict=True
            ):
                np.testing.assert_array_equal(a, b)


def test_each_row_is_in_one_split_under_its_row_id(tmp_path: Path) -> None:
    files = [people(150, index) for index in range(3)]
    prepared, _ = preparing.run(tmp_path / "storage", {**_csv_files(tmp_path), "clean": {}})
    age = list(prepared.features.columns).index("age")
    statistics = prepared.features.columns["age"]
    assert isinstance(statistics, Numeric)
    seen = {}
    for part in ("train", "validation", "test"):
        x, _, ids = preparing.split(prepared, part)
        assert (np.diff(ids) > 0).all()
        seen.update(zip(ids.tolist(), x[:, age] * statistics.scale + statistics.shift, strict=True))
    expected = {
        (index << 40) + row: rows[row]["age"]
        for index, rows in enumerate(files)
        for row in range(150)
    }
    assert seen.keys() == expected.keys()
    for row_id, value in seen.items():
        assert value == pytest.approx(expected[row_id], abs=1e-3)


def test_statistics_come_from_training_rows_only(tmp_path: Path) -> None:
    rows = people(500)
    prepared, _ = preparing.run(
        tmp_path / "storage", {"source": str(write_csv(tmp_path / "rows.csv", rows))}
    )
    _, _, ids = preparing.split(prepared, "train")
    training = [rows[row_id] for row_id in ids]
    heights = np.array([row["height"] for row in training if row["height"] is not None])
    height, city = prepared.features.columns["height"], prepared.features.columns["city"]
    assert isinstance(height, Numeric)
    assert isinstance(city, Categorical)
    assert height.mean == pytest.approx(heights.mean(), rel=1e-14)
    assert height.scale == pytest.approx(heights.std(), rel=1e-12)
    counts = {
        name: sum(row["city"] == name for row in training) for name in ("Rome", "Oslo", "Lima")
    }
    assert list(city.categories) == sorted(counts, key=lambda name: (-counts[name], name))
    assert (city.has_other, city.has_missing) == (False, True)


def test_pixels_keep_values_and_have_statistics_per_channel(tmp_path: Path) -> None:
    prepared, _ = preparing.run(tmp_path / "storage", _idx_files(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (300, 6, 5), dtype=np.uint8)
    x, _, ids = preparing.split(prepared, "train")
    np.testing.assert_array_equal(x[:, 0], images[ids])
    assert prepared.features.signature.mean == pytest.approx((x.mean(),))
    assert prepared.features.signature.scale == pytest.approx((x.std(),))
    assert prepared.num_rows["test"] == 50


def test_interrupted_prepare_leaves_nothing(tmp_path: Path) -> None:
    spec = resolve(loads(preparing.spec_text(tmp_path / "storage", _parquet_file(tmp_path))))
    reported = []

    def stop_after_writing(line: str) -> None:
        reported.append(line)
        if line.startswith("wrote"):
            assert list((tmp_path / "storage").rglob("*.arrow"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.run(spec, stop_after_writing)
    assert reported[-1].startswith("wrote")
    assert list((tmp_path / "storage").rglob("*")) == [tmp_path / "storage" / "data"]


def test_prepare_shows_progress_while_reading(tmp_path: Path) -> None:
    lines: list[str] = []
    text = preparing.spec_text(tmp_path / "storage", _csv_files(tmp_path))
    prepare.run(resolve(loads(text)), lines.append, report_every_s=0.0)
    counts = [int(line.split()[1]) for line in lines if line.endswith("rows so far")]
    assert len(counts) == 3
    assert counts == sorted(counts)
    assert counts[-1] == 450


def test_two_prepares_at_once_make_one_data_set(tmp_path: Path) -> None:
    spec = resolve(loads(preparing.spec_text(tmp_path / "storage", _parquet_file(tmp_path))))
    others = []

    def let_another_be_first(line: str) -> None:
        if line.startswith("wrote"):
            others.append(prepare.run(spec, lambda _: None))

    late = prepare.run(spec, let_another_be_first)
    assert [other.reused for other in others] == [False]
    assert late.folder.uri == others[0].folder.uri
    assert [path.name for path in (tmp_path / "storage" / "data").iterdir()] == [
        late.folder.local_path.name
    ]


def test_unwritable_storage_is_named(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "data").write_text("in the way")
    with pytest.raises(DataError, match=rf"storage {tmp_path}/storage/data/.* cannot be written: "):
        preparing.run(tmp_path / "storage", _parquet_file(tmp_path))


def test_engine_is_usable_and_quiet_after_prepare(ray_engine: engine.Engine) -> None:
    assert DataContext.get_current().enable_progress_bars
    assert ray_engine.num_nodes == 1
