"""What `bench.scale` runs beside raydc, each as a command of its own: polars, Ray Data, torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = [f"n{index}" for index in range(12)]
CATEGORIES = [f"c{index}" for index in range(8)]
BATCH = 256
EPOCHS = 3


def write_table(num_rows: int, path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    choose = np.random.default_rng(0)
    words = np.array([f"word{index}" for index in range(30)])
    columns = {name: pa.array(choose.normal(size=num_rows)) for name in NUMBERS}
    columns |= {name: pa.array(words[choose.integers(0, 30, num_rows)]) for name in CATEGORIES}
    is_yes = columns["n0"].to_numpy() + choose.normal(size=num_rows) > 0
    columns["y"] = pa.array(np.where(is_yes, "yes", "no"))
    pq.write_table(pa.table(columns), path, row_group_size=100_000)


def polars_prepare(work: Path) -> None:
    import polars as pl

    table = pl.read_parquet(work / "table.parquet").with_row_index("row")
    draws = (pl.col("row").hash(0) % 1000) / 1000
    split = pl.when(draws < 0.8).then(0).when(draws < 0.9).then(1).otherwise(2)
    table = table.with_columns(split.cast(pl.UInt8).alias("split"))
    training = table.filter(pl.col("split") == 0)
    means = training.select(pl.col(NUMBERS).mean()).row(0)
    deviations = training.select(pl.col(NUMBERS).std(ddof=0)).row(0)
    steps = [
        ((pl.col(name) - mean) / deviation).cast(pl.Float32)
        for name, mean, deviation in zip(NUMBERS, means, deviations, strict=True)
    ]
    for name in CATEGORIES:
        counts = training[name].value_counts().sort(["count", name], descending=[True, False])
        codes = {text: code for code, text in enumerate(counts[name].to_list())}
        steps.append(pl.col(name).replace_strict(codes, default=255, return_dtype=pl.UInt8))
    table = table.with_columns(*steps, (pl.col("y") == "yes").cast(pl.UInt8))
    (work / "polars").mkdir(exist_ok=True)
    for split_code, part in enumerate(("train", "validation", "test")):
        rows = table.filter(pl.col("split") == split_code).drop("split")
        rows.write_ipc(work / "polars" / f"{part}.arrow")


def ray_floor(work: Path) -> None:
    import ray

    ray.init(log_to_driver=False, include_dashboard=False)
    rows = ray.data.read_parquet(str(work / "table.parquet"))
    rows.map_batches(lambda batch: batch, batch_format="pyarrow").write_parquet(str(work / "floor"))
    ray.shutdown()


def polars_predict(work: Path) -> None:
    """The same network on the same inputs, from the features and weights that raydc wrote."""
    import numpy as np
    import polars as pl

    table, fitted = pl.read_parquet(work / "table.parquet"), _fitted(work)
    numbers = [
        (table[name].to_numpy() - fitted[name]["shift"]) / fitted[name]["scale"] for name in NUMBERS
    ]
    codes = []
    for name in CATEGORIES:
        known = {text: code for code, text in enumerate(fitted[name]["categories"])}
        codes.append(table[name].replace_strict(known, return_dtype=pl.Int64).to_numpy())
    scores = _forward(work, numbers, codes)
    answers = {
        "prediction": np.array(["no", "yes"])[scores.argmax(1)],
        "score": scores.max(axis=1),
    }
    table.with_columns(**{key: pl.Series(key, one) for key, one in answers.items()}).write_parquet(
        work / "peer.parquet"
    )


def sklearn_evaluate(work: Path) -> None:
    """The same network on the test rows that polars has prepared, and its scores."""
    import numpy as np
    import polars as pl
    from sklearn import metrics

    table = pl.read_ipc(work / "polars" / "test.arrow")
    numbers = [table[name].to_numpy() for name in NUMBERS]
    codes = [table[name].to_numpy() for name in CATEGORIES]
    scores = _forward(work, numbers, codes)
    is_yes, predicted = table["y"].to_numpy(), np.argmax(scores, axis=1)
    found = {
        "loss": metrics.log_loss(is_yes, scores),
        "accuracy": metrics.accuracy_score(is_yes, predicted),
        "f1": metrics.f1_score(is_yes, predicted, average="macro"),
        "auroc": metrics.roc_auc_score(is_yes, scores[:, 1]),
        "average_precision": metrics.average_precision_score(is_yes, scores[:, 1]),
    }
    confusion = metrics.confusion_matrix(is_yes, predicted).tolist()
    (work / "scores.json").write_text(json.dumps({**found, "confusion": confusion}))


def _fitted(work: Path) -> dict[str, Any]:
    """What raydc has fitted, by column."""
    columns = json.loads((_version(work) / "features.json").read_text())["columns"]
    return {column["name"]: column for column in columns}


def _version(work: Path) -> Path:
    return work / "store" / "models" / "scale" / "versions" / "1"


def _forward(work: Path, numbers: list[Any], codes: list[Any]) -> Any:
    """Probabilities of both classes by the network that raydc wrote, float64 [rows, 2]."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    weights = load_file(_version(work) / "model.safetensors")
    fitted = _fitted(work)
    inputs = [torch.from_numpy(column.astype(np.float32))[:, None] for column in numbers]
    for name, column in zip(CATEGORIES, codes, strict=True):
        known = len(fitted[name]["categories"])
        # A category that training has not seen has a code beyond these: a row of zeros.
        wide = torch.nn.functional.one_hot(torch.tensor(column).long().clamp(max=known), known + 1)
        inputs.append(wide[:, :known].float())
    with torch.inference_mode():
        values = torch.cat(inputs, dim=1)
        layers = sorted({name.rpartition(".")[0] for name in weights})
        for index, layer in enumerate(layers):
            values = torch.nn.functional.linear(
                values, weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            )
            values = values.relu() if index < len(layers) - 1 else values
        return values.double().softmax(dim=1).numpy()


