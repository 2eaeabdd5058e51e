"""The trials of bench/fashion_sweep.py as plain loops of torch, for Optuna and Ray Tune.

Each contender is a command of its own, as a user would write it for that library: the loop, and
what the library needs. Networks, rows, batch size and optimiser are those of raydc's trials.

    python -m bench.plain_trials CONTENDER FOLDER

FOLDER has `points.json`, and the rows as arrays. The command appends a line of JSON to
`epochs.jsonl` there for each epoch, with the moment and the accuracy.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import fashion_sweep as task

NUM_PROCESSES = 2
SEED = 0


def main() -> None:
    contender, place = sys.argv[1], Path(sys.argv[2])
    CONTENDERS[contender](place)


def train(point: dict[str, Any], place: Path) -> Iterator[float]:
    """Trains a point; yields the accuracy on the validation rows after each epoch.

    Args:
        point: `rate`, `name`, `depth` and `width`; for `run_loop` also its `epochs`.
        place: Folder with the arrays.
    """
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    arrays = np.load(place / "rows.npz")
    x, y = torch.from_numpy(arrays["train_x"]), torch.from_numpy(arrays["train_y"])
    held_x, held_y = torch.from_numpy(arrays["held_x"]), torch.from_numpy(arrays["held_y"])
    mean, scale = x.float().mean(), x.float().std()
    network = make_network(point)
    optimizer = torch.optim.AdamW(network.parameters(), lr=point["rate"])
    for _ in range(task.EPOCHS):
        network.train()
        order = torch.randperm(len(x))
        for chosen in order.split(task.BATCH_SIZE):
            optimizer.zero_grad()
            logits = network((x[chosen].float() - mean) / scale)
            nn.functional.cross_entropy(logits, y[chosen]).backward()
            optimizer.step()
        network.eval()
        right = 0
        with torch.no_grad():
            for part_x, part_y in zip(held_x.split(1024), held_y.split(1024), strict=True):
                logits = network((part_x.float() - mean) / scale)
                right += int((logits.argmax(1) == part_y).sum())
        accuracy = right / len(held_x)
        with (place / "epochs.jsonl").open("a") as lines:
            lines.write(json.dumps({"time_s": time.time(), "accuracy": accuracy}) + "\n")
        # A network that has diverged gives the same answer for all rows.
        yield accuracy if math.isfinite(accuracy) else 0.0


def make_network(point: dict[str, Any]) -> Any:
    """The network of a point, as raydc builds it."""
    from torch import nn

    depth, width = point["depth"], point["width"]
    layers: list[nn.Module] = []
    if point["name"] == "mlp":
        layers.append(nn.Flatten())
        inputs = 28 * 28
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
    else:
        channels, size = 1, 28
        for block in range(depth):
            outputs = width << block
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
            channels, size = outputs, size // 2
        layers += [nn.Flatten(), nn.Linear(channels * size * size, 128), nn.ReLU()]
        inputs = 128
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def run_loop(place: Path) -> None:
    """One trial after the other, each for the epochs that a sweep gave it: what they cost alone."""
    for point in read_points(place):
        for _ in itertools.islice(train(point, place), point["epochs"]):
            pass


def read_points(place: Path) -> list[dict[str, Any]]:
    """The points of all trials, in the order of sampling."""
    points: list[dict[str, Any]] = json.loads((place / "points.json").read_text())
    return points


def run_optuna(place: Path) -> None:
    """Optuna with its pruner, in one process."""
    study = _study(place, None)
    for point in read_points(place):
        study.enqueue_trial({"point": json.dumps(point)})
    study.optimize(_objective(place), n_trials=task.NUM_TRIALS)


def run_optuna_twice(place: Path) -> None:
    """The same in two processes, which share a journal file."""
    study = _study(place, place / "study.log")
    for point in read_points(place):
        study.enqueue_trial({"point": json.dumps(point)})
    command = [sys.executable, "-m", "bench.plain_trials", "optuna-worker", str(place)]
    workers = [subprocess.Popen(command) for _ in range(NUM_PROCESSES)]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit("a process of Optuna failed")


def run_optuna_worker(place: Path) -> None:
    """One of the two processes."""
    from optuna.trial import TrialState

    def stop_at_end(study: Any, trial: Any) -> None:  # noqa: ARG001
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.stop()

    study = _study(place, place / "study.log")
    study.optimize(_objective(place), callbacks=[stop_at_end])


def _study(place: Path, journal: Path | None) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = journal and optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.create_study(
        study_name=place.name,
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        pruner=pruner,
        sampler=optuna.samplers.RandomSampler(seed=SEED),
    )


def _objective(place: Path) -> Any:
    import optuna

    choices = [json.dumps(point) for point in read_points(place)]

    def objective(trial: Any) -> float:
        point = json.loads(trial.suggest_categorical("point", choices))
        best = 0.0
        for epoch, accuracy in enumerate(train(point, place), start=1):
            best = max(best, accuracy)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    return objective


def run_tune(place: Path) -> None:
    """Ray Tune with function trials and its ASHA."""
    import ray
    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        for epoch, accuracy in enumerate(train(config["point"], place), start=1):
            tune.report({"accuracy": accuracy, "epoch": epoch})

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    _tuner(tune.with_resources(trial, {"CPU": 1}), place).fit()


def run_tune_with_trainers(place: Path) -> None:
    """Ray Tune with a TorchTrainer of one worker inside each trial, as its documentation says."""
    import ray
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def loop(config: dict[str, Any]) -> None:
        from ray import train as ray_train

        for epoch, accuracy in enumerate(train(config["point"], place), start=1):
            ray_train.report({"accuracy": accuracy, "epoch": epoch})

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.9}),
            run_config=RunConfig(
                name=tune.get_context().get_trial_id(),
                storage_path=str(place / "train"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    # A trial and its worker take one CPU together, or two of them would wait for each other.
    _tuner(tune.with_resources(trial, {"CPU": 0.1}), place).fit()


def _tuner(trainable: Any, place: Path) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    return tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search(read_points(place))},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            max_concurrent_trials=NUM_PROCESSES,
            scheduler=ASHAScheduler(
                time_attr="epoch", max_t=task.EPOCHS, grace_period=1, reduction_factor=3
            ),
        ),
        run_config=tune.RunConfig(storage_path=str(place / "tune"), verbose=0),
    )


CONTENDERS = {
    "loop": run_loop,
    "optuna": run_optuna,
    "optuna-2": run_optuna_twice,
    "optuna-worker": run_optuna_worker,
    "tune": run_tune,
    "tune-trainers": run_tune_with_trainers,
}

if __name__ == "__main__":
    main()
