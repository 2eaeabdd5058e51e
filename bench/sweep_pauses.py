"""What a pause of a trial at a rung costs Ray Tune: 24 trials in one part, and in four parts each.

    python -m bench.sweep_pauses [--rounds 3]

The trials do nothing but report, one at a time in a reused actor. To Tune each part is a trial of
its own, as in `raydc sweep`, given by a searcher. `gap` is the median of the seconds from the end
of a part, as the driver learns it, to the start of the next one in the actor; `pause` the wall time
of 96 parts less that of 24, by the 72 pauses; `cpu` the same of the driver's CPU time. What raydc
adds in the actor (to read a checkpoint and build the network) depends on the model. Prints one
table and writes bench/results/sweep_pauses.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NUM_TRIALS = 24
NUM_PARTS = 4
# Read by Tune when it is imported.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


def run_part(config: dict[str, Any]) -> None:  # noqa: ARG001
    """A part of a trial, in the actor."""
    from ray import tune

    tune.report({"metric": 0.0, "started_s": time.time()})


def run_sweep(num_parts: int, folder: str) -> dict[str, float]:
    """Runs all trials in some parts each.

    Args:
        num_parts: Parts of each trial.
        folder: Takes Tune's files.
    """
    from ray import tune
    from ray.tune.search import Searcher

    todo = [(trial, part) for trial in range(NUM_TRIALS) for part in range(num_parts)]
    running: set[str] = set()
    gaps_s: list[float] = []
    ended_s: list[float] = []

    class Parts(Searcher):  # type: ignore[misc]
        """Gives one part after the other."""

        def suggest(self, trial_id: str) -> Any:
            if not todo:
                return None if running else Searcher.FINISHED
            running.add(trial_id)
            trial, part = todo.pop(0)
            return {"trial": trial, "part": part}

        def on_trial_complete(self, trial_id: str, **info: Any) -> None:  # noqa: ARG002
            running.discard(trial_id)

        def save(self, checkpoint_path: str) -> None: ...

        def restore(self, checkpoint_path: str) -> None: ...

    class Gaps(tune.Callback):  # type: ignore[misc]
        """Notes when a part has ended, and when the next one began."""

        def on_trial_complete(self, *, trial: Any, **info: Any) -> None:  # noqa: ARG002
            if ended_s:
                gaps_s.append(trial.last_result["started_s"] - ended_s[-1])
            ended_s.append(time.time())

    wall_s, cpu_s = time.monotonic(), time.process_time()
    tune.Tuner(
        tune.with_resources(run_part, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            metric="metric",
            mode="max",
            search_alg=Parts(),
            num_samples=-1,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[Gaps()]),
    ).fit()
    assert len(ended_s) == NUM_TRIALS * num_parts
    return {
        "gap_s": statistics.median(gaps_s),
        "wall_s": time.monotonic() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    rows = []
    num_pauses = NUM_TRIALS * (NUM_PARTS - 1)
    with tempfile.TemporaryDirectory(prefix="raydc-bench-") as folder:
        # The first sweep imports all of Tune.
        run_sweep(1, folder)
        print(f"{'gap s':>8}{'pause s':>9}{'cpu s':>8}{'load':>7}")
        for _ in range(options.rounds):
            whole, parts = run_sweep(1, folder), run_sweep(NUM_PARTS, folder)
            row = {
                "gap_s": parts["gap_s"],
                "pause_s": (parts["wall_s"] - whole["wall_s"]) / num_pauses,
                "cpu_s": (parts["cpu_s"] - whole["cpu_s"]) / num_pauses,
                "load": os.getloadavg()[0],
            }
            rows.append(row)
            pause = f"{row['gap_s']:8.3f}{row['pause_s']:9.3f}{row['cpu_s']:8.3f}"
            print(f"{pause}{row['load']:7.1f}")
    ray.shutdown()
    target = ROOT / "bench" / "results" / "sweep_pauses.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
