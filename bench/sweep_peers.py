"""`raydc sweep` beside Optuna and Ray Tune: the same points, rows and rungs, in the same minutes.

Each contender is a command, from Enter to its end, in turn, two trials at a time where it can (one
process of Optuna runs one). CPU counts all processes of the command, also those of Ray. The plain
loop trains the first points to the end without any library; its CPU seconds for an epoch say what
the epochs of the others cost by themselves. Data is prepared before, as arrays for the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import fashion_sweep
from bench.whole_run import run
from raydc import spec as specs
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.elastic.trial_draws import known_points
from raydc.storage import Storage
from raydc.tracking import events

ROOT = Path(__file__).resolve().parent.parent
LABELS = {
    "raydc": "raydc sweep",
    "loop": "plain loop",
    "optuna": "Optuna, one process",
    "optuna-2": "Optuna, two processes",
    "tune": "Ray Tune, function trials",
    "tune-trainers": "Ray Tune, 4 TorchTrainers",
}
# Most CPU seconds by those of the plain loop's epochs; seconds more than Optuna's two processes;
# seconds from Enter to the first result; CPU seconds of the driver for a trial of a thousand.
GOALS = {"cpu": 1.15, "behind_s": 12.0, "first_s": 12.0, "driver_s": 0.05}
# A trial with a TorchTrainer starts processes of its own, so that 24 of them take half an hour.
_NUM_TRAINERS = 4
_FEW = 20
# Measures the process of the driver alone, with its threads and without the processes of Ray.
_DRIVE = """
import json, resource, sys, time
from raydc.cli import main
started_s = time.monotonic()
main(["sweep", sys.argv[1]], standalone_mode=False)
used = resource.getrusage(resource.RUSAGE_SELF)
wall_s = time.monotonic() - started_s
print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "wall_s": wall_s}))
"""
_CALL = "import sys; from raydc.cli import main; sys.exit(main())"


def measure_peers(
    data: Path, rounds: int, contenders: Sequence[str], say: bool = True
) -> dict[str, Any]:
    """Runs all contenders in turn.

    Args:
        data: Folder of the original files of Fashion-MNIST.
        rounds: How often each one runs.
        contenders: Names out of `LABELS`.
        say: Whether to tell each figure at once.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="raydc-", ignore_cleanup_errors=True) as work:
        folder = Path(work)
        fashion_sweep.write_rows(data, folder / "rows")
        given = _prepare(folder)
        for number in range(rounds):
            for name in contenders:
                one = _run(folder, given, name, number)
                found.setdefault(name, []).append(one)
                if say:
                    print(f"{LABELS[name]}: {json.dumps(one)}", file=sys.stderr, flush=True)
    return {"contenders": found, "goals": GOALS}


def _prepare(folder: Path) -> dict[str, Any]:
    """Prepares the data set, and writes its rows as arrays and the points of all trials."""
    given = fashion_sweep.make_spec(
        folder, "raydc", folder / "rows", search_alg="quasi_random", max_concurrent_trials=2
    )
    fashion_sweep.write_spec(folder / "raydc.yaml", given)
    command = [sys.executable, "-c", _CALL, "prepare", str(folder / "raydc.yaml")]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=paths, check=True, capture_output=True)
    (place,) = (folder / "store" / "data").glob("raydc-*")
    data = prepared.load(Storage(str(place)))
    arrays = {}
    for split, name in (("train", "train"), ("validation", "held")):
        rows = open_rows(data.folder, split)
        x, y = rows.gather(np.arange(len(rows), dtype=np.int64))
        arrays[f"{name}_x"], arrays[f"{name}_y"] = np.asarray(x), np.asarray(y)
    np.savez(folder / "rows.npz", **arrays)
    resolved = specs.resolve(specs.from_dict(given))
    points = [
        {"rate": point["train.learning_rate"], **point["model"]} for point in known_points(resolved)
    ]
    (folder / "points.json").write_text(json.dumps(points))
    return given


