"""Whole commands on growing tables, beside polars, Ray Data, torch and scikit-learn.

    python -m bench.scale [--rows 10000 100000 1000000] [--rounds 3] [--stages prepare predict]
                          [--shares]

A table has twelve columns of numbers, eight of thirty categories and a target of two classes, as
Parquet. `prepare` reads it, splits it by row, standardises numbers by the training rows, turns
categories into numbers and writes each split. `feed` reads the training rows three times in batches
of 256, in a new order each time: raydc with one input per category, as a network takes it, the
others with a number. `evaluate` gives the scores of a network of 64 hidden units on the held-out
rows, `predict` adds its answers to each row of the file. Each contender is a command of its own, in
turn; CPU counts all of its processes (Linux). Predictions of both are compared. Prints a table, the
fixed part and the slope of each contender, and with `--shares` in which functions of raydc the time
of the largest table goes. Writes bench/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measured import run_for_json
from bench.scale_peers import write_table

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("prepare", "feed", "evaluate", "predict")
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
    parser.add_argument("--shares", action="store_true", help="also the shares of functions")
    options = parser.parse_args()
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
            ("evaluate", "raydc"): [*raydc, "evaluate", str(spec)],
            ("evaluate", "scikit-learn + torch"): peer("sklearn-evaluate", work),
            ("predict", "raydc"): [*raydc, *predict, "--output", str(work / "out.parquet")],
            ("predict", "polars + torch"): peer("polars-predict", work),
        }
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        commands = {key: one for key, one in commands.items() if key[0] in options.stages}
        for round_number in range(options.rounds):
            for (stage, contender), command in commands.items():
                prepare_for(stage, work, [*raydc, "train", str(spec)])
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
        if options.shares and num_rows == max(options.rows):
            show_shares(commands, work)
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
    return [sys.executable, "-m", "bench.scale_peers", contender, str(work)]


def run(command: list[str]) -> dict[str, float]:
    return run_for_json([sys.executable, "-m", "bench.measured", *command])


def prepare_for(stage: str, work: Path, train: list[str]) -> None:
    """Makes what a stage reads, if it is not there: it is no part of the measurement."""
    if stage in ("feed", "evaluate") and not (work / "polars").exists():
        subprocess.run(peer("polars-prepare", work), check=True)
    if stage == "feed":
        subprocess.run(peer("training-rows", work), check=True)
    # The network that all contenders evaluate and predict with.
    if stage in ("evaluate", "predict") and not (work / "store" / "models").exists():
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        evaluate = [*train[:-2], "evaluate", train[-1]]
        subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL)


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


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
        f"{'rows':>9}  {'stage':9}{'contender':22}{'CPU s':>8}{'wall s':>8}{'MB':>7}{'disk MB':>9}"
    )
    for row in rows:
        disk = "" if row["disk_bytes"] is None else f"{row['disk_bytes'] / 1e6:.1f}"
        print(
            f"{row['rows']:9,}  {row['stage']:9}{row['contender']:22}{row['cpu_s']:8.1f}"
            f"{row['wall_s']:8.1f}{row['peak_bytes'] / 1e6:7.0f}{disk:>9}"
        )
    if len({row["rows"] for row in rows}) > 1:
        show_slopes(rows)
    target = ROOT / "bench" / "results" / "scale.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"cpus": os.cpu_count(), "rows": rows}, indent=2) + "\n")


def show_slopes(rows: list[dict[str, Any]]) -> None:
    """The line through the smallest and the largest table: what is there anyway, and for a row."""
    print(f"\n{'stage':9}{'contender':22}{'fixed CPU s':>12}{'us a row':>9}{'wall us a row':>14}")
    for stage, contender in dict.fromkeys((row["stage"], row["contender"]) for row in rows):
        mine = [row for row in rows if (row["stage"], row["contender"]) == (stage, contender)]
        least, most = (choose(mine, key=lambda row: row["rows"]) for choose in (min, max))
        more = most["rows"] - least["rows"]
        cpu_s, wall_s = ((most[key] - least[key]) / more for key in ("cpu_s", "wall_s"))
        fixed_s = least["cpu_s"] - cpu_s * least["rows"]
        figures = f"{fixed_s:12.1f}{1e6 * cpu_s:9.2f}{1e6 * wall_s:14.2f}"
        print(f"{stage:9}{contender:22}{figures}")


def show_shares(commands: dict[tuple[str, str], list[str]], work: Path) -> None:
    """Runs the commands of raydc once more, with a look at their threads."""
    for (stage, contender), command in commands.items():
        if contender != "raydc" or stage == "feed":
            continue
        if stage == "prepare":
            remove(work / "store" / "data")
        # What follows `-c CODE` are the arguments of raydc.
        shares = run_for_json([sys.executable, "-m", "bench.shares", *command[3:]])
        print(f"\n{stage}: shares of the time in which a thread worked")
        for name, share in shares.items():
            print(f"  {share:5.1%}  {name}")


if __name__ == "__main__":
    main()
