"""Scores and batch predictions are those of the bundle, row by row and in order.

The driver computes what is small; the pool of Ray Data is asked for where both must agree.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import small_models
import torch
from sklearn import metrics

from raydc import bundle, evaluate
from raydc.bundle import Bundle
from raydc.data import shards, small_jobs
from raydc.engine import Engine
from raydc.errors import CheckpointError, DataError, UsageError
from raydc.evaluate import held_out_scores
from raydc.features.images import encode_png
from raydc.models.judged import Judged
from raydc.models.scores import Scores
from raydc.storage import Storage

# More than two batches.
NUM_ROWS = 2500


def make(folder: Path, features: Any) -> tuple[Storage, Bundle]:
    place = Storage(str(folder / "bundle"))
    small_models.write_bundle(place, features)
    return place, bundle.load(place)


def data_set(folder: Path, features: Any, x: Any, y: Any) -> Storage:
    place = Storage(str(folder / "data"))
    shards.write_data_set(place, features, {"train": (x[:10], y[:10]), "test": (x, y)})
    return place


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, ray_engine: Engine) -> Engine:
    """All work goes to Ray, however little it is."""
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "0")
    return ray_engine


@pytest.fixture(params=["here", "pool"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the work is done: in this process, or in a pool of Ray Data."""
    if request.param == "pool":
        request.getfixturevalue("pool")
    return str(request.param)


@contextlib.contextmanager
def one_cpu_left(num_free: int) -> Iterator[Callable[[], None]]:
    """Holds all CPUs of the shared Ray but `num_free`; yields a function that lets them go."""

    class Holder:
        def is_there(self) -> bool:
            return True

    # What a test before this one held may still be on its way back: the holder waits for it.
    total = int(ray.cluster_resources()["CPU"])
    holder = ray.remote(num_cpus=total - num_free)(Holder).remote()
    ray.get(holder.is_there.remote(), timeout=60)
    deadline = time.monotonic() + 60
    # Ray counts what is free with a delay.
    while int(ray.available_resources().get("CPU", 0.0)) != num_free:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        yield lambda: ray.kill(holder)
    finally:
        ray.kill(holder)


# Room ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pool")
def test_one_free_cpu_is_enough(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.table_features())
    rows = small_models.table_rows(300)
    x = loaded.features.apply(loaded.features.from_json_rows(rows))
    folder = data_set(tmp_path, loaded.features, x, np.zeros(300, dtype=np.int64))
    source = write_csv(tmp_path / "rows.csv", rows)
    with one_cpu_left(1):
        assert evaluate.run(place, folder)["num_rows"] == 300
        assert evaluate.predict_file(place, source, str(tmp_path / "out.jsonl")) == 300


@pytest.mark.usefixtures("pool")
def test_no_free_cpu_is_said_and_waited_for(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.table_features())
    x = loaded.features.apply(loaded.features.from_json_rows(small_models.table_rows(20)))
    folder = data_set(tmp_path, loaded.features, x, np.zeros(20, dtype=np.int64))
    lines: list[str] = []
    with one_cpu_left(0) as let_go:

        def say(line: str) -> None:
            lines.append(line)
            let_go()

        assert evaluate.run(place, folder, say=say)["num_rows"] == 20
    assert len(lines) == 1
    assert re.fullmatch(r"evaluate  waits for resources; free now: 0(\.\d+)? of 4 CPU", lines[0])


# Scores -------------------------------------------------------------------------------------------