def _run(folder: Path, given: dict[str, Any], name: str, number: int) -> dict[str, Any]:
    """Wall and CPU seconds of a contender, its epochs, and when its first result was there."""
    place = folder / f"{name}-{number}"
    place.mkdir()
    (place / "rows.npz").symlink_to(folder / "rows.npz")
    points = json.loads((folder / "points.json").read_text())
    if name == "loop":
        # The same work as the sweep of raydc in this round.
        ended = json.loads(
            (folder / "store" / "runs" / f"raydc-{number}" / "sweep" / "trials.json").read_text()
        )
        points = [
            {**point, "epochs": one["epochs"]} for point, one in zip(points, ended, strict=True)
        ]
    if name == "tune-trainers":
        points = points[:_NUM_TRAINERS]
    (place / "points.json").write_text(json.dumps(points))
    if name == "raydc":
        spec = {**given, "name": f"raydc-{number}"}
        fashion_sweep.write_spec(place / "spec.yaml", spec)
        command = [sys.executable, "-c", _CALL, "sweep", str(place / "spec.yaml")]
    else:
        command = [sys.executable, "-m", "bench.plain_trials", name, str(place)]
    entered_s = time.time()
    figures = run(command, place, {"PYTHONPATH": str(ROOT), "RAY_AIR_NEW_OUTPUT": "0"})
    if name == "raydc":
        epochs = _epochs_of_raydc(folder / "store" / "runs" / spec["name"])
    else:
        lines = (place / "epochs.jsonl").read_text().splitlines()
        epochs = [json.loads(line) for line in lines]
    return {
        **figures,
        "epochs": len(epochs),
        "first_s": min(one["time_s"] for one in epochs) - entered_s,
        "best": max(one["accuracy"] or 0.0 for one in epochs),
        "load": os.getloadavg()[0],
    }


def _epochs_of_raydc(run_folder: Path) -> list[dict[str, Any]]:
    found = []
    for place in (run_folder / "sweep" / "trials").iterdir():
        records = events.read(Storage(str(place)), "metrics")
        found += [record for record in records if record["kind"] == "epoch"]
    return found


def measure_driver(num_trials: int) -> dict[str, Any]:
    """CPU seconds of the driver of raydc for one more trial: two sweeps of very short trials.

    Args:
        num_trials: Trials of the large sweep; the small one has `_FEW`.
    """
    cpu_s = {}
    with tempfile.TemporaryDirectory(prefix="raydc-", ignore_cleanup_errors=True) as work:
        rows = ["a,b,y", *(f"{n % 7},{n % 11},{'yes' if n % 7 > 3 else 'no'}" for n in range(400))]
        (Path(work) / "rows.csv").write_text("\n".join(rows) + "\n")
        for count in (_FEW, num_trials):
            given = {
                "name": f"trials-{count}",
                "storage": "store",
                "data": {"source": "rows.csv", "target": "y"},
                "model": {"name": "linear"},
                "train": {"epochs": 1, "global_batch_size": 64},
                "sweep": {
                    "num_samples": count,
                    "scheduler": "fifo",
                    "space": {"train.learning_rate": {"loguniform": [1e-4, 1e-1]}},
                },
            }
            fashion_sweep.write_spec(Path(work) / f"{count}.yaml", given)
            done = subprocess.run(
                [sys.executable, "-c", _DRIVE, f"{count}.yaml"],
                cwd=work,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            cpu_s[count] = json.loads(done.stdout.splitlines()[-1])
            print(f"{count} trials: {cpu_s[count]}", file=sys.stderr, flush=True)
    each = {
        key: (cpu_s[num_trials][key] - cpu_s[_FEW][key]) / (num_trials - _FEW)
        for key in ("cpu_s", "wall_s")
    }
    return {"trials": num_trials, "driver_cpu_s": each["cpu_s"], "wall_s": each["wall_s"]}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs")
    parser.add_argument("--contenders", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--trials", type=int, default=1000, help="short trials; 0 for none")


def show_peers(found: dict[str, Any]) -> None:
    """Prints the table, and which goals are reached."""
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found["contenders"].items()
    }
    loop = medians.get("loop")
    print(
        f"{'':28}{'wall s':>8}{'CPU s':>8}{'first s':>9}{'epochs':>8}{'CPU/epoch':>11}"
        f"{'of loop':>9}{'best':>8}"
    )
    for name, one in medians.items():
        each = one["cpu_s"] / one["epochs"]
        share = f"{each / (loop['cpu_s'] / loop['epochs']):9.2f}" if loop else ""
        print(
            f"{LABELS[name]:28}{one['wall_s']:8.1f}{one['cpu_s']:8.1f}{one['first_s']:9.1f}"
            f"{one['epochs']:8.0f}{each:11.3f}{share:>9}{one['best']:8.4f}"
        )
    if "driver" in found:
        one = found["driver"]
        print(
            f"CPU seconds of raydc's driver for one of {one['trials']} trials: "
            f"{one['driver_cpu_s']:.3f}, goal {GOALS['driver_s']}"
        )
    if loop and "raydc" in medians:
        share = medians["raydc"]["cpu_s"] / loop["cpu_s"]
        print(f"CPU seconds of raydc by those of the plain loop: {share:.2f}, goal {GOALS['cpu']}")
    with contextlib.suppress(KeyError):
        raydc, twice = medians["raydc"], medians["optuna-2"]
        behind_s = raydc["wall_s"] - twice["wall_s"]
        print(f"raydc behind Optuna's two processes: {behind_s:.1f} s, goal {GOALS['behind_s']:g}")
