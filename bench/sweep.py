"""Makespan of a sweep whose decisions do not depend on the order of results, in simulated time.

    python -m bench.sweep --simulate [--tasks 34] [--seeds 3]
    python -m bench.sweep --samplers [--tasks 34] [--seeds 3] [--gp]
    python -m bench.sweep --determinism [--keep FOLDER]
    python -m bench.sweep --join [--network cnn] [--slots 2 4 8] [--work-s 900] [--keep FOLDER]
    python -m bench.sweep --peers [--rounds 3] [--contenders raydc loop optuna-2] [--trials 1000]

Simulates sweeps over the learning curves of LCBench (bench/lcbench.py), whose epochs take as long
as they took there, by 25 % more or less at random for each run and rung. `Tune's ASHA` is Ray
Tune's own scheduler, which decides by what has arrived. The others are raydc's fold: `promotion`
and `stopping`, each trial on one worker, and with idle workers that join running trials
(`joining`). Each makespan is divided by that of ASHA on as many workers with the same points and
times.

Joining is charged. A trial that workers can join has four logical shards, so that one worker makes
four small passes for each step. What they take, by the time of one large pass, depends on the
network; `SHARD_COSTS` has what bench/exact.py measures. Each change of a trial's workers stops it
for `--join-s`, which is what bench/recovery.py measures after the loss of a worker. m workers
with a shard each compute m ** 0.8 as fast as one. `joining, free` charges neither cost, as a bound.

`same` is the part of runs whose decisions are those of one worker, `winner` the part with the same
winner, `regret` how many points of accuracy the winner is below the best of all at full length.
Prints one table and writes bench/results/sweep.json. `--samplers` measures search algorithms
instead (bench/sampling.py) and writes bench/results/samplers.json. Both need `onnxruntime` and the
data of LCBench: `--data FOLDER`. `--determinism` runs whole sweeps of Fashion-MNIST on a Ray and
compares their journals (bench/sweep_determinism.py), for bench/results/sweep_determinism.json.
`--join` runs raydc with and without workers that join, and ASHA, with trials that wait instead of
computing (bench/sweep_waiting.py), for bench/results/sweep_waiting.json.
`--peers` runs the same trials with Optuna and Ray Tune, and as many short ones as `--trials` says
for the CPU time of the driver (bench/sweep_peers.py), for bench/results/sweep_peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench import sampling, sweep_determinism, sweep_peers, sweep_waiting
from bench.lcbench import Floats, Surrogate, draw
from raydc.search import DecisionFold, Method

ROOT = Path(__file__).resolve().parent.parent
RUNGS = (1, 3, 9, 27)
FACTOR = 3
NUM_SHARDS = 4
# Time of a step in four passes of one worker, by that of one pass: rows per second of
# bench/exact.py.
SHARD_COSTS = {"mlp": 1.00 / 0.69, "resnet18": 0.98 / 0.77, "cnn": 0.97 / 1.07}
ASHA = "Tune's ASHA"
# Most of ASHA's makespan by trials and workers, and whether workers have to join to reach it.
GOALS = {(24, 2): 0.95, (24, 4): 0.80, (24, 8): 0.75, (64, 16): 1.0}
Result = tuple[int, int]


@dataclass(frozen=True)
class Costs:
    """What joining costs.

    Attributes:
        shards: Time of a step in four passes, by that of one pass.
        join_s: Seconds for which a trial stands still when its workers change.
        num_shards: Logical shards of a trial, which is the most workers that it can have.
    """

    shards: float = 1.0
    join_s: float = 0.0
    num_shards: int = 1

    def speed(self, workers: int) -> float:
        """Work per second on some workers, by that of one worker that makes one pass a step."""
        passes = -(-self.num_shards // workers)
        # A worker with two shards makes the others, which have one, wait for it.
        return float(self.num_shards) / passes * float(workers) ** -0.2 / self.shards

    def more(self, workers: int) -> int | None:
        """The next larger number of workers that makes a trial faster; None if there is none."""
        faster = (m for m in range(workers + 1, self.num_shards + 1))
        return next((m for m in faster if self.speed(m) > self.speed(workers)), None)


class Policy(Protocol):
    """Decides what runs next."""

    def runnable(self) -> Sequence[Result]: ...

    def add(self, result: Result, metric: float) -> None: ...


class Asha:
    """Ray Tune's scheduler, asked in the order in which results arrive.

    Args:
        num_trials: Number of trials.
    """

    def __init__(self, num_trials: int) -> None:
        from ray.tune.schedulers import ASHAScheduler, TrialScheduler

        self._continue = TrialScheduler.CONTINUE
        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="metric",
            mode="max",
            max_t=RUNGS[-1],
            grace_period=RUNGS[0],
            reduction_factor=FACTOR,
        )
        self._trials = [_Stub(str(number)) for number in range(num_trials)]
        for trial in self._trials:
            self._scheduler.on_trial_add(None, trial)
        self._next: list[Result] = []
        self._new = [(number, 0) for number in range(num_trials)]
        self.decisions: list[Result] = []

    def runnable(self) -> Sequence[Result]:
        # A trial that goes on keeps its worker.
        return [*self._next, *self._new]

    def add(self, result: Result, metric: float) -> None:
        trial, rung = result
        (self._next if rung else self._new).remove(result)
        record = {"epoch": RUNGS[rung], "metric": metric}
        answer = self._scheduler.on_trial_result(None, self._trials[trial], record)
        self.decisions.append(result)
        if answer == self._continue:
            self._next.append((trial, rung + 1))


@dataclass
class _Stub:
    """What the scheduler wants to know of a trial."""

    trial_id: str


class ByFold:
    """raydc's decisions.

    Args:
        kind: Type of the method.
        num_trials: Number of trials.
    """

    def __init__(self, kind: str, num_trials: int) -> None:
        self.fold = DecisionFold(0, {}, Method(kind, RUNGS, FACTOR, "max", (num_trials,)))
        self.decisions: list[Result] = []

    def runnable(self) -> Sequence[Result]:
        return self.fold.runnable()

    def add(self, result: Result, metric: float) -> None:
        self.decisions.append(result)
        self.fold.add(result, metric)


@dataclass
class _Running:
    """A trial on some workers: the work that is left, and how long it still stands still."""

    work: float
    workers: int
    stall_s: float = 0.0

    def left_s(self, costs: Costs) -> float:
        return self.stall_s + self.work / costs.speed(self.workers)

    def pass_time(self, seconds: float, costs: Costs) -> None:
        stalled = min(seconds, self.stall_s)
        self.stall_s -= stalled
        self.work -= (seconds - stalled) * costs.speed(self.workers)


def simulate(
    policy: Policy, num_workers: int, metrics: Floats, work: Floats, costs: Costs
) -> tuple[float, float]:
    """Runs a sweep in simulated time.

    Args:
        policy: Decides what runs.
        num_workers: Number of workers.
        metrics: Metric by trial and rung.
        work: Seconds of one worker between two rungs, by trial and rung.
        costs: What joining costs.

    Returns:
        Makespan in seconds, and the part of the workers' time in which they were busy.
    """
    running: dict[Result, _Running] = {}
    now_s = busy_s = 0.0
    while True:
        _place(policy, num_workers, running, work, costs)
        if not running:
            return now_s, busy_s / (num_workers * now_s)
        result = min(running, key=lambda result: (running[result].left_s(costs), result))
        seconds = running[result].left_s(costs)
        for one in running.values():
            one.pass_time(seconds, costs)
        now_s += seconds
        busy_s += seconds * sum(one.workers for one in running.values())
        del running[result]
        policy.add(result, float(metrics[result]))


def _place(
    policy: Policy, num_workers: int, running: dict[Result, _Running], work: Floats, costs: Costs
) -> None:
    """Starts what may run, which takes workers back from trials that they have joined."""
    for result in policy.runnable():
        if len(running) == num_workers:
            break
        if result in running:
            continue
        if sum(one.workers for one in running.values()) == num_workers:
            joined = [one for one in running.values() if one.workers > 1]
            # The one that is done first loses least.
            least = min(joined, key=lambda one: one.left_s(costs))
            least.workers -= 1
            least.stall_s = costs.join_s
        running[result] = _Running(float(work[result]), 1)
    free = num_workers - sum(one.workers for one in running.values())
    while (best := _best_join(running, free, costs)) is not None:
        one, workers = best
        free -= workers - one.workers
        one.workers, one.stall_s = workers, costs.join_s


def _best_join(
    running: dict[Result, _Running], free: int, costs: Costs
) -> tuple[_Running, int] | None:
    """The trial that is done last, if idle workers make it done sooner than without them."""
    for one in sorted(running.values(), key=lambda one: -one.left_s(costs)):
        workers = costs.more(one.workers)
        if workers is None or workers - one.workers > free:
            continue
        # Twice the cost: the workers may be needed elsewhere before the trial is done.
        after_s = 2 * costs.join_s + one.work / costs.speed(workers)
        if after_s < one.left_s(costs):
            return one, workers
    return None


def contenders(num_trials: int, join_s: float) -> dict[str, tuple[Callable[[], Any], Costs]]:
    """Policies by name, each with the costs of its trials.

    Args:
        num_trials: Number of trials of a sweep.
        join_s: Seconds for which a trial stands still when its workers change.
    """

    def fold(kind: str) -> Callable[[], ByFold]:
        return lambda: ByFold(kind, num_trials)

    found: dict[str, tuple[Callable[[], Any], Costs]] = {}
    found[ASHA] = (lambda: Asha(num_trials), Costs())
    for kind in ("promotion", "stopping"):
        found[kind] = (fold(kind), Costs())
        for network, cost in SHARD_COSTS.items():
            found[f"{kind}, joining, {network}"] = (fold(kind), Costs(cost, join_s, NUM_SHARDS))
        found[f"{kind}, joining, free"] = (fold(kind), Costs(num_shards=NUM_SHARDS))
    return found


def sweeps(
    surrogate: Surrogate, options: argparse.Namespace, num_trials: int
) -> Iterator[tuple[int, Floats, Floats]]:
    """Yields for each sweep its number, the metrics, and the seconds between two rungs."""
    tasks = surrogate.tasks[:: max(1, len(surrogate.tasks) // options.tasks)][: options.tasks]
    last = np.array(RUNGS) - 1
    for number, (task, seed) in enumerate((t, s) for t in tasks for s in range(options.seeds)):
        points = draw(1000 * seed + 7, num_trials)
        accuracy, seconds = surrogate.curves(task, points, RUNGS[-1])
        yield number, accuracy[:, last], np.diff(seconds[:, last], axis=1, prepend=0.0)


def measure(surrogate: Surrogate, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulates all sweeps with all policies on all numbers of workers."""
    rows = []
    for num_trials in sorted({trials for trials, _ in GOALS}):
        counts = [workers for trials, workers in GOALS if trials == num_trials]
        named = contenders(num_trials, options.join_s)
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        for number, metrics, work in sweeps(surrogate, options, num_trials):
            reference = {}
            for name, (make, costs) in named.items():
                policy = make()
                simulate(policy, 1, metrics, work, costs)
                reference[name] = _outcome(policy, metrics)
            for workers in counts:
                noise = np.random.default_rng(17 * workers + number)
                timed = work * np.exp(noise.normal(0.0, 0.25, work.shape))
                asha_s = 0.0
                for name, (make, costs) in named.items():
                    policy = make()
                    makespan_s, busy = simulate(policy, workers, metrics, timed, costs)
                    asha_s = makespan_s if name == ASHA else asha_s
                    decisions, winner = _outcome(policy, metrics)
                    best, own = metrics[:, -1].max(), metrics[winner, -1]
                    one = {
                        "makespan": makespan_s / asha_s,
                        "busy": busy,
                        "same": decisions == reference[name][0],
                        "winner": winner == reference[name][1],
                        "regret": float(best - own),
                    }
                    found.setdefault((name, workers), []).append(one)
        for (name, workers), runs in found.items():
            means = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
            rows.append({"trials": num_trials, "workers": workers, "policy": name, **means})
    return rows