def test_scores_have_the_same_bits_here_and_in_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_engine: Engine
) -> None:
    # Several updates of the metrics, the last of them smaller: last bits of sums depend on them.
    monkeypatch.setattr(held_out_scores, "_ROWS_PER_UPDATE", 300)
    sizes: list[int] = []
    add = Scores.add

    def count(self: Scores, found: Judged, index: int) -> None:
        sizes.append(len(found.predicted_B))
        add(self, found, index)

    monkeypatch.setattr(Scores, "add", count)
    place, loaded = make(tmp_path, small_models.table_features())
    rows = small_models.table_rows(NUM_ROWS)
    x = loaded.features.apply(loaded.features.from_json_rows(rows))
    y = np.random.default_rng(1).integers(0, 3, NUM_ROWS)
    folder = data_set(tmp_path, loaded.features, x, y)
    here, sizes_here = evaluate.run(place, folder), sizes.copy()
    assert sizes_here == [300] * 8 + [100]
    sizes.clear()
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "0")
    assert evaluate.run(place, folder) == here
    assert sizes == sizes_here


@pytest.mark.usefixtures("where")
def test_evaluate_classification_scores(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.table_features())
    rows = small_models.table_rows(NUM_ROWS)
    x = loaded.features.apply(loaded.features.from_json_rows(rows))
    y = np.random.default_rng(1).integers(0, 3, NUM_ROWS)
    found = evaluate.run(place, data_set(tmp_path, loaded.features, x, y))
    outputs = loaded.forward(x)
    predicted = outputs.argmax(axis=1)
    assert found["num_rows"] == NUM_ROWS
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, predicted), abs=1e-12)
    assert found["f1"] == pytest.approx(metrics.f1_score(y, predicted, average="macro"), abs=1e-12)
    assert found["confusion_matrix"] == metrics.confusion_matrix(y, predicted).tolist()
    assert found["support"] == dict(zip(small_models.CLASSES, np.bincount(y).tolist(), strict=True))
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(outputs).double(), torch.from_numpy(y)
    )
    assert found["loss"] == pytest.approx(float(loss), rel=1e-6)


def test_evaluate_scores_slices_of_raw_values(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.table_features())
    rows = small_models.table_rows(NUM_ROWS)
    x = loaded.features.apply_stored(loaded.features.from_json_rows(rows))
    y = np.random.default_rng(1).integers(0, 3, NUM_ROWS)
    folder = data_set(tmp_path, loaded.features, x, y)
    found = evaluate.run(place, folder, slices=("job", "age:30,60"))["slices"]
    predicted = loaded.forward(x).argmax(axis=1)
    ages = np.array([row["age"] for row in rows])
    chosen = {
        ("job", "nurse"): np.array([row["job"] == "nurse" for row in rows]),
        ("job", "(other)"): np.array([row["job"] == "pilot" for row in rows]),
        ("age", "30 to 60"): (ages >= 30) & (ages < 60),
        ("age", "from 60 on"): ages >= 60,
    }
    for (column, name), mask in chosen.items():
        one = found[column][name]
        assert one["num_rows"] == mask.sum()
        expected = metrics.accuracy_score(y[mask], predicted[mask])
        assert one["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert sum(one["num_rows"] for one in found["age"].values()) == NUM_ROWS


def test_evaluate_regression_scores_in_target_units(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.price_features())
    sizes = np.random.default_rng(0).uniform(10, 90, NUM_ROWS)
    prices = 250 + 2 * sizes
    x, y = loaded.features.apply({"size": sizes}), loaded.features.apply_target(prices)
    found = evaluate.run(place, data_set(tmp_path, loaded.features, x, y))
    predicted = loaded.features.unscale(loaded.forward(x))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(prices, predicted), rel=1e-5)
    assert found["rmse"] == pytest.approx(
        metrics.mean_squared_error(prices, predicted) ** 0.5, rel=1e-5
    )
    assert found["r2"] == pytest.approx(metrics.r2_score(prices, predicted), rel=1e-4)
    assert "confusion_matrix" not in found


def test_evaluate_refuses_data_of_another_model(tmp_path: Path) -> None:
    place, _ = make(tmp_path, small_models.table_features())
    other = small_models.price_features()
    folder = data_set(tmp_path, other, np.zeros((20, 1), np.float32), np.zeros(20, np.float32))
    with pytest.raises(DataError, match="was prepared with different features"):
        evaluate.run(place, folder)


