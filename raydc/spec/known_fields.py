"""Names of the fields that are allowed at a path of a spec. Pure."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from raydc.spec import sections
from raydc.spec.document import Path
from raydc.spec.sections import Spec


def known_keys(path: Path, value: Any = None) -> list[str]:
    """Lists the fields that are allowed at a path of a spec, sorted.

    Args:
        path: Path of a section, as a tuple of keys.
        value: The parsed file, which says which kind of model is meant; None if unknown.
    """
    models: list[type[BaseModel]] = [Spec]
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
        fields = [
            m.model_fields[str(part)].annotation for m in models if str(part) in m.model_fields
        ]
        # `model` is a union, and only its value says which member's fields are known.
        if str(part) == "model" and isinstance(value, dict):
            models = [_model_class(value)]
        else:
            models = [model for annotation in fields for model in _models_of(annotation)]
    return sorted({name for model in models for name in model.model_fields})


def _model_class(value: dict[str, Any]) -> type[BaseModel]:
    kinds: dict[str, type[BaseModel]] = {
        "linear": sections.Linear,
        "mlp": sections.Mlp,
        "cnn": sections.Cnn,
        "recurrent": sections.Recurrent,
        "decoder": sections.Decoder,
        "huggingface": sections.HuggingFace,
        "factorisation": sections.Factorisation,
        "two_towers": sections.TwoTowers,
        "fusion": sections.Fusion,
        "linearforecaster": sections.LinearForecaster,
        "temporalconvolution": sections.TemporalConvolution,
        "transformer": sections.Transformer,
        "torchvision": sections.Torchvision,
        "builder": sections.Builder,
    }
    return kinds[sections.model_kind(value)]


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    # The values of a dict are sections too, such as the domains of a search space.
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, dict):
        for argument in typing.get_args(annotation):
            yield from _models_of(argument)
