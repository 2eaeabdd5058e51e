"""The spec of a sweep's winner as a file that `raydc train` takes. Pure; used by the driver."""

from __future__ import annotations

from typing import Any

import yaml

from raydc import spec as specs
from raydc.spec import ResolvedSpec, document
from raydc.spec.sweep_section import format_cost
from raydc.tracking.trials import Trial

FILE = "best.yaml"
_ENDING = "-best"
_LONGEST_NAME = 100


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 would not read as text, such as `1e-3`, which PyYAML leaves plain."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if document.scalar(text) == text else "'"
    # PyYAML writes this line break as it is, and reads it as another one.
    style = '"' if "\x85" in text else style
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_text(spec: ResolvedSpec, winner: Trial, number: int, digest: str) -> str:
    """Writes the spec of a winner as YAML, with a comment that says where it comes from.

    It trains the trial again: with its values and logical shards, and otherwise as the sweep's spec
    says, so any number of workers gives the same weights.

    Args:
        spec: The resolved spec of the sweep.
        winner: Trial with the best metric.
        number: Its number in the order of sampling, from 0.
        digest: SHA-256 of its weights, in hexadecimal.
    """
    assert spec.sweep is not None
    metric = "" if winner.metric is None else f", {spec.train.metric} {winner.metric:.4f}"
    lines = [
        f"Trial {number} of the {spec.sweep.num_samples} of sweep {spec.name}, its best{metric}.",
        f"raydc train {FILE}",
    ]
    if winner.state != "finished":
        lines.append(f"trains it to its end: the trial has {winner.state} before that.")
    elif spec.train.exact:
        lines += [
            "trains it again, on any workers, to the same model.safetensors, with SHA-256",
            digest,
        ]
    else:
        lines.append("trains it again; with train.exact: false the weights may differ a little.")
    return _write(spec, winner, _ENDING, lines)


def write_member(spec: ResolvedSpec, trial: Trial, number: int) -> str:
    """Writes the spec of a trial of the Pareto front as YAML, with a comment that says what it is.

    Args:
        spec: The resolved spec of the sweep.
        trial: A trial of the front, with its costs.
        number: Its number in the order of sampling, from 0.
    """
    metric = "" if trial.metric is None else f"{spec.train.metric} {trial.metric:.4f}"
    costs = [f"{name} {format_cost(cost)}" for name, cost in trial.costs.items()]
    line = f"Trial {number} of the Pareto front of sweep {spec.name}: "
    return _write(spec, trial, f"-trial-{number}", [line + ", ".join([metric, *costs]) + "."])


def _write(spec: ResolvedSpec, trial: Trial, ending: str, lines: list[str]) -> str:
    """The spec that trains a trial again, under a name with this ending, after lines of comment."""
    name = spec.name[: _LONGEST_NAME - len(ending)] + ending
    values: dict[str, Any] = {**trial.values, "name": name}
    own = specs.with_values(spec.model_copy(update={"sweep": None}), values)
    body = yaml.dump(specs.to_dict(own), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in lines) + body
