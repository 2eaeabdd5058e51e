"""Tokens per second of a decoder from scratch: raydc beside a bare loop on the same network.

    python -m bench.language [--rounds 3] [--steps 24] [--width 256] [--depth 4] [--length 256]

Both train the same network on the stories of examples/stories with the same batch, optimiser
(AdamW) and one thread, each in a process of its own, in turn for several rounds. The bare loop is
forward, backward and optimiser on slices of a tensor of rows that is ready; raydc is a whole run
in one process, with its order, feed, reduction and journal. A rate is that of the last half of
the steps, by seconds of CPU, which other jobs on the machine change little. Prints one table,
writes one JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measured import run_for_json

ROOT = Path(__file__).resolve().parent.parent
BATCH = 8
LABELS = {"bare": "bare loop (ceiling)", "raydc": "raydc, one process"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, work = options.one
        run = {"bare": bare, "raydc": raydc}[contender]
        print(json.dumps({"tokens_per_s": run(options, Path(work))}))
        return
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        show(measure(options, Path(work)), options)


def measure(options: argparse.Namespace, work: Path) -> dict[str, list[float]]:
    """Rates of each contender by round."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("steps", "width", "depth", "length")]
    # Memory that is freed is kept, as raydc keeps it.
    kept = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    prepare(options, work)
    rates: dict[str, list[float]] = {name: [] for name in LABELS}
    for number in range(options.rounds):
        for name, found in rates.items():
            command = [sys.executable, "-m", "bench.language", *sizes, "--one", name, str(work)]
            variables = kept if name == "bare" else {}
            found.append(run_for_json(command, variables)["tokens_per_s"])
            print(f"round {number + 1}: {LABELS[name]}: {found[-1]:,.0f}", file=sys.stderr)
    return rates


def spec_of(options: argparse.Namespace, work: Path) -> Any:
    from raydc import spec

    value = {
        "name": "language",
        "storage": str(work / "store"),
        "data": {
            "source": str(work / "stories.txt"),
            "task": "language_modelling",
            "blocks": {"length": options.length, "documents": "paragraph"},
            "features": {"text": {"vocabulary": 2000}},
            "split": {"validation_fraction": 0.0},
        },
        "model": {"name": "decoder", "width": options.width, "depth": options.depth},
        "train": {
            "max_steps": options.steps,
            "global_batch_size": BATCH,
            "optimizer": "adamw",
            "log_every_steps": 1,
        },
        "scaling": {"num_workers": 0, "use_gpu": False},
        "checkpoint": {"every_seconds": 3600},
    }
    return spec.resolve(spec.from_dict(value))


def prepare(options: argparse.Namespace, work: Path) -> Any:
    """The data set; it is made at the first call."""
    from examples.stories.write import write
    from raydc.data import prepare as preparation

    if not (work / "stories.txt").exists():
        write(work)
    return preparation.run(spec_of(options, work), lambda _: None)


def bare(options: argparse.Namespace, work: Path) -> float:
    """A loop of plain torch on rows that are in memory."""
    import numpy as np
    import torch

    from raydc import models
    from raydc.data.shards import open_rows

    torch.set_num_threads(1)
    data, spec = prepare(options, work), spec_of(options, work)
    x, _ = open_rows(data.folder, "train").gather(np.arange(options.steps * BATCH) % 64)
    rows = torch.from_numpy(x.fields["text"].astype(np.int64))
    network = models.build(spec.model, data.features.signature, 0).train()
    adam = torch.optim.AdamW(network.parameters(), spec.train.learning_rate, fused=True)
    start_s = 0.0
    for step in range(options.steps):
        if step == options.steps // 2:
            start_s = time.process_time()
        loss = network({"text": rows[step * BATCH : (step + 1) * BATCH]}).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        loss.item()
    num_steps = options.steps - options.steps // 2
    return num_steps * BATCH * options.length / (time.process_time() - start_s)


def raydc(options: argparse.Namespace, work: Path) -> float:
    """A run of raydc in this process."""
    from raydc.loop import worker
    from raydc.loop.fault_injection import FaultInjector
    from raydc.loop.hooks import Hooks
    from raydc.storage import Storage

    at_step: dict[int, float] = {}

    class Clock(FaultInjector):
        """Injects nothing, and notes when each step begins."""

        def __init__(self) -> None:
            self.planned = []

        def before_step(self, step: int) -> None:
            at_step[step] = time.process_time()

        def restored(self, step: int) -> None:
            """Continues."""

        def reached(self, place: str) -> None:
            """Continues."""

    data, spec = prepare(options, work), spec_of(options, work)
    run = Storage(str(work)) / f"run-{time.time_ns()}"
    worker.fit(spec, run, data.folder, hooks=Hooks(faults=Clock()))
    first = options.steps // 2
    num_steps = options.steps - 1 - first
    return num_steps * BATCH * options.length / (at_step[options.steps] - at_step[first + 1])


def show(rates: dict[str, list[float]], options: argparse.Namespace) -> None:
    import torch

    rows = []
    print(f"{'contender':24}{'tokens/CPU s':>14}{'of ceiling':>12}{'rounds':>40}")
    for name, values in rates.items():
        # Of rounds, not of medians: both sides of a ratio were measured in the same minute.
        ratio = statistics.median(a / b for a, b in zip(values, rates["bare"], strict=True))
        row = {"contender": LABELS[name], "tokens_per_s": statistics.median(values)}
        rows.append({**row, "of_ceiling": ratio, "rounds": values})
        rounds = " ".join(f"{value:,.0f}" for value in values)
        print(f"{LABELS[name]:24}{row['tokens_per_s']:14,.0f}{ratio:12.2f}{rounds:>40}")
    target = ROOT / "bench" / "results" / "language.json"
    target.parent.mkdir(exist_ok=True)
    sizes = {name: getattr(options, name) for name in ("width", "depth", "length", "steps")}
    facts = {"torch": torch.__version__, "cpus": os.cpu_count(), **sizes, "rows": rows}
    target.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
