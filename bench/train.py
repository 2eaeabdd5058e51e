"""Rows per second of training: raydc against the bare step and the usual ways, on Fashion-MNIST.

    python bench/train.py [--rounds 3] [--models mlp cnn] [--data FOLDER]

Every contender trains the same network with the same batch (256), optimiser (AdamW) and one thread
a worker, each in a process of its own, one after the other, in turn for several rounds. All keep
the memory that they free (`raydc.models.allocator`): the others by variables of glibc. The
ceiling is the bare step: forward, backward and optimiser on slices of a tensor that is ready; for
the cnn also in the memory format and with the order of pooling and ReLU that raydc chooses. A rate
is that of the last steps, inside an epoch, so start-up, validation and checkpoints do not count.
Prints one table, writes one JSON file.

The usual PyTorch script gets a loader process besides its training process, so it has two
cores where raydc has one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCH = 256
STEPS = {"mlp": 460, "cnn": 120}
# The last steps are measured. They lie inside an epoch (235 steps): start-up, validation and
# checkpoints do not count.
MEASURED = {"mlp": 200, "cnn": 60}
CONTENDERS = ("bare", "bare-tuned", "raydc", "raydc-2", "pytorch", "lightning", "ray-train")
LABELS = {
    "bare": "bare step (ceiling)",
    "bare-tuned": "bare step, channels_last",
    "raydc": "raydc, 1 worker",
    "raydc-2": "raydc, 2 workers",
    "pytorch": "PyTorch, DataLoader",
    "lightning": "Lightning, DataLoader",
    "ray-train": "Ray Train, iter_torch_batches",
}
MEAN, STD = 0.2860, 0.3530


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--data", type=Path, default=find_data(), help="folder of the Fashion-MNIST files"
    )
    parser.add_argument(
        "--one", nargs=3, metavar=("CONTENDER", "MODEL", "WORK"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        contender, model, work = options.one
        print(json.dumps({"rows_per_s": run_one(contender, model, options.data, Path(work))}))
        return
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        rates = measure(options, Path(work))
    show(rates)


def find_data() -> Path:
    places = [os.environ.get("RAYDC_TEST_DATA", ""), str(ROOT.parent / "shared" / "data")]
    folders = [Path(place) / "fashion_mnist" for place in places if place]
    return next(
        (folder for folder in folders if folder.is_dir()),
        ROOT / "examples" / "fashion_mnist" / "data",
    )


def measure(options: argparse.Namespace, work: Path) -> dict[str, dict[str, list[float]]]:
    rates: dict[str, dict[str, list[float]]] = {model: {} for model in options.models}
    for round_number in range(options.rounds):
        for model in options.models:
            for contender in options.contenders:
                if (model, contender) == ("mlp", "bare-tuned"):
                    continue
                command = [
                    sys.executable,
                    __file__,
                    "--data",
                    str(options.data),
                    "--one",
                    contender,
                    model,
                    str(work),
                ]
                result = subprocess.run(
                    command,
                    env=environment(contender),
                    capture_output=True,
                    text=True,
                    timeout=900,
                    check=False,
                )
                if result.returncode:
                    sys.exit(f"{contender} failed on {model}:\n{result.stdout}\n{result.stderr}")
                rate = json.loads(result.stdout.splitlines()[-1])["rows_per_s"]
                rates[model].setdefault(contender, []).append(rate)
                print(
                    f"round {round_number + 1}: {model} {LABELS[contender]}: {rate:,.0f} rows/s",
                    file=sys.stderr,
                )
    return rates


def environment(contender: str) -> dict[str, str]:
    """Environment of a contender. Peers get the allocator that raydc sets for itself."""
    if contender.startswith("raydc"):
        return dict(os.environ)
    kept = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    return {**os.environ, **kept}


def show(rates: dict[str, dict[str, list[float]]]) -> None:
    import torch

    rows = []
    for model, by_contender in rates.items():
        for contender, values in by_contender.items():
            # Of rounds, not of medians: both sides of a ratio were measured in the same minute.
            ratios = [a / b for a, b in zip(values, by_contender.get("bare", values), strict=True)]
            rows.append(
                {
                    "model": model,
                    "contender": LABELS[contender],
                    "rows_per_s": statistics.median(values),
                    "of_ceiling": statistics.median(ratios),
                    "rounds": values,
                }
            )
    print(f"{'model':6}{'contender':32}{'rows/s':>12}{'of ceiling':>12}{'rounds (rows/s)':>40}")
    for row in rows:
        rounds = " ".join(f"{value:,.0f}" for value in row["rounds"])
        print(
            f"{row['model']:6}{row['contender']:32}{row['rows_per_s']:12,.0f}{row['of_ceiling']:12.2f}{rounds:>40}"
        )
    target = ROOT / "bench" / "results" / "train.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(
        json.dumps({"torch": torch.__version__, "cpus": os.cpu_count(), "rows": rows}, indent=2)
        + "\n"
    )
    print(f"written to {target.relative_to(ROOT)}")


def run_one(contender: str, model: str, data: Path, work: Path) -> float:
    run: dict[str, Callable[[], float]] = {
        "bare": lambda: bare(model, data),
        "bare-tuned": lambda: bare(model, data, tuned=True),
        "pytorch": lambda: pytorch(model, data),
        "lightning": lambda: lightning(model, data),
        "ray-train": lambda: ray_train(model, data),
        "raydc": lambda: raydc(model, data, work, num_workers=1),
        "raydc-2": lambda: raydc(model, data, work, num_workers=2),
    }
    return run[contender]()


class Clock:
    """The rate of the measured steps."""

    def __init__(self, model: str) -> None:
        self.num_steps, self.num_measured = STEPS[model], MEASURED[model]
        self.step, self.start_s, self.rate = 0, 0.0, 0.0

    def tick(self) -> bool:
        """After each step; False when it was the last."""
        self.step += 1
        if self.step == self.num_steps - self.num_measured:
            self.start_s = time.perf_counter()
        if self.step == self.num_steps:
            self.rate = self.num_measured * BATCH / (time.perf_counter() - self.start_s)
        return self.step < self.num_steps


def read(data: Path) -> tuple[Any, Any]:
    import numpy as np

    def content(stem: str, offset: int) -> Any:
        path = next(path for path in (data / f"{stem}.gz", data / stem) if path.exists())
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return np.frombuffer(raw, np.uint8, offset=offset)

    images = content("train-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    return images, content("train-labels-idx1-ubyte", 8).astype(np.int64)


def normalised_rows(data: Path) -> tuple[Any, Any]:
    """Tensors [60000, 1, 28, 28] and [60000], ready to be sliced."""
    import torch

    images, labels = read(data)
    x = torch.from_numpy(images.copy()).float().div_(255).sub_(MEAN).div_(STD).unsqueeze(1)
    return x, torch.from_numpy(labels)


def network(model: str, tuned: bool = False) -> Any:
    import torch
    from torch import nn

    if model == "mlp":
        return nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
            *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
    layers = (nn.MaxPool2d(2), nn.ReLU()) if tuned else (nn.ReLU(), nn.MaxPool2d(2))
    net = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), *layers, nn.Conv2d(32, 64, 3, padding=1), *layers),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    return net.to(memory_format=torch.channels_last) if tuned else net


def bare(model: str, data: Path, tuned: bool = False) -> float:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = normalised_rows(data)
    if tuned:
        x = x.contiguous(memory_format=torch.channels_last)
    net = network(model, tuned)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    clock = Clock(model)
    for start in endless(len(x)):
        loss = F.cross_entropy(net(x[start : start + BATCH]), y[start : start + BATCH])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not clock.tick():
            break
    return clock.rate


def endless(num_rows: int) -> Iterator[int]:
    while True:
        yield from range(0, num_rows - BATCH + 1, BATCH)


def loader(data: Path, num_processes: int) -> Any:
    """The usual data set: one image at a time through ToTensor and Normalize."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    images, labels = read(data)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, row: int) -> tuple[Any, int]:
            return transform(images[row]), int(labels[row])

    return DataLoader(
        Images(), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=num_processes
    )


