"""What an endpoint answers, typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raydc.errors import ServeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NOT_RAYDC = "Is that address an endpoint of raydc?"


@dataclass(frozen=True)
class Reply:
    """An answer as it came. The names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str


@dataclass(frozen=True)
class Prediction:
    """What the model says of one row: a class with the score of each, or a value."""

    label: str | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None


@dataclass(frozen=True)
class Answer:
    """Predictions in the order of the rows, and the version that made them."""

    predictions: tuple[Prediction, ...]
    model: str
    version: str
    request_id: str


@dataclass(frozen=True)
class Tensors:
    """Outputs of `infer` by name, each [B, ...] with B rows, and the version that made them."""

    outputs: Mapping[str, npt.NDArray[np.generic]]
    model: str
    version: str
    request_id: str


@dataclass(frozen=True)
class Tensor:
    """An input or output that a model names; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Metadata:
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Any]


def parse_json(reply: Reply) -> dict[str, Any]:
    """The object in the body. Raises ServeError where it is none."""
    try:
        value = json.loads(reply.body)
    except ValueError as error:
        raise ServeError(
            f"the endpoint answered something that is not JSON: {reply.body[:80]!r}", _NOT_RAYDC
        ) from error
    if not isinstance(value, dict):
        raise ServeError(f"the endpoint answered {value!r:.80}", _NOT_RAYDC)
    return value


def parse_answer(reply: Reply) -> Answer:
    """Of `POST /predict`. Raises ServeError where the reply is something else."""
    value = parse_json(reply)
    try:
        predictions = tuple(_prediction(one) for one in value["predictions"])
        return Answer(predictions, str(value["model"]), str(value["version"]), reply.request_id)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unexpected(value, error) from error


def parse_metadata(reply: Reply) -> Metadata:
    """Of `GET /v2/models/{model}`. Raises ServeError where the reply is something else."""
    value = parse_json(reply)
    try:
        return Metadata(
            str(value["name"]),
            tuple(map(str, value.get("versions", ()))),
            _tensors(value["inputs"]),
            _tensors(value["outputs"]),
            value.get("parameters", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _unexpected(value, error) from error


def _prediction(value: Mapping[str, Any]) -> Prediction:
    return Prediction(
        value.get("label"), value.get("score"), value.get("scores", {}), value.get("value")
    )


def _tensors(values: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(one["name"], one["datatype"], tuple(one["shape"])) for one in values)


def _unexpected(value: dict[str, Any], error: Exception) -> ServeError:
    return ServeError(
        f"the endpoint answered {value!r:.80}, which is not as agreed: {error!r}", _NOT_RAYDC
    )
