"""Makespans of sweeps whose trials wait: raydc with and without workers that join, and Tune's ASHA.

The trials, points, times and accuracies are those of a sweep of `bench.sweep --simulate`, with the
same noise, and all times divided by the same number. raydc is `raydc sweep` as it is, on a Ray with
more logical CPUs than the machine has: real queue, processes, checkpoints, stops, process groups.
Only a pass of the network sleeps instead of computing (bench/waiting.py). Stops and process groups
take what they take on this machine, so they weigh more than with times that are not scaled. ASHA is
Ray Tune's own, with function trials that sleep for each epoch, and one shard.

A makespan reaches from the moment at which all first trials are there to the last epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench import started_ray, waiting
from bench.lcbench import Floats, Surrogate, draw
from raydc.storage import Storage
from raydc.tracking import events

ROOT = Path(__file__).resolve().parent.parent
RUNGS, FACTOR, NUM_TRIALS, NUM_SHARDS = (1, 3, 9, 27), 3, 24, 4
COUNTS = (2, 4, 8)
KINDS = ("asha", "alone", "joining")
_CALL = "import sys; from raydc.cli import main; sys.exit(main())"
_TIMEOUT_S = 1500.0


def measure_waiting(options: argparse.Namespace, shard_cost: float) -> dict[str, Any]:
    """Runs the sweeps; those whose results are kept are not run again.

    Args:
        options: Options of the command.
        shard_cost: Time of a step in four passes of one worker, by that of one pass.
    """
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    # Trials import their network from here.
    os.environ["PYTHONPATH"] = str(ROOT)
    rows = []
    with contextlib.ExitStack() as leaving:
        temporary = tempfile.TemporaryDirectory(prefix="raydc-", ignore_cleanup_errors=True)
        folder = options.keep or Path(leaving.enter_context(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        accuracy, seconds = read_curves(options.data, options.work_s)
        for slots in options.slots:
            for kind in options.kinds:
                known = folder / f"{kind}-{slots}.json"
                if not known.exists():
                    place = folder / f"{kind}-{slots}-{secrets.token_hex(3)}"
                    found = run_one(place, kind, slots, accuracy, seconds, shard_cost)
                    known.write_text(json.dumps({"kind": kind, "slots": slots, **found}))
                rows.append(json.loads(known.read_text()))
    return {"work_s": options.work_s, "shard_cost": shard_cost, "rows": rows}


def read_curves(data: Path, work_s: float) -> tuple[Floats, Floats]:
    """Accuracy (0 to 1) and seconds of each epoch, by trial and epoch.

    Args:
        data: Folder of LCBench.
        work_s: Seconds that all trials would take together, one after the other, to their ends.
    """
    surrogate = Surrogate(data)
    percent, since_s = surrogate.curves(surrogate.tasks[0], draw(7, NUM_TRIALS), RUNGS[-1])
    seconds = np.diff(since_s, axis=1, prepend=0.0)
    # Times vary by as much in each trial and rung as in simulated sweeps.
    noise = np.random.default_rng(17).normal(0.0, 0.25, (NUM_TRIALS, len(RUNGS)))
    rung_of = np.searchsorted(RUNGS, np.arange(1, RUNGS[-1] + 1))
    seconds = seconds * np.exp(noise[:, rung_of])
    return np.clip(percent / 100, 1e-3, 1 - 1e-3), seconds * work_s / seconds.sum()


def run_one(
    folder: Path, kind: str, slots: int, accuracy: Floats, seconds: Floats, shard_cost: float
) -> dict[str, Any]:
    """Runs one sweep on a Ray of its own.

    Args:
        folder: Takes all files of it.
        kind: One of KINDS.
        slots: Logical CPUs of the Ray.
        accuracy: Accuracy by trial and epoch.
        seconds: Seconds of one worker that makes one pass a step, by trial and epoch.
        shard_cost: Time of a step in four passes, by that of one pass.
    """
    folder.mkdir()
    joins = kind == "joining"
    curves = {
        "seconds": seconds.tolist(),
        "accuracy": accuracy.tolist(),
        "shards": NUM_SHARDS if joins else 1,
        "shard_cost": shard_cost if joins else 1.0,
        "up": str(folder / "up"),
        "slots": slots,
    }
    (folder / "curves.json").write_text(json.dumps(curves))
    with contextlib.ExitStack() as leaving:
        ray = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")))
        address = leaving.enter_context(started_ray.head(ray, "127.0.0.1", slots))
        if kind == "asha":
            command = ["-m", "bench.sweep_waiting", address, str(folder)]
        else:
            path = write_spec(folder, joins)
            command = ["-c", _CALL, "sweep", str(path), "--address", address]
        with (folder / "log").open("w") as log:
            done = subprocess.run(
                [sys.executable, *command],
                check=False,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                env={**os.environ, waiting.IN_COMMAND: "1"},
            )
    if done.returncode:
        raise SystemExit((folder / "log").read_text()[-3000:])
    moments, joined, stops = read_end(folder, kind)
    began_s = sorted(one.stat().st_mtime for one in (folder / "up").iterdir())[slots - 1]
    return {"makespan_s": max(moments) - began_s, "joined": joined, "stops": stops}


def write_spec(folder: Path, joins: bool) -> Path:
    """Writes rows that are prepared already, and the spec of a sweep over the curves."""
    rows = folder / "rows.csv"
    count = waiting.STEPS_PER_EPOCH * waiting.ROWS_PER_STEP
    parts = ["train"] * count + ["validation"] * 8
    lines = [f"{one % 7},{'yes' if one % 2 else 'no'},{part}" for one, part in enumerate(parts)]
    rows.write_text("\n".join(["x,y,part", *lines]) + "\n")
    arguments = {"trial": 0, "file": str(folder / "curves.json")}
    spec = {
        "name": "waiting",
        "storage": str(folder / "store"),
        "data": {
            "source": str(rows),
            "target": "y",
            "split": {"by": "column", "column": "part", "test_fraction": 0.0},
        },
        "model": {"builder": "bench.waiting:network", "arguments": arguments},
        "train": {
            "epochs": RUNGS[-1],
            "global_batch_size": waiting.ROWS_PER_STEP,
            "logical_shards": NUM_SHARDS if joins else 1,
            "metric": "bench.waiting:score",
            "mode": "max",
            "log_every_steps": 1,
        },
        "scaling": {"num_workers": {"min": 1, "max": NUM_SHARDS} if joins else 1},
        "sweep": {
            "num_samples": NUM_TRIALS,
            "search_alg": "grid",
            "scheduler": {"name": "asha", "type": "promotion", "reduction_factor": FACTOR},
            "space": {"model.arguments.trial": {"grid": list(range(NUM_TRIALS))}},
        },
    }
    path = folder / "waiting.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def read_end(folder: Path, kind: str) -> tuple[list[float], int, int]:
    """Moments of epochs, workers that have joined, and stops for a change of workers."""
    if kind == "asha":
        lines = (folder / "epochs").read_text().split()
        return [float(line) for line in lines], 0, 0
    place = Storage(str(folder / "store" / "runs" / "waiting" / "sweep"))
    log = [
        one
        for key in place.names("trials")
        for one in events.read(place / "trials" / key, "events")
    ]
    moments = [one["time_s"] for one in log if one["kind"] == "epoch"]
    joined = sum(one["number"] for one in log if one["kind"] == "workers_joined")
    return moments, joined, sum(one["kind"] == "resize" for one in log)


def run_asha(address: str, folder: Path) -> None:
    """Tune's ASHA with trials that sleep, in a process of its own."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    known = waiting.load_curves(str(folder / "curves.json"))

    def train(config: dict[str, Any]) -> None:
        waiting.wait_for_all(Path(known["up"]), known["slots"])
        trial = config["trial"]
        for epoch, seconds in enumerate(known["seconds"][trial], start=1):
            time.sleep(seconds)
            with (folder / "epochs").open("a") as file:
                file.write(f"{time.time()}\n")
            tune.report({"epoch": epoch, "metric": known["accuracy"][trial][epoch - 1]})

    ray.init(address, log_to_driver=False, logging_level="warning")
    scheduler = ASHAScheduler(
        time_attr="epoch", max_t=RUNGS[-1], grace_period=RUNGS[0], reduction_factor=FACTOR
    )
    config = tune.TuneConfig(
        metric="metric", mode="max", scheduler=scheduler, reuse_actors=True, num_samples=1
    )
    space = {"trial": tune.grid_search(list(range(NUM_TRIALS)))}
    run_config = tune.RunConfig(storage_path=str(folder / "tune"), verbose=0)
    tune.Tuner(
        tune.with_resources(train, {"CPU": 1}),
        param_space=space,
        tune_config=config,
        run_config=run_config,
    ).fit()


def show_waiting(found: dict[str, Any], goals: dict[tuple[int, int], float]) -> None:
    """Prints the table.

    Args:
        found: As `measure_waiting` returns it.
        goals: Most of ASHA's makespan, by trials and workers.
    """
    print(f"{'workers':>7}  {'sweep':10}{'makespan s':>11}{'of ASHA':>9}{'goal':>6}{'joined':>8}")
    asha = {row["slots"]: row["makespan_s"] for row in found["rows"] if row["kind"] == "asha"}
    for row in found["rows"]:
        whole = asha.get(row["slots"])
        part = f"{row['makespan_s'] / whole:9.2f}" if whole else f"{'':9}"
        goal = f"{goals[NUM_TRIALS, row['slots']]:6.2f}" if row["kind"] == "joining" else f"{'':6}"
        print(
            f"{row['slots']:7}  {row['kind']:10}{row['makespan_s']:11.1f}{part}{goal}"
            f"{row['joined']:8}"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument(
        "--work-s", type=float, default=900.0, help="seconds of all trials that wait, to their ends"
    )
    parser.add_argument("--slots", type=int, nargs="*", default=list(COUNTS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)


def main(arguments: Sequence[str]) -> None:
    run_asha(arguments[0], Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
