"""The model card of a bundle: a summary of its other files for people. Made in the driver."""

from __future__ import annotations

from typing import Any

import torch

from raydc.features import Features
from raydc.spec import ResolvedSpec
from raydc.spec.model import Builder

_KINDS = {"multilabel": "multilabel model", "language_modelling": "language model"}


def render(
    spec: ResolvedSpec, features: Features, model: torch.nn.Module, facts: dict[str, Any]
) -> str:
    """Renders the card as Markdown.

    Args:
        spec: The spec of the run, for the names of the model, the network and the data.
        features: Fitted features, for the lists of inputs and outputs.
        model: The trained network, for its number of weights.
        facts: JSON values by name: run, step, metrics, ...
    """
    signature = features.signature
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    name = spec.model.builder if isinstance(spec.model, Builder) else spec.model.name
    inputs = ", ".join(f"`{column}` ({fitted.kind})" for column, fitted in features.columns.items())
    lines = [
        f"# {spec.name}",
        "",
        f"A {_KINDS.get(signature.task, signature.task)} of `{features.target}`, trained by raydc.",
        "",
        f"- Model: {name}, {num_weights:,} parameters",
        f"- Inputs: {inputs}",
    ]
    if signature.classes:
        what = "Labels" if features.has_label_sets else "Classes"
        lines.append(f"- {what}: {', '.join(signature.classes)}")
    lines += [
        f"- {_title(key, value)}: {text}" for key, value in facts.items() if (text := _text(value))
    ]
    lines.append(
        "- Held-out metrics: in the record of a registered version, and on the page of its endpoint"
    )
    return "\n".join([*lines, ""])


def _title(key: str, value: Any) -> str:
    if key == "metrics":
        # Scores exist on validation rows only; a run without any has the losses alone.
        is_validated = not value.keys() <= {"loss", "train_loss"}
        return "Validation metrics" if is_validated else "Training metrics (no validation rows)"
    return key.replace("_", " ").capitalize()


def _text(value: Any) -> str:
    """Formats a value for one line; empty for what no line can hold, which the card leaves out."""
    if isinstance(value, float):
        # Four digits: more would only be noise in a metric.
        return f"{value:.4g}"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, item in value.items() if (text := _text(item)))
    return ""