def write_training_rows(work: Path) -> None:
    """The rows that polars has prepared, as Parquet, which Ray Data reads best."""
    import polars as pl

    target = work / "train.parquet"
    if not target.exists():
        pl.read_ipc(work / "polars" / "train.arrow").drop("row").write_parquet(target)


def raydc_feed(work: Path) -> None:
    import torch

    from raydc.data.shards import open_rows
    from raydc.loop.feed import Feed
    from raydc.loop.group import World
    from raydc.models.row_tensors import network_inputs
    from raydc.storage import Storage

    (folder,) = (work / "store" / "data").glob("scale-*")
    rows, world = open_rows(Storage(str(folder)), "train"), World(0, 1, torch.device("cpu"))
    feed = Feed(rows, 0, BATCH, 1, world)
    for epoch in range(EPOCHS):
        for batch in feed.batches(epoch, 0, feed.steps_per_epoch):
            assert isinstance(network_inputs(batch.x), torch.Tensor)


def loader_feed(work: Path) -> None:
    """The quickest use of torch's loader: whole batches from arrays in memory, by index."""
    import pyarrow.parquet as pq
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    table = pq.read_table(work / "train.parquet")
    numbers = torch.stack([torch.from_numpy(table[n].to_numpy()) for n in NUMBERS], dim=1)
    codes = torch.stack([torch.from_numpy(table[n].to_numpy()) for n in CATEGORIES], dim=1)
    rows = TensorDataset(numbers, codes, torch.from_numpy(table["y"].to_numpy()))
    sampler = BatchSampler(RandomSampler(rows), BATCH, drop_last=False)
    for _ in range(EPOCHS):
        for batch in DataLoader(rows, sampler=sampler, batch_size=None):
            assert len(batch) == 3


def ray_feed(work: Path) -> None:
    import ray

    ray.init(log_to_driver=False, include_dashboard=False)
    rows = ray.data.read_parquet(str(work / "train.parquet")).materialize()
    for _ in range(EPOCHS):
        for batch in rows.random_shuffle().iter_torch_batches(batch_size=BATCH):
            assert len(batch) == 21
    ray.shutdown()


PEERS: dict[str, Callable[[Path], None]] = {
    "polars-prepare": polars_prepare,
    "polars-predict": polars_predict,
    "sklearn-evaluate": sklearn_evaluate,
    "ray-floor": ray_floor,
    "training-rows": write_training_rows,
    "raydc-feed": raydc_feed,
    "loader-feed": loader_feed,
    "ray-feed": ray_feed,
}


if __name__ == "__main__":
    PEERS[sys.argv[1]](Path(sys.argv[2]))
