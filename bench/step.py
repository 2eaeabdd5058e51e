"""Time and page faults of a training step: the whole loop of a worker against bare passes.

    python -m bench.step [--rounds 3] [--turns 20] [--models mlp cnn] [--shards 1 4]

Runs `raydc.loop.worker.fit` without Ray, so the step is measured with everything that a worker does
around it: reading shuffled rows, journal, checkpoints. Beside it run bare loops on slices of a
tensor that is ready: forward, backward and optimiser, in the memory format that raydc chooses. With
several logical shards, the bare loop makes one pass for each of them and adds their gradients: what
any program has to pay for sums of separate shards.

Each contender is a process. All take turns of some steps, one at a time, so a busy machine slows
them alike; a ratio is the median of the ratios of turns that follow each other. A round starts the
processes anew, because the speed of matrix products also depends on where a process has its memory.
`--tree FOLDER` measures another checkout of raydc as well. Prints one table, writes one JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.train import BATCH, ROOT, environment, find_data, network, normalised_rows

TURN_STEPS = {"mlp": 40, "cnn": 8}
# The first turns fill caches, choose kernels and grow the heap.
WARM_UP_TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender")
    parser.add_argument("--turns", type=int, default=20, help="measured turns of each process")
    parser.add_argument("--models", nargs="+", choices=TURN_STEPS, default=list(TURN_STEPS))
    parser.add_argument("--shards", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--tree", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--data", type=Path, default=find_data())
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, model, shards, work = options.one
        turns = options.turns + WARM_UP_TURNS
        if kind == "bare":
            _bare(model, int(shards), options.data, turns)
        else:
            _worker(model, int(shards), options.data, Path(work), turns)
        return
    rows = []
    for model in options.models:
        for shards in options.shards:
            found: dict[str, list[list[float]]] = {}
            with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
                for _ in range(options.rounds):
                    for name, turns in _round(model, shards, options, Path(work)).items():
                        found.setdefault(name, []).extend(turns)
            rows += _rows(model, shards, found)
    _show(rows)


class _Turns:
    """Steps of this process, in turns that the parent starts by a line on standard input.

    Args:
        model: Name of the network, which fixes the steps of a turn.
        num_turns: Turns after which the process ends.
    """

    def __init__(self, model: str, num_turns: int) -> None:
        self._num_steps, self._num_turns = TURN_STEPS[model], num_turns
        self._step = 0
        self._started: tuple[float, float, int] = (0.0, 0.0, 0)

    def before_step(self) -> None:
        """Ends a turn and waits for the next one whenever a turn's steps are done."""
        if self._step % self._num_steps == 0:
            if self._step:
                numbers = [now - then for now, then in zip(_usage(), self._started, strict=True)]
                print(json.dumps([number / self._num_steps for number in numbers]), flush=True)
            if self._step == self._num_turns * self._num_steps:
                # Neither the end of the run nor its last checkpoint is measured.
                os._exit(0)
            sys.stdin.readline()
            self._started = _usage()
        self._step += 1


