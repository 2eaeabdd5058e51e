"""Cost of bitwise reproducibility: rows per second of `train.exact: true` against data parallelism.

    python bench/exact.py [--rounds 7] [--models mlp cnn resnet18] [--workers 1 2 4] [--data FOLDER]

For each number of workers W, as many processes (gloo, one thread each) hold the same network four
times and train it in turn, a few steps each, round after round, so that all see the same minutes
of the machine:

    exact, V=W   one logical shard a worker
    exact, V=4   four logical shards a step, on any number of workers
    plain        `exact: false`: a worker's rows in one piece, buckets summed in any order
    DDP          torch's DistributedDataParallel in a plain loop (a bare loop for one worker): the
                 reference

Rows are those of Fashion-MNIST, from the shards on disk (raydc's feed) for all contenders; a step
has 256 rows and AdamW. Rates are medians of rounds, ratios medians of the ratios inside a round.
Prints one table, writes one JSON file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import distributed, nn
from train import BATCH, MEAN, STD, find_data, read

from raydc import models, order
from raydc.data.shards import open_rows, write_data_set
from raydc.features import Features, Image, Signature
from raydc.loop.feed import Batch, Feed
from raydc.loop.group import Alone, Workers, World
from raydc.loop.length import Length
from raydc.loop.step import Step
from raydc.loop.summation_tree import nodes_of
from raydc.models.losses import plain_loss_sum
from raydc.spec.model import Cnn, Mlp, Torchvision
from raydc.spec.resolved import ResolvedTrain
from raydc.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
MODELS: dict[str, Any] = {
    "mlp": Mlp(name="mlp", hidden=[512, 256, 128]),
    "cnn": Cnn(name="cnn"),
    "resnet18": Torchvision(name="resnet18"),
}
BLOCK = {
    "mlp": 30,
    "cnn": 6,
    "resnet18": 2,
}  # Steps of a contender before it is the next one's turn.
SIGNATURE = Signature(
    "image",
    (1, 28, 28),
    "uint8",
    (255 * MEAN,),
    (255 * STD,),
    "classification",
    tuple("0123456789"),
)
Trainer = Callable[[int, Batch], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument(
        "--data", type=Path, default=find_data(), help="folder of the Fashion-MNIST files"
    )
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        write(options.data, Storage(f"{work}/data"))
        for model, world_size in itertools.product(options.models, options.workers):
            arguments = (world_size, model, options.rounds, work)
            torch.multiprocessing.spawn(measure, arguments, world_size)
            rows += summarise(model, world_size, json.loads(Path(work, "seconds.json").read_text()))
    show(rows)


def write(data: Path, folder: Storage) -> None:
    images, labels = read(data)
    features = Features(SIGNATURE, "label", {"image": Image(28, 28, 1)})
    write_data_set(folder, features, {"train": (images[:, None], labels)})


def measure(rank: int, world_size: int, model: str, num_rounds: int, work: str) -> None:
    """Runs in each process; rank 0 writes the seconds of each block by contender."""
    torch.set_num_threads(1)
    meeting = f"file://{work}/meeting-{model}-{world_size}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    shards_of = {"exact, V=W": world_size, "exact, V=4": 4, "plain": world_size, "DDP": world_size}
    if world_size == 4:
        del shards_of["exact, V=4"]
    rows = open_rows(Storage(f"{work}/data"), "train")
    seconds: dict[str, list[float]] = {name: [] for name in shards_of}
    trainers = {
        name: trainer(name, model, num_shards, world_size) for name, num_shards in shards_of.items()
    }
    feeds = {
        name: Feed(rows, 0, BATCH, num, World(rank, world_size, CPU))
        for name, num in shards_of.items()
    }
    batches = {name: feed.batches(0, 0, feed.steps_per_epoch - 1) for name, feed in feeds.items()}
    names = list(shards_of)
    for number, turn in itertools.product(range(num_rounds + 1), range(len(names))):
        name = names[(number + turn) % len(names)]
        distributed.barrier()
        start_s = time.perf_counter()
        for step in range(BLOCK[model]):
            batch = next(batches[name], None)
            if batch is None:
                batches[name] = feeds[name].batches(0, 0, feeds[name].steps_per_epoch - 1)
                batch = next(batches[name])
            trainers[name](number * BLOCK[model] + step, batch)
        distributed.barrier()
        if number:  # The first round warms up.
            seconds[name].append(time.perf_counter() - start_s)
    if rank == 0:
        Path(work, "seconds.json").write_text(json.dumps(seconds))
    distributed.destroy_process_group()


def trainer(name: str, model: str, num_shards: int, world_size: int) -> Trainer:
    """What does one step of a contender."""
    network = models.build(MODELS[model], SIGNATURE, 0).train()
    if name != "DDP":
        section = ResolvedTrain(
            logical_shards=num_shards, exact=name != "plain", metric="accuracy", mode="max"
        )
        group = Workers(CPU) if world_size > 1 else Alone()
        loss_sum = partial(plain_loss_sum, "classification")
        step = Step(network, loss_sum, section, 0, Length(1_000_000, 1000), group)
        return lambda number, batch: step(number, BATCH, batch.x, batch.y_B, batch.shards)
    net = (
        nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
        if world_size > 1
        else network
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def ddp(_number: int, batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(batch.x), batch.y_B).backward()
        optimizer.step()

    return ddp


def summarise(model: str, world_size: int, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    num_rows = BLOCK[model] * BATCH
    found = []
    for name, values in seconds.items():
        ratio = {
            peer: statistics.median(b / a for a, b in zip(values, seconds[peer], strict=True))
            for peer in ("DDP", "plain")
        }
        line = {"model": model, "workers": world_size, "contender": name}
        line |= {
            "rows_per_s": num_rows / statistics.median(values),
            "of_ddp": ratio["DDP"],
            "of_plain": ratio["plain"],
        }
        line |= {
            "mb_sent": megabytes(name, model, world_size),
            "rounds": [num_rows / value for value in values],
        }
        print(f"{model} {world_size} {name}: {line['rows_per_s']:,.0f} rows/s", file=sys.stderr)
        found.append(line)
    return found


def megabytes(name: str, model: str, world_size: int) -> float:
    """What a worker sends in a step: the most that one of them has."""
    num_bytes = sum(
        p.numel() * p.element_size() for p in models.build(MODELS[model], SIGNATURE, 0).parameters()
    )
    num_shards = 4 if name == "exact, V=4" else world_size
    ranges = [order.shards_of_rank(num_shards, rank, world_size) for rank in range(world_size)]
    num_nodes = (
        1 if world_size == 2 else max(len(nodes_of(num_shards, shards)) for shards in ranges)
    )
    return num_bytes * (num_nodes + 1) * (world_size - 1) / world_size / 1e6


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'model':10}{'workers':>8}  "
        f"{'contender':14}{'rows/s':>10}{'of DDP':>9}{'of plain':>10}{'MB sent':>10}"
    )
    for row in rows:
        ratios = f"{row['of_ddp']:9.2f}{row['of_plain']:10.2f}"
        numbers = f"{row['rows_per_s']:10,.0f}{ratios}{row['mb_sent']:10.1f}"
        print(f"{row['model']:10}{row['workers']:8}  {row['contender']:14}{numbers}")
    target = ROOT / "bench" / "results" / "exact.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(
        json.dumps({"torch": torch.__version__, "cpus": os.cpu_count(), "rows": rows}, indent=2)
        + "\n"
    )
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