def pytorch(model: str, data: Path) -> float:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = network(model)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    clock = Clock(model)
    while True:
        for x, y in loader(data, num_processes=1):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            if not clock.tick():
                return clock.rate


def lightning(model: str, data: Path) -> float:
    import lightning as L
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    clock = Clock(model)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(model)

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS[model], logger=False, barebones=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), loader(data, num_processes=1))
    return clock.rate


def ray_train(model: str, data: Path) -> float:
    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    import raydc.engine

    raydc.engine.connect()
    images, labels = read(data)
    images = images.reshape(-1, 1, 28, 28)
    rows = ray.data.range(len(images)).map_batches(
        lambda b: {"image": images[b["id"]], "label": labels[b["id"]]}
    )
    with tempfile.TemporaryDirectory() as folder:
        rows.write_parquet(folder)
        target = str(Path(folder) / "rate.json")
        trainer = TorchTrainer(
            ray_train_loop,
            train_loop_config={"model": model, "target": target},
            datasets={"train": ray.data.read_parquet(folder)},
            scaling_config=ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(storage_path=folder),
        )
        trainer.fit()
        return float(json.loads(Path(target).read_text()))


def ray_train_loop(config: dict[str, Any]) -> None:
    import torch
    import torch.nn.functional as F
    from ray import train
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    net = prepare_model(network(config["model"]))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    clock = Clock(config["model"])
    while True:
        shard = train.get_dataset_shard("train")
        for batch in shard.iter_torch_batches(
            batch_size=BATCH, local_shuffle_buffer_size=4096, drop_last=True
        ):
            x = batch["image"].float().div_(255).sub_(MEAN).div_(STD)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), batch["label"])
            loss.backward()
            optimizer.step()
            if not clock.tick():
                Path(config["target"]).write_text(json.dumps(clock.rate))
                return