def _usage() -> tuple[float, float, int]:
    """Seconds of the wall and of the CPU, and page faults without a read, of this process."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return time.perf_counter(), time.process_time(), faults


def _bare(model: str, num_shards: int, data: Path, num_turns: int) -> None:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = normalised_rows(data)
    tuned = model == "cnn"
    if tuned:
        x = x.contiguous(memory_format=torch.channels_last)
    net = network(model, tuned)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    turns, size, start = _Turns(model, num_turns), BATCH // num_shards, 0
    while True:
        turns.before_step()
        optimizer.zero_grad(set_to_none=True)
        for first in range(start, start + BATCH, size):
            rows = slice(first, first + size)
            loss = F.cross_entropy(net(x[rows]), y[rows], reduction="sum")
            loss.backward(torch.full_like(loss, 1 / BATCH))  # type: ignore[no-untyped-call]
        optimizer.step()
        start = (start + BATCH) % (len(x) - BATCH)


def _worker(model: str, num_shards: int, data: Path, work: Path, num_turns: int) -> None:
    from raydc import engine, spec
    from raydc.data import prepare
    from raydc.loop import worker
    from raydc.loop.fault_injection import FaultInjector
    from raydc.loop.hooks import Hooks
    from raydc.storage import Storage

    body = "{name: mlp, hidden: [512, 256, 128]}" if model == "mlp" else "{name: cnn}"
    text = f"name: step\ndata: {{source: {data}}}\nmodel: {body}\n"
    overrides = [
        f"storage={work}",
        f"train.global_batch_size={BATCH}",
        f"train.logical_shards={num_shards}",
        "train.epochs=1000",
        "checkpoint.every_seconds=3600",
        "data.split.validation_fraction=0",
    ]
    given = spec.resolve(spec.loads(text, overrides=overrides))
    engine.connect(num_cpus=1)
    prepared = prepare.run(given, lambda _line: None)
    engine.disconnect()
    folder = Storage(str(work)) / "runs" / f"{model}-{num_shards}-{os.getpid()}"
    turns = _Turns(model, num_turns)

    class TurnsBeforeSteps(FaultInjector):
        """Waits before steps for the turn of this process."""

        def before_step(self, step: int) -> None:  # noqa: ARG002
            turns.before_step()

    hooks = Hooks(faults=TurnsBeforeSteps(folder, 0, 1))
    worker.fit(given, folder, prepared.folder, hooks=hooks)


def _round(
    model: str, shards: int, options: argparse.Namespace, work: Path
) -> dict[str, list[list[float]]]:
    """Turns of each contender: seconds of the wall, of the CPU, and page faults, each a step."""
    trees = {"bare": ROOT, "raydc": ROOT}
    if options.tree:
        trees["raydc, other tree"] = options.tree.resolve()
    processes = {}
    for name, tree in trees.items():
        kind = name.split(",")[0]
        # This file of this checkout, and raydc of the other one.
        program = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench import step; "
            f"sys.path[:1] = [{str(tree)!r}]; step.main()"
        )
        command = [sys.executable, "-c", program]
        command += ["--data", str(options.data), "--turns", str(options.turns)]
        command += ["--one", kind, model, str(shards), str(work / name.replace(", ", "-"))]
        processes[name] = subprocess.Popen(
            command,
            # Tasks of Ray find this one.
            env={**environment(kind), "PYTHONPATH": str(tree)},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    found: dict[str, list[list[float]]] = {name: [] for name in trees}
    for turn in range(options.turns + WARM_UP_TURNS):
        # Turned round each time, so that none is always behind the same one.
        order = list(processes.items())[:: 1 if turn % 2 else -1]
        for name, process in order:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            line = next((line for line in process.stdout if line.startswith("[")), None)
            if line is None:
                for other in processes.values():
                    other.kill()
                sys.exit(f"{name} failed on {model}")
            if turn >= WARM_UP_TURNS:
                found[name].append(json.loads(line))
    for process in processes.values():
        process.wait()
    return found


def _rows(model: str, shards: int, found: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Rows of the table for one network and one number of logical shards."""
    rows = []
    for name, turns in found.items():
        wall, cpu, faults = zip(*turns, strict=True)
        ratios = [mine[1] / bare[1] for mine, bare in zip(turns, found["bare"], strict=True)]
        rows.append(
            {
                "model": model,
                "shards": shards,
                "contender": name,
                "wall_ms": 1000 * statistics.median(wall),
                "cpu_ms": 1000 * statistics.median(cpu),
                "cpu_of_bare": statistics.median(ratios),
                "page_faults": statistics.median(faults),
            }
        )
    return rows


def _show(rows: list[dict[str, Any]]) -> None:
    import torch

    print(
        f"{'model':6}{'shards':>7}  {'contender':20}{'wall ms':>9}{'CPU ms':>9}"
        f"{'CPU of bare':>13}{'page faults':>13}"
    )
    for row in rows:
        print(
            f"{row['model']:6}{row['shards']:7}  {row['contender']:20}{row['wall_ms']:9.2f}"
            f"{row['cpu_ms']:9.2f}{row['cpu_of_bare']:13.3f}{row['page_faults']:13.1f}"
        )
    target = ROOT / "bench" / "results" / "step.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
