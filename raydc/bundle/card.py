"""The model card: what a bundle's other files say, for people."""

from __future__ import annotations

from typing import Any

import torch

from raydc.features import Features
from raydc.spec import ResolvedSpec
from raydc.spec.model import Builder


def write(
    spec: ResolvedSpec, features: Features, model: torch.nn.Module, facts: dict[str, Any]
) -> str:
    """The card as Markdown."""
    signature = features.signature
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    name = spec.model.builder if isinstance(spec.model, Builder) else spec.model.name
    inputs = ", ".join(f"`{column}` ({fitted.kind})" for column, fitted in features.columns.items())
    lines = [
        f"# {spec.name}",
        "",
        f"A {signature.task} of `{features.target}`, trained by raydc.",
        "",
        f"- Model: {name}, {num_weights:,} parameters",
        f"- Inputs: {inputs}",
    ]
    if signature.classes:
        lines.append(f"- Classes: {', '.join(signature.classes)}")
    lines += [f"- {_title(key)}: {text}" for key, value in facts.items() if (text := _text(value))]
    return "\n".join([*lines, ""])


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _text(value: Any) -> str:
    """A value that fits a line; pairs side by side."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, item in value.items() if (text := _text(item)))
    return ""
