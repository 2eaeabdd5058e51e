"""Scores of common data sets beside published or measured ones of the same class of model.

    python bench/quality.py --data FOLDER [--tasks adult bank ...] [--seeds 3]

FOLDER holds a folder of each data set: adult, bank_marketing, telco_churn, california_housing,
bike_sharing, sms_spam, movielens_latest_small, mnist, fashion_mnist, caltech101_10, nab_cloud. Each
is prepared and trained as a spec says, once for each seed, in this process; the score is that of
the held-out rows, the median over the seeds. Prints one table and writes
bench/results/quality.json, where tasks that were not measured keep their last figures.

Where a data set has no split of its own, it is by a hash of each row, so held-out rows are not
those of the reference, but as many. Bikes and series are split by time. For the series of NAB, the
reference is measured on the very windows that the model is tested on: the better one of persistence
and an autoregression of 24 lags.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import forecast_baselines
from raydc import engine, pipeline
from raydc import spec as specs
from raydc.run_context import RunContext

ROOT = Path(__file__).resolve().parent.parent
_MARGIN = 0.005


@dataclass(frozen=True)
class Task:
    """A data set, a spec, and what others reached.

    Attributes:
        metric: Metric that is compared.
        reference: Published or measured figure.
        of: What reached it.
        sections: Sections of the spec; `{data}` in a path stands for the folder of data sets,
            `{work}` for one with the files of unpacked archives.
        is_error: Whether less is better.
        margin: How much worse than the reference is allowed.
        series: Series of NAB that it forecasts, whose reference is measured; empty for others.
    """

    metric: str
    reference: float
    of: str
    sections: dict[str, Any]
    is_error: bool = False
    margin: float = _MARGIN
    series: str = ""

    def is_met(self, score: float) -> bool:
        """Whether a score is at least as good as the reference, but for the margin."""
        if self.is_error:
            return score <= self.reference + self.margin
        return score >= self.reference - self.margin


def _idx(name: str) -> dict[str, Any]:
    folder = f"{{data}}/{name}"
    return {
        part: {
            "images": f"{folder}/{prefix}-images-idx3-ubyte.gz",
            "labels": f"{folder}/{prefix}-labels-idx1-ubyte.gz",
        }
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }


def _train(epochs: int, rate: float, batch: int = 256, **more: Any) -> dict[str, Any]:
    schedule = {"name": "cosine", "warmup_steps": 50}
    section = {"epochs": epochs, "learning_rate": rate, "global_batch_size": batch}
    return {**section, "lr_scheduler": schedule, **more}


TASKS = {
    "adult": Task(
        "auroc",
        0.9038,
        "logistic regression",
        {
            "data": {
                "source": {
                    "train": "{data}/adult/adult_train.csv",
                    "test": "{data}/adult/adult_test.csv",
                },
                "target": "income",
                "features": {"exclude": ["fnlwgt"]},
            },
            "model": {"name": "mlp", "hidden": [64, 32], "dropout": 0.1},
            "train": _train(6, 2e-3, metric="auroc"),
        },
    ),
    "bank": Task(
        "auroc",
        0.786,
        "logistic regression, without duration",
        {
            "data": {
                "source": "{data}/bank_marketing/bank_additional_full.parquet",
                "target": "y",
                "split": {"test_fraction": 0.25},
                "features": {"exclude": ["duration"]},
            },
            "model": {"name": "mlp", "hidden": [64, 32], "dropout": 0.2},
            "train": _train(8, 1e-3, metric="auroc"),
        },
    ),
    "telco": Task(
        "auroc",
        0.844,
        "logistic regression",
        {
            "data": {
                "source": "{data}/telco_churn/Telco-Customer-Churn.csv",
                "target": "Churn",
                "split": {"test_fraction": 0.25},
                "clean": {"missing_values": ["", " "]},
                "features": {"exclude": ["customerID"]},
            },
            "model": {"name": "mlp", "hidden": [32], "dropout": 0.3},
            "train": _train(12, 1e-3, 128, metric="auroc"),
        },
    ),
    "housing": Task(
        "r2",
        0.641,
        "ridge regression",
        {
            "data": {
                "source": "{data}/california_housing/housing.csv",
                "target": "median_house_value",
                "task": "regression",
                "split": {"test_fraction": 0.2},
            },
            "model": {"name": "mlp", "hidden": [128, 64]},
            "train": _train(30, 2e-3, 128),
        },
    ),
    "bike": Task(
        "r2",
        0.309,
        "ridge regression, split by time (0.913, boosted trees)",
        {
            "data": {
                "source": "{data}/bike_sharing/hour.csv",
                "target": "cnt",
                "task": "regression",
                "split": {"by": "time", "column": "instant", "test_fraction": 0.2},
                "features": {
                    "exclude": ["instant", "dteday", "casual", "registered"],
                    "columns": dict.fromkeys(
                        ("season", "mnth", "hr", "weekday", "weathersit"), "categorical"
                    ),
                },
            },
            "model": {"name": "mlp", "hidden": [128, 64], "dropout": 0.1},
            "train": _train(30, 2e-3, 128),
        },
    ),
    "sms": Task(
        "accuracy",
        0.9815,
        "TF-IDF and logistic regression",
        {
            "data": {
                "source": "{data}/sms_spam/SMSSpamCollection.tsv",
                "csv": {"header": False, "quotes": "none"},
                "target": "column_1",
                "split": {"test_fraction": 0.3},
                "features": {"columns": {"column_2": "text"}},
            },
            "model": {"name": "gru", "width": 64, "dropout": 0.3},
            "train": _train(10, 3e-3, 64),
        },
    ),
    "movielens": Task(
        "rmse",
        0.87,
        "biased matrix factorisation (0.859, one split)",
        {
            "data": {
                "source": "{data}/movielens_latest_small/ratings.csv",
                "target": "rating",
                "task": "regression",
                "split": {"validation_fraction": 0.05, "test_fraction": 0.2},
                "features": {
                    "exclude": ["timestamp"],
                    "columns": {"userId": "categorical", "movieId": "categorical"},
                    "encodings": {"userId": "embedding", "movieId": "embedding"},
                    "max_categories": 20000,
                },
            },
            "model": {"name": "factorisation", "width": 64, "dropout": 0.6},
            "train": _train(
                30, 3e-3, 512, metric="rmse", optimizer={"name": "adamw", "weight_decay": 0.5}
            ),
        },
        is_error=True,
        margin=0.0,
    ),
    "movielens_towers": Task(
        "rmse",
        0.87,
        "biased matrix factorisation (0.859, one split)",
        {
            "data": {
                "source": "{data}/movielens_latest_small/ratings.csv",
                "target": "rating",
                "task": "regression",
                "query": "userId",
                "split": {"validation_fraction": 0.05, "test_fraction": 0.2},
                "features": {
                    "exclude": ["timestamp"],
                    "columns": {"userId": "categorical", "movieId": "categorical"},
                    "encodings": {"userId": "embedding", "movieId": "embedding"},
                    "max_categories": 20000,
                },
            },
            "model": {
                "name": "two_towers",
                "user": ["userId"],
                "item": ["movieId"],
                "width": 64,
                "dropout": 0.6,
            },
            "train": _train(
                30, 3e-3, 512, metric="rmse", optimizer={"name": "adamw", "weight_decay": 0.5}
            ),
        },
        is_error=True,
        margin=0.0,
    ),
    "mnist": Task(
        "accuracy",
        0.9832,
        "MLP 256-128",
        {
            "data": {"source": _idx("mnist")},
            "model": {"name": "mlp", "hidden": [256, 128]},
            "train": _train(8, 2e-3),
        },
    ),
    "fashion_mnist": Task(
        "accuracy",
        0.8957,
        "MLP 256-128",
        {
            "data": {"source": _idx("fashion_mnist")},
            "model": {"name": "mlp", "hidden": [256, 128], "dropout": 0.2},
            "train": _train(15, 2e-3, ema_decay=0.998),
        },
    ),
    "caltech": Task(
        "accuracy",
        0.856,
        "CNN of four blocks from scratch, 96 x 96",
        {
            "data": {
                "source": {
                    "train": "{work}/caltech101_10/train",
                    "test": "{work}/caltech101_10/test",
                },
                "features": {"image_size": [96, 96]},
                "augment": {"horizontal_flip": True, "crop_padding": 8},
            },
            "model": {
                "name": "cnn",
                "channels": [32, 64, 128, 256],
                "batch_norm": True,
                "dropout": 0.3,
            },
            "train": _train(40, 1e-3, 32),
        },
    ),
}


# Six of the 22 series: processors, a database, a load balancer, a group of servers, taxis.
_NAB = {
    "nab_ec2_825cc2": "realAWSCloudwatch/ec2_cpu_utilization_825cc2",
    "nab_ec2_ac20cd": "realAWSCloudwatch/ec2_cpu_utilization_ac20cd",
    "nab_rds_e47b3b": "realAWSCloudwatch/rds_cpu_utilization_e47b3b",
    "nab_elb": "realAWSCloudwatch/elb_request_count_8c0756",
    "nab_asg": "realKnownCause/cpu_utilization_asg_misconfiguration",
    "nab_taxi": "realKnownCause/nyc_taxi",
}
# Where the level and the size of changes shift, it has less error on the validation rows as well.
_NAB_MODELS = {"nab_ec2_ac20cd": {"name": "tcn", "width": 16, "normalise": "window"}}
TASKS |= {
    name: Task(
        "mae",
        0.0,
        "",
        {
            "data": {
                "source": "{series}",
                "task": "regression",
                "target": "value",
                "windows": {"length": 48, "time": "timestamp", "gaps": "ignore"},
                "split": {"by": "time", "column": "timestamp", "test_fraction": 0.2},
            },
            "model": _NAB_MODELS.get(name, {"name": "nlinear"}),
            "train": _train(15, 2e-3, 64, loss="mae", metric="mae"),
        },
        is_error=True,
        margin=0.0,
        series=series,
    )
    for name, series in _NAB.items()
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    connected = engine.connect(None)
    rows = []
    try:
        with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
            for name in options.tasks:
                rows.append(measure(name, options, Path(work), connected))
                print(line_of(rows[-1]), flush=True)
    finally:
        engine.disconnect()
    print("\n" + "\n".join(map(line_of, rows)))
    place = ROOT / "bench" / "results" / "quality.json"
    place.parent.mkdir(exist_ok=True)
    # Tasks that were not measured now keep their last figures.
    before = json.loads(place.read_text()) if place.exists() else []
    found = {row["task"]: row for row in [*before, *rows]}
    place.write_text(json.dumps(list(found.values()), indent=2))


def measure(
    name: str, options: argparse.Namespace, work: Path, connected: engine.Engine
) -> dict[str, Any]:
    """Trains a task with each seed.

    Args:
        name: Key of `TASKS`.
        options: Folder of the data sets and number of seeds.
        work: Empty folder for storage and runs.
        connected: A connected Ray, which prepares and evaluates.
    """
    task, scores = TASKS[name], []
    started_s = time.monotonic()
    text = json.dumps(task.sections)
    if "{work}" in text:
        for archive in (options.data / "caltech101_10").glob("*.tar"):
            with tarfile.open(archive) as packed:
                packed.extractall(work, filter="data")
    places = {"{data}": str(options.data), "{work}": str(work)}
    if task.series:
        table = options.data / "nab_cloud" / "nab_cloud.parquet"
        places["{series}"] = str(forecast_baselines.write_series(table, task.series, work))
    for mark, place in places.items():
        text = text.replace(mark, place)
    for seed in range(options.seeds):
        value = {
            "name": f"{name}-{seed}",
            "seed": seed,
            "storage": str(work),
            "scaling": {"num_workers": 0},
            **json.loads(text),
        }
        context = RunContext(
            specs.resolve(specs.from_dict(value)), lambda: connected, lambda _: None
        )
        data = pipeline.prepare_data(context)
        pipeline.begin_run(context, None, resume=False, new=False)
        model = pipeline.train_model(context, data, resume=False)
        scores.append(float(pipeline.evaluate_model(context, model, data)[task.metric]))
    if task.series:
        errors = dict(forecast_baselines.mean_errors(data))
        of = ", ".join(f"{key} {error:.4g}" for key, error in errors.items())
        task = replace(task, reference=min(errors.values()), of=of)
    return {
        "task": name,
        "metric": task.metric,
        "scores": scores,
        "median": statistics.median(scores),
        "reference": task.reference,
        "of": task.of,
        "is_met": task.is_met(statistics.median(scores)),
        "seconds": round(time.monotonic() - started_s),
    }


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    scores = ", ".join(f"{score:.4f}" for score in row["scores"])
    met = "met" if row["is_met"] else "NOT MET"
    return (
        f"{row['task']:14} {row['metric']:9} {row['median']:.4f} ({scores})  beside "
        f"{row['reference']:.4f}, {row['of']}: {met}, {row['seconds']} s"
    )


if __name__ == "__main__":
    main()
