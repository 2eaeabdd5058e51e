"""The files of a run, read for its report. Runs in the driver; reads, never writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from raydc.checkpoint import run_name
from raydc.report import diagnosis, sweep_record
from raydc.report.sweep_record import SweepRecord
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.phase_timer import read_account
from raydc.tracking.time_account import Account
from raydc.tracking.trials import STANDING_FILE

# Kinds of events that a reader of a report should see; the others are many and matter little.
_TOLD = (
    "attempt_started", "attempt_ended", "resize", "checkpoint_failed", "checkpoint_skipped",
    "best_lost", "environment_changed", "file_damaged", "forked", "run_finished", "sweep_finished",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run.

    Attributes:
        steps: Numbers of completed steps at which it was logged, ascending.
        values: Value of the quantity at each of them.
    """

    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's files.

    Attributes:
        name: Name of the run, which is that of its folder.
        spec: Its resolved spec as plain values; empty if it cannot be read.
        text: Text of the spec file that the user gave.
        curves: `train/loss`, `train/lr`, and each number of the epochs, such as
            `validation/accuracy`.
        account: Seconds of the run by phase.
        events: Records of the events that a report shows, oldest first.
        evaluation: Scores on the held-out rows; empty before the evaluation.
        diagnosis: Content of `diagnosis.json`; empty without one.
        facts: `facts.json` of its model; empty without a model.
        classes: Names of its classes in the order of the outputs; empty for a regression.
        sweep: Content of the files of its sweep; None without one that has begun.
        damaged: Names of the files that could not be read.
    """

    name: str
    spec: dict[str, Any]
    text: str
    curves: dict[str, Curve]
    account: Account
    events: list[dict[str, Any]]
    evaluation: dict[str, Any]
    diagnosis: dict[str, Any]
    facts: dict[str, Any]
    classes: tuple[str, ...] = ()
    sweep: SweepRecord | None = None
    damaged: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Name of the metric that chose the model."""
        return str(sweep_record.section(self.spec, "train").get("metric", "loss"))


def read(folder: Storage, name: str) -> RunRecord:
    """Reads the files of a run; what is damaged is left out and named.

    Args:
        folder: Folder of the run, `runs/<name>`.
        name: Name of the run, for the report.
    """
    reader = _Reader(folder)
    happened = list(events.read(folder, "events"))
    spec = reader.yaml(run_name.RESOLVED)
    # One that has not ended, or is being widened: it has ended once its file is gone.
    standing = reader.mapping(f"sweep/{STANDING_FILE}")
    trials = standing.get("trials") or reader.json("sweep/trials.json")
    trials = [one for one in trials if isinstance(one, dict)] if isinstance(trials, list) else []
    sweep = sweep_record.read(folder / "sweep", spec, trials, standing) if trials else None
    return RunRecord(
        name,
        spec,
        reader.text("spec.yaml"),
        _curves(folder),
        read_account(folder),
        [record for record in happened if record["kind"] in _TOLD],
        reader.mapping("evaluation.json"),
        reader.mapping(diagnosis.FILE),
        reader.mapping("model/facts.json"),
        tuple(map(str, reader.mapping("model/signature.json").get("classes", ()))),
        sweep,
        (*reader.damaged, *(sweep.damaged if sweep else ())),
    )


class _Reader:
    """Reads small files and remembers those that it could not read."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self.damaged: list[str] = []

    def text(self, name: str) -> str:
        try:
            return self._folder.read_bytes(name).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError:
            self.damaged.append(name)
            return ""

    def json(self, name: str) -> Any:
        try:
            return self._folder.read_json(name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.damaged.append(name)
            return None

    def mapping(self, name: str) -> dict[str, Any]:
        found = self.json(name)
        return found if isinstance(found, dict) else {}

    def yaml(self, name: str) -> dict[str, Any]:
        try:
            found = yaml.safe_load(self.text(name))
        except yaml.YAMLError:
            self.damaged.append(name)
            return {}
        return found if isinstance(found, dict) else {}


def _curves(folder: Storage) -> dict[str, Curve]:
    """Curves without the steps that were lost and done again."""
    curves: dict[str, Curve] = {}

    def add(name: str, step: int, value: Any) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            curve = curves.setdefault(name, Curve([], []))
            curve.steps.append(float(step))
            curve.values.append(float(value))

    for record in events.surviving(events.read(folder, "metrics")):
        if record["kind"] == "step":
            add("train/loss", record["step"], record.get("loss"))
            add("train/lr", record["step"], record.get("lr"))
        elif record["kind"] == "epoch":
            split = record.get("split", "validation")
            add("epoch/loss", record["step"], record.get("train_loss"))
            for name in record.keys() - {"kind", "step", "epoch", "split", "train_loss", "time_s"}:
                add(f"{split}/{name}", record["step"], record[name])
    return {name: curves[name] for name in sorted(curves)}


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of a spec by their dotted paths."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        path = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            found.update(flatten(inner, f"{path}."))
        else:
            found[path] = inner
    return found