def raydc(model: str, data: Path, work: Path, num_workers: int) -> float:
    """Through the front door: prepare, then train on real Ray Train workers."""
    from raydc import engine, spec, train
    from raydc.data import prepare
    from raydc.storage import Storage
    from raydc.tracking import events

    body = "{name: mlp, hidden: [512, 256, 128]}" if model == "mlp" else "{name: cnn}"
    text = f"name: bench\ndata: {{source: {data}}}\nmodel: {body}\n"
    overrides = [
        f"storage={work}",
        f"train.max_steps={STEPS[model]}",
        f"train.global_batch_size={BATCH}",
        f"scaling.num_workers={num_workers}",
        "checkpoint.every_seconds=3600",
        # They start in the first seconds of a run, which are all that is measured here.
        "fault_tolerance.spare_workers=false",
        "data.split.validation_fraction=0",
    ]
    given = spec.resolve(spec.loads(text, overrides=overrides))
    engine.connect(num_cpus=max(2, num_workers))
    prepared = prepare.run(given, lambda _line: None)
    folder = Storage(str(work)) / "runs" / f"{model}-{num_workers}-{time.time_ns()}"
    train.run(given, prepared, folder, lambda _line: None, resume=False)
    rate = rate_of(list(events.read(folder, "metrics")), model)
    engine.disconnect()
    return rate


def rate_of(records: list[dict[str, Any]], model: str) -> float:
    """Computes a rate from log lines: steps come in groups with the time of the last step."""
    first_step = STEPS[model] - MEASURED[model]
    steps = [
        record for record in records if record["kind"] == "step" and record["step"] >= first_step
    ]
    first, last = steps[0]["time_s"], steps[-1]["time_s"]
    return float(
        sum(record["rows"] for record in steps if record["time_s"] > first) / (last - first)
    )


if __name__ == "__main__":
    main()