def _outcome(policy: Any, metrics: Floats) -> tuple[Any, int]:
    """Which results a sweep has, and its winner: the best metric of all, as in `raydc sweep`."""
    ran = sorted(policy.decisions)
    winner = min(ran, key=lambda result: (-metrics[result], result[0]))[0]
    return (policy.fold.lines if isinstance(policy, ByFold) else ran), winner


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    print(
        f"{'trials':>6}{'workers':>8}  {'policy':30}"
        f"{'makespan':>9}{'goal':>6}{'busy':>6}{'same':>6}{'winner':>8}{'regret':>8}"
    )
    for row in rows:
        goal = GOALS[row["trials"], row["workers"]]
        numbers = f"{row['makespan']:9.2f}{goal:6.2f}{row['busy']:6.2f}{row['same']:6.2f}"
        print(
            f"{row['trials']:6}{row['workers']:8}  {row['policy']:30}{numbers}"
            f"{row['winner']:8.2f}{row['regret']:8.2f}"
        )
    write("sweep", {"shard_costs": SHARD_COSTS, "join_s": options.join_s, "rows": rows})


def write(name: str, found: dict[str, Any]) -> None:
    target = ROOT / "bench" / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("RAYDC_TEST_DATA", ROOT.parent / "shared" / "data"))
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--simulate", action="store_true", help="makespans of sweeps")
    kind.add_argument("--samplers", action="store_true", help="regret of search algorithms")
    kind.add_argument(
        "--determinism", action="store_true", help="journals of real sweeps, also of killed ones"
    )
    kind.add_argument("--join", action="store_true", help="real sweeps of trials that wait")
    kind.add_argument("--peers", action="store_true", help="raydc, Optuna and Ray Tune")
    parser.add_argument("--gp", action="store_true", help="with Gaussian processes: an hour more")
    parser.add_argument("--tasks", type=int, default=34, help="data sets of LCBench")
    parser.add_argument("--seeds", type=int, default=3, help="sweeps of each data set")
    parser.add_argument("--network", choices=list(SHARD_COSTS), default="cnn", help="for --join")
    parser.add_argument("--join-s", type=float, default=2.7)
    parser.add_argument("--data", type=Path, help="folder of LCBench, or of Fashion-MNIST")
    sweep_determinism.add_options(parser)
    sweep_peers.add_options(parser)
    sweep_waiting.add_options(parser)
    options = parser.parse_args()
    if options.determinism:
        source = options.data or data / "fashion_mnist"
        found = sweep_determinism.measure_determinism(source, options.keep)
        sweep_determinism.show_determinism(found)
        write("sweep_determinism", found)
        sys.exit(0 if found["checks"]["holds"] else 1)
    if options.peers:
        found = sweep_peers.measure_peers(
            options.data or data / "fashion_mnist", options.rounds, options.contenders
        )
        if options.trials:
            found["driver"] = sweep_peers.measure_driver(options.trials)
        sweep_peers.show_peers(found)
        write("sweep_peers", found)
        return
    options.data = options.data or data / "lcbench"
    if options.join:
        found = sweep_waiting.measure_waiting(options, SHARD_COSTS[options.network])
        sweep_waiting.show_waiting(found, GOALS)
        write("sweep_waiting", found)
        return
    surrogate = Surrogate(options.data)
    if options.samplers:
        sampling.show_header()
        write("samplers", {"rows": sampling.measure_samplers(surrogate, options)})
    else:
        show(measure(surrogate, options), options)


if __name__ == "__main__":
    main()
