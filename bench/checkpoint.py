"""Cost of a checkpoint every 10 steps: raydc against none, and against the usual way.

    python bench/checkpoint.py [--rounds 12] [--models resnet18-64 mlp] [--threads 1] [--folder DIR]

The same steps of the same network in one process, a block of them at a time and in turn: without
anything; with a checkpoint of raydc every 10 steps (copied during the step; hashed, written and
synchronised by its thread); with its recent states in the memory of a Ray actor, as often as
`max_recomputed_steps: 10` asks; with torch.save and fsync before the next step. A block ends when
its last checkpoint has arrived, so nothing is left to the next one. A ratio is that of two blocks
of one round; the table has the medians. The cost in CPU seconds counts the process's threads too:
about what a machine pays that has no core left for them, as with `--threads` as many as there are
CPUs.
"""

from __future__ import annotations

import argparse
import io
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

from raydc import engine, models
from raydc import spec as specs
from raydc.checkpoint.saver import Saver
from raydc.checkpoint.state import Constants, Parts, State
from raydc.checkpoint.store import CheckpointStore
from raydc.features import Signature
from raydc.loop.group import Alone
from raydc.loop.length import Length
from raydc.loop.step import Step
from raydc.models.losses import plain_loss_sum
from raydc.storage import Storage
from raydc.tracking.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
EVERY = 10
LABELS = {
    "none": "none",
    "raydc": "raydc, every 10 steps",
    "memory": "raydc, in memory",
    "usual": "torch.save + fsync, every 10",
}
# Name: section of a spec, shape of a row, rows of a step, steps of a block.
MODELS: dict[str, tuple[dict[str, Any], tuple[int, ...], int, int]] = {
    "resnet18-64": ({"name": "resnet18"}, (3, 64, 64), 64, 10),
    "resnet18-32": ({"name": "resnet18"}, (3, 32, 32), 64, 20),
    "mlp": ({"name": "mlp", "hidden": [512, 256, 128]}, (1, 28, 28), 256, 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the steps")
    parser.add_argument("--folder", help="where checkpoints go; default: a temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine.connect(num_cpus=os.cpu_count())
    rows = []
    with tempfile.TemporaryDirectory(prefix="raydc-bench-", dir=options.folder) as folder:
        for model in options.models:
            rows += measure(model, Storage(f"{folder}/{model}"), options.rounds)
    engine.disconnect()
    show(rows, options.threads)


class Run:
    """A network in training, as a worker has it."""

    def __init__(self, model: str) -> None:
        section, shape, batch_size, self.block = MODELS[model]
        value = {
            "name": "bench",
            "data": {"source": "x"},
            "model": section,
            "train": {"max_steps": 10**9},
        }
        self.spec = specs.resolve(specs.from_dict(value | {"checkpoint": {"every_steps": EVERY}}))
        signature = Signature(
            "image",
            shape,
            "uint8",
            (120.0,) * shape[0],
            (60.0,) * shape[0],
            "classification",
            tuple("0123456789"),
        )
        network = models.build(self.spec.model, signature, 0).train()
        loss_sum = partial(plain_loss_sum, "classification")
        self.step = Step(network, loss_sum, self.spec.train, 0, Length(10**9, 1000), Alone())
        self.x = torch.randint(0, 256, (batch_size, *shape), dtype=torch.uint8)
        self.y_B = torch.randint(0, 10, (batch_size,))
        self.done = 0

    def do(self, before: Callable[[int], Any] = lambda _number: None) -> None:
        """A block of steps; `before` is called before each of them with its number in the block."""
        rows = len(self.x)
        for number in range(self.block):
            before(number)
            self.step(self.done, rows, self.x, self.y_B, [(0, slice(0, rows))])
            self.done += 1

    def parts(self) -> Parts:
        return Parts(State(step=self.done), self.step.network.state_dict(), self.step.state())

    def saver(self, folder: Storage, peer_memory: Any = None) -> Saver:
        journal = Journal(folder, True, None)
        store = CheckpointStore(folder / "checkpoints", 2)
        cpu = torch.device("cpu")
        return Saver(store, self.spec, Constants({}, {}), journal, cpu, peer_memory=peer_memory)


def measure(model: str, folder: Storage, num_rounds: int) -> list[dict[str, Any]]:
    from raydc.elastic import mailbox
    from raydc.elastic.peer_memory import PeerMemory

    run, handle = Run(model), mailbox.create()
    holders = PeerMemory(handle)
    holders.forget_after(0)
    in_memory = run.saver(folder / "memory", holders)
    on_disk = run.saver(folder / "raydc")
    contenders = {
        "none": run.do,
        "raydc": lambda: storage_block(run, on_disk),
        "memory": lambda: memory_block(run, in_memory),
        "usual": lambda: usual_block(run, folder / "usual"),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    cpu_times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(num_rounds + 1):
        if number == 1:
            on_disk.waited_s = 0.0
        for name, block in contenders.items():
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            block()
            if number:  # The first round makes buffers and starts threads.
                times[name].append((time.perf_counter() - began_s) / run.block)
                cpu_times[name].append((time.process_time() - began_cpu_s) / run.block)
        print(f"{model}: round {number} of {num_rounds}", file=sys.stderr)
    num_bytes = sum(folder.size(f"usual/{name}") for name in folder.names("usual"))
    waits_s = on_disk.waited_s / num_rounds * EVERY / run.block
    rows = []
    for name, values in times.items():
        ratios = [value / none for value, none in zip(values, times["none"], strict=True)]
        cpu_ratios = [
            value / none for value, none in zip(cpu_times[name], cpu_times["none"], strict=True)
        ]
        rows.append(
            {
                "model": model,
                "contender": LABELS[name],
                "step_ms": statistics.median(values) * 1e3,
                "of_none": statistics.median(ratios),
                "cpu_of_none": statistics.median(cpu_ratios),
                "state_mb": num_bytes / 1e6,
                "copy_ms": waits_s * 1e3 if name == "raydc" else None,
                "rounds": ratios,
            }
        )
    return rows


def storage_block(run: Run, saver: Saver) -> None:
    run.step.before_update = saver.finish_copy
    taken = [run.parts()]

    def checkpoint(number: int) -> None:
        if number % EVERY == 0:
            taken[0] = run.parts()
            saver.save(taken[0], force=True)

    run.do(checkpoint)
    saver.finish(taken[0])  # Returns when it has arrived.


def memory_block(run: Run, saver: Saver) -> None:
    run.step.before_update = saver.finish_copy
    run.do(lambda _number: saver.is_due(run.done) and saver.save(run.parts()))


def usual_block(run: Run, folder: Storage) -> None:
    def checkpoint(number: int) -> None:
        if number % EVERY == 0:
            stream = io.BytesIO()
            torch.save({"model": run.step.network.state_dict(), **run.step.state()}, stream)
            folder.write_bytes("checkpoint.pt", stream.getvalue())

    run.do(checkpoint)


def show(rows: list[dict[str, Any]], num_threads: int) -> None:
    header = f"{'model':12}{'checkpoints':30}{'ms a step':>10}{'of none':>9}{'cost':>8}{'CPU':>8}"
    print(f"{header}   (state in MB, wait in ms)")
    for row in rows:
        extra = (
            f"   ({row['state_mb']:.0f}, {row['copy_ms']:.1f})"
            if row["copy_ms"] is not None
            else ""
        )
        cost, cpu = (f"{(row[name] - 1) * 100:+.1f}%" for name in ("of_none", "cpu_of_none"))
        numbers = f"{row['step_ms']:10.2f}{row['of_none']:9.3f}{cost:>8}{cpu:>8}"
        print(f"{row['model']:12}{row['contender']:30}{numbers}{extra}")
    target = ROOT / "bench" / "results" / "checkpoint.json"
    target.parent.mkdir(exist_ok=True)
    facts = {"torch": torch.__version__, "cpus": os.cpu_count(), "threads": num_threads}
    target.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
