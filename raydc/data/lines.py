"""Parts of the lines that a preparation reports. Pure."""

from __future__ import annotations

from raydc.features import Features


def count_of(count: int, noun: str) -> str:
    """A number with its noun, such as `1 file` or `2,000 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def describe_features(features: Features) -> str:
    """Inputs and outputs of a network in one line."""
    signature = features.signature
    shape = " x ".join(map(str, signature.shape))
    inputs = f"{count_of(len(features.columns), 'column')} -> {shape} inputs"
    if signature.kind == "image":
        inputs = f"images of {shape} (channels x height x width)"
    if signature.kind == "record":
        inputs = f"{count_of(len(features.columns), 'column')} -> {', '.join(signature.fields)}"
    if signature.num_values > 1:
        return f"{inputs}, {signature.num_values} values"
    num_classes = len(signature.classes)
    what = "labels" if features.has_label_sets else "classes"
    return f"{inputs}, {num_classes} {what}" if num_classes else f"{inputs}, one value"