def test_evaluate_refuses_a_split_without_rows(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.price_features())
    folder = data_set(
        tmp_path, loaded.features, np.zeros((20, 1), np.float32), np.zeros(20, np.float32)
    )
    assert shards.SPLITS == ("train", "validation", "test")
    with pytest.raises(DataError, match="has no validation rows"):
        evaluate.run(place, folder, "validation")


def test_evaluate_refuses_a_damaged_bundle(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.price_features())
    folder = data_set(
        tmp_path, loaded.features, np.zeros((20, 1), np.float32), np.zeros(20, np.float32)
    )
    (place.local_path / "features.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"features\.json"):
        evaluate.run(place, folder)


# Batch prediction ---------------------------------------------------------------------------------


def write_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_predict_file_equals_predictions_of_the_bundle(tmp_path: Path, suffix: str) -> None:
    place, loaded = make(tmp_path, small_models.table_features())
    rows = small_models.table_rows(300)
    source = write_csv(tmp_path / "rows.csv", [{"id": i, **row} for i, row in enumerate(rows)])
    output = tmp_path / f"out.{suffix}"
    assert evaluate.predict_file(place, source, str(output)) == 300
    found = read(output)
    offline = loaded.predict_rows(rows)
    assert [int(row["id"]) for row in found] == list(range(300))
    assert [row["prediction"] for row in found] == [answer["label"] for answer in offline]
    assert [float(row["score"]) for row in found] == [answer["score"] for answer in offline], (
        "bit for bit"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["bundle", "rows.csv", output.name]
    )


@pytest.mark.usefixtures("where")
def test_predict_file_keeps_row_order_over_files_and_processes(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.price_features())
    (tmp_path / "in").mkdir()
    for part in range(12):
        write_csv(
            tmp_path / "in" / f"{part:02}.csv",
            [{"size": part * 1000 + i} for i in range(200 - 10 * part)],
        )
    num_rows = evaluate.predict_file(place, str(tmp_path / "in"), str(tmp_path / "out.parquet"))
    found = read(tmp_path / "out.parquet")
    sizes = [part * 1000 + i for part in range(12) for i in range(200 - 10 * part)]
    assert num_rows == len(sizes)
    assert [int(row["size"]) for row in found] == sizes
    expected = [
        answer["value"] for answer in loaded.predict_rows([{"size": size} for size in sizes])
    ]
    assert [row["prediction"] for row in found] == pytest.approx(expected, rel=1e-5)
    assert "score" not in found[0]


def test_predict_file_reads_a_folder_of_images(tmp_path: Path) -> None:
    import base64

    place, loaded = make(tmp_path, small_models.picture_features())
    pictures = small_models.pictures(9)
    for index, pixels in enumerate(pictures):
        path = tmp_path / "in" / small_models.CLASSES[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(encode_png(pixels)))
    assert evaluate.predict_file(place, str(tmp_path / "in"), str(tmp_path / "out.jsonl")) == 9
    found = read(tmp_path / "out.jsonl")
    # The rows of a folder are in the order of its files.
    order = sorted(range(9), key=lambda index: (small_models.CLASSES[index % 3], f"{index}.png"))
    offline = loaded.predict_columns({"image": [pictures[index] for index in order]})
    assert [row["prediction"] for row in found] == [answer["label"] for answer in offline]
    assert [row["label"] for row in found] == [small_models.CLASSES[index % 3] for index in order]


@pytest.mark.usefixtures("where")
def test_predict_file_names_a_wrong_row_and_leaves_nothing(tmp_path: Path) -> None:
    place, _ = make(tmp_path, small_models.table_features())
    rows = small_models.table_rows(30)
    rows[17]["age"] = "old"
    source = write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(DataError, match=r"rows\.csv: row 18: age: 'old' is not a number"):
        evaluate.predict_file(place, source, str(tmp_path / "out.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "rows.csv"]


def test_predict_file_refuses_a_source_without_a_column(tmp_path: Path) -> None:
    place, _ = make(tmp_path, small_models.table_features())
    source = write_csv(tmp_path / "rows.csv", [{"age": 1, "job": "cook"}])
    with pytest.raises(DataError, match="column 'hours' is missing"):
        evaluate.predict_file(place, source, str(tmp_path / "out.csv"))


def test_predict_file_refuses_a_column_named_like_an_output(tmp_path: Path) -> None:
    place, _ = make(tmp_path, small_models.price_features())
    source = write_csv(tmp_path / "rows.csv", [{"size": 1, "prediction": 2}])
    with pytest.raises(DataError, match="has a column 'prediction' already"):
        evaluate.predict_file(place, source, str(tmp_path / "out.csv"))


@pytest.mark.parametrize("name", ["out", "out.txt", "folder/out.csv.gz"])
def test_predict_file_refuses_an_unknown_output_format(tmp_path: Path, name: str) -> None:
    place, _ = make(tmp_path, small_models.price_features())
    with pytest.raises(UsageError, match="no format is known"):
        evaluate.predict_file(place, "rows.csv", str(tmp_path / name))


# Labels and rankings ------------------------------------------------------------------------------


def test_labels_are_scored_as_scikit_learn_does(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.label_features())
    rows = small_models.table_rows(NUM_ROWS)
    x = loaded.features.apply(loaded.features.from_json_rows(rows))
    marks = np.random.default_rng(0).integers(0, 2, (NUM_ROWS, 3)).astype(np.uint8)
    found = evaluate.run(place, data_set(tmp_path, loaded.features, x, marks), slices=["job"])
    called = loaded.features.choose(loaded.features.scores(loaded.forward(x)))
    assert found["f1"] == pytest.approx(metrics.f1_score(marks, called, average="macro"))
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(marks, called))
    assert found["support"] == dict(zip(small_models.CLASSES, marks.sum(0).tolist(), strict=True))
    recall = metrics.recall_score(marks, called, average=None)
    shown = [found["per_class"][name]["recall"] for name in small_models.CLASSES]
    assert shown == pytest.approx(recall)
    assert "confusion_matrix" not in found
    by_job = found["slices"]["job"]
    cooks = np.array([row["job"] == "cook" for row in rows])
    assert by_job["cook"]["num_rows"] == cooks.sum()
    expected = metrics.f1_score(marks[cooks], called[cooks], average="micro")
    assert by_job["cook"]["f1_micro"] == pytest.approx(expected)


def test_rows_are_ranked_in_their_groups(tmp_path: Path) -> None:
    place, loaded = make(tmp_path, small_models.price_features())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 1)).astype(np.float32)
    # Prices above 0, which are gains.
    y = rng.uniform(-2, 2, NUM_ROWS).astype(np.float32)
    queries = rng.integers(0, 40, NUM_ROWS)
    folder = Storage(str(tmp_path / "data"))
    splits = {"train": (x[:10], y[:10]), "test": (x, y)}
    groups = {"train": queries[:10], "test": queries}
    shards.write_data_set(folder, loaded.features, splits, queries=groups)
    spec = loaded.spec.model_copy(
        update={"data": loaded.spec.data.model_copy(update={"query": "shop"})}
    )
    bundle.write(place, spec, loaded.features, loaded.model.state_dict(), [], {})
    found = evaluate.run(place, folder)
    values, prices = loaded.features.unscale(loaded.forward(x)), loaded.features.unscale(y)
    each = [
        metrics.ndcg_score([prices[queries == one]], [values[queries == one]], k=10)
        for one in range(40)
    ]
    assert found["ndcg"] == pytest.approx(np.mean(each), abs=1e-6)
