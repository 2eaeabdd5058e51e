"""Training of language models: raydc beside a bare loop and beside transformers.Trainer.

    python -m bench.language [--rounds 3] [--parts scratch full lora frozen]
                             [--steps 24] [--width 256] [--depth 4] [--length 256] [--rows 1280]

`scratch`: tokens per second of a decoder from scratch on the stories of examples/stories, beside a
loop of forward, backward and optimiser on slices of a tensor of rows that is ready. A rate is that
of the last half of the steps. `full` and `lora`: one epoch of MiniLM on some messages of SMS spam,
beside transformers.Trainer (`bench.tuning`): rows per second of all steps, the whole command from
its imports to the scores, and the accuracy on 1,000 other messages. `frozen`: epochs of a head on
MiniLM with and without the outputs of the frozen layers in files.

All have one thread, each in a process of its own, in turn for several rounds. Seconds are those of
CPU, which other jobs on the machine change little. Prints one table, writes one JSON file.
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

from bench import tuning
from bench.measured import run_for_json
from bench.step_clock import StepClock

ROOT = Path(__file__).resolve().parent.parent
BATCH = 8
# The first contender of a part is the one that the others are compared with.
PARTS = {
    "scratch": {"bare": "bare loop", "raydc": "raydc, one process"},
    "full": {"trainer": "transformers.Trainer", "raydc": "raydc, one process"},
    "lora": {"trainer": "transformers.Trainer, peft", "raydc": "raydc, one process"},
    "frozen": {"again": "raydc, cache_frozen: false", "once": "raydc, outputs kept"},
}
UNITS = {"scratch": "tokens", "full": "rows", "lora": "rows", "frozen": "rows"}
Result = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--one", nargs=3, metavar=("PART", "NAME", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, name, work = options.one
        started_s = time.process_time()
        found = run_one(options, part, name, Path(work))
        # What was imported before counts as well.
        whole = {"whole_s": time.process_time(), "imports_s": started_s}
        print(json.dumps({**found, **whole}))
        return
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
        show(measure(options, Path(work)), options)


def run_one(options: argparse.Namespace, part: str, name: str, work: Path) -> Result:
    """Runs one contender in this process.

    Args:
        options: Options of the command.
        part: What is trained, a key of `PARTS`.
        name: The contender, a key of that part.
        work: Folder of the data.
    """
    if part == "scratch":
        return {"rate": {"bare": bare, "raydc": raydc}[name](options, work)}
    if part == "frozen":
        return tuning.frozen(work, name == "once")
    return tuning.CONTENDERS[name](work, part)


def measure(options: argparse.Namespace, work: Path) -> dict[str, dict[str, list[Result]]]:
    """Results of each contender of each part by round."""
    sizes = ("steps", "width", "depth", "length", "rows")
    given = [f"--{name}={getattr(options, name)}" for name in sizes]
    # Memory that is freed is kept, as raydc keeps it.
    kept = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    if "scratch" in options.parts:
        prepare(options, work)
    if options.parts != ["scratch"]:
        tuning.write_messages(work, options.rows)
    results = {part: {name: list[Result]() for name in PARTS[part]} for part in options.parts}
    for number in range(options.rounds):
        for part, contenders in results.items():
            for name, found in contenders.items():
                command = [sys.executable, "-m", "bench.language", *given]
                peer = PARTS[part][name].startswith(("bare", "transformers"))
                one = ["--one", part, name, str(work)]
                found.append(run_for_json([*command, *one], kept if peer else {}))
                text = " ".join(f"{key} {value:,.3f}" for key, value in found[-1].items())
                print(f"round {number + 1}: {part}: {PARTS[part][name]}: {text}", file=sys.stderr)
    return results


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
    clock = StepClock()
    for step in range(options.steps):
        clock.before_step(step + 1)
        loss = network({"text": rows[step * BATCH : (step + 1) * BATCH]}).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        loss.item()
    return clock.rate(BATCH * options.length, options.steps // 2 + 1)


def raydc(options: argparse.Namespace, work: Path) -> float:
    """A run of raydc in this process."""
    from raydc.loop import worker
    from raydc.loop.hooks import Hooks
    from raydc.storage import Storage

    data, spec, clock = prepare(options, work), spec_of(options, work), StepClock()
    run = Storage(str(work)) / f"run-{time.time_ns()}"
    worker.fit(spec, run, data.folder, hooks=Hooks(faults=clock))
    return clock.rate(BATCH * options.length, options.steps // 2 + 1)


def show(results: dict[str, dict[str, list[Result]]], options: argparse.Namespace) -> None:
    import torch
    import transformers

    rows = []
    print(f"{'part':9}{'contender':28}{'per CPU s':>12}{'of first':>10}{'whole s':>10}{'right':>8}")
    for part, contenders in results.items():
        first = next(iter(contenders.values()))
        for name, found in contenders.items():
            # Of rounds, not of medians: both sides of a ratio were measured in the same minute.
            ratios = [a["rate"] / b["rate"] for a, b in zip(found, first, strict=True)]
            row: dict[str, Any] = {"part": part, "contender": PARTS[part][name]}
            row |= {"unit": UNITS[part], "of_first": statistics.median(ratios), "ratios": ratios}
            for key in found[0]:
                row[key] = statistics.median(one[key] for one in found)
            rows.append({**row, "rounds": found})
            right = f"{row['accuracy']:8.3f}" if "accuracy" in row else ""
            print(
                f"{part:9}{row['contender']:28}{row['rate']:12,.1f}{row['of_first']:10.2f}"
                f"{row['whole_s']:10.1f}{right}"
            )
    target = ROOT / "bench" / "results" / "language.json"
    target.parent.mkdir(exist_ok=True)
    sizes = {name: getattr(options, name) for name in ("width", "depth", "length", "steps", "rows")}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    facts = {**versions, "cpus": os.cpu_count(), **sizes, "rows": rows}
    target.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
