"""Preparation, reading and batch prediction of growing tables, beside polars, Ray Data and torch.

    python -m bench.scale [--rows 10000 100000 1000000] [--rounds 3] [--stages prepare predict]

A table has twelve columns of numbers, eight of thirty categories and a target of two classes, as
Parquet. `prepare` reads it, splits it by row, standardises numbers by the training rows, turns
categories into numbers and writes each split. `feed` reads the training rows three times in batches
of 256, in a new order each time: raydc with one input per category, as a network takes it, the
others with a number. `predict` adds the answers of a network of 64 hidden units to each row. Each
contender is a command of its own, in turn; CPU counts all of its processes
(Linux). Predictions of both are compared. Prints one table, writes bench/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measured import run_for_json

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = [f"n{index}" for index in range(12)]
CATEGORIES = [f"c{index}" for index in range(8)]
STAGES = ("prepare", "feed", "predict")
BATCH = 256
EPOCHS = 3
SPEC = """
name: scale
storage: {store}
data: {{source: {source}, target: y}}
model: {{name: mlp, hidden: [64]}}
train: {{max_steps: 50, global_batch_size: 256}}
scaling: {{num_workers: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, work = options.one
        PEERS[contender](Path(work))
        return
    rows = [row for num_rows in options.rows for row in measure(num_rows, options)]
    show(rows)


def measure(num_rows: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures all contenders on a table of so many rows, in turn."""
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as folder:
        work = Path(folder)
        write_table(num_rows, work / "table.parquet")
        spec = work / "spec.yaml"
        raydc = [sys.executable, "-c", "from raydc.cli import main; main()"]
        paths = {"source": str(work / "table.parquet"), "store": str(work / "store")}
        spec.write_text(SPEC.format(**paths))
        predict = ["predict", str(spec), "--input", paths["source"]]
        commands = {
            ("prepare", "raydc"): [*raydc, "prepare", str(spec)],
            ("prepare", "polars"): peer("polars-prepare", work),
            ("prepare", "Ray Data alone"): peer("ray-floor", work),
            ("feed", "raydc"): peer("raydc-feed", work),
            ("feed", "DataLoader"): peer("loader-feed", work),
            ("feed", "Ray Data"): peer("ray-feed", work),
            ("predict", "raydc"): [*raydc, *predict, "--output", str(work / "out.parquet")],
            ("predict", "polars + torch"): peer("polars-predict", work),
        }
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        commands = {key: one for key, one in commands.items() if key[0] in options.stages}
        for round_number in range(options.rounds):
            for (stage, contender), command in commands.items():
                if stage == "feed":
                    write_training_rows(work)
                if stage == "predict" and not (work / "store" / "models").exists():
                    train(raydc, spec)
                if (stage, contender) == ("prepare", "raydc"):
                    remove(work / "store" / "data")
                found.setdefault((stage, contender), []).append(run(command))
                one = found[stage, contender][-1]
                print(
                    f"{num_rows:,} rows, round {round_number + 1}: {stage}, {contender}: "
                    f"{one['cpu_s']:.1f} CPU s, {one['wall_s']:.1f} s",
                    file=sys.stderr,
                )
        if "predict" in options.stages:
            compare_predictions(work)
        sizes = {"raydc": "store/data", "polars": "polars", "Ray Data alone": "floor"}
        return [
            {
                "rows": num_rows,
                "stage": stage,
                "contender": contender,
                **{key: statistics.median(one[key] for one in runs) for key in runs[0]},
                "disk_bytes": size_of(work / sizes[contender]) if stage == "prepare" else None,
            }
            for (stage, contender), runs in found.items()
        ]


def peer(contender: str, work: Path) -> list[str]:
    return [sys.executable, "-m", "bench.scale", "--one", contender, str(work)]


def run(command: list[str]) -> dict[str, float]:
    return run_for_json([sys.executable, "-m", "bench.measured", *command])


def train(raydc: list[str], spec: Path) -> None:
    """Trains and registers the network that both contenders predict with."""
    for stage in ("train", "evaluate"):
        subprocess.run([*raydc, stage, str(spec)], check=True, stdout=subprocess.DEVNULL)


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
    import torch
    from safetensors.torch import load_file

    folder = work / "store" / "models" / "scale" / "versions" / "1"
    columns = json.loads((folder / "features.json").read_text())["columns"]
    fitted = {column["name"]: column for column in columns}
    weights = load_file(folder / "model.safetensors")
    table = pl.read_parquet(work / "table.parquet")
    inputs = []
    for name in NUMBERS:
        column = table[name].to_numpy()
        scaled = (column - fitted[name]["shift"]) / fitted[name]["scale"]
        inputs.append(torch.from_numpy(scaled.astype(np.float32))[:, None])
    for name in CATEGORIES:
        known = fitted[name]["categories"]
        codes = {text: code for code, text in enumerate(known)}
        found = table[name].replace_strict(codes, return_dtype=pl.Int64).to_numpy()
        inputs.append(torch.nn.functional.one_hot(torch.tensor(found), len(known)).float())
    with torch.inference_mode():
        values = torch.cat(inputs, dim=1)
        layers = sorted({name.rpartition(".")[0] for name in weights})
        for index, layer in enumerate(layers):
            values = torch.nn.functional.linear(
                values, weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            )
            values = values.relu() if index < len(layers) - 1 else values
        scores = values.double().softmax(dim=1)
        best = scores.argmax(dim=1)
    answers = {"prediction": np.array(["no", "yes"])[best.numpy()], "score": scores.amax(1).numpy()}
    table.with_columns(**{key: pl.Series(key, one) for key, one in answers.items()}).write_parquet(
        work / "peer.parquet"
    )


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


def compare_predictions(work: Path) -> None:
    """Ends the benchmark if the two do not predict the same."""
    import numpy as np
    import pyarrow.parquet as pq

    ours, theirs = (pq.read_table(work / name) for name in ("out.parquet", "peer.parquet"))
    scores = [np.asarray(table.column("score")) for table in (ours, theirs)]
    # Another order of sums rounds differently, so a row at the border may fall on the other side.
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'rows':>9}  {'stage':8}{'contender':16}{'CPU s':>8}{'wall s':>8}{'MB':>7}{'disk MB':>9}"
    )
    for row in rows:
        disk = "" if row["disk_bytes"] is None else f"{row['disk_bytes'] / 1e6:.1f}"
        print(
            f"{row['rows']:9,}  {row['stage']:8}{row['contender']:16}{row['cpu_s']:8.1f}"
            f"{row['wall_s']:8.1f}{row['peak_bytes'] / 1e6:7.0f}{disk:>9}"
        )
    target = ROOT / "bench" / "results" / "scale.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"cpus": os.cpu_count(), "rows": rows}, indent=2) + "\n")


PEERS: dict[str, Callable[[Path], None]] = {
    "polars-prepare": polars_prepare,
    "polars-predict": polars_predict,
    "ray-floor": ray_floor,
    "raydc-feed": raydc_feed,
    "loader-feed": loader_feed,
    "ray-feed": ray_feed,
}


if __name__ == "__main__":
    main()
