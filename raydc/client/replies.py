"""Typed replies of an endpoint, and how they are parsed. Runs in the process of a client."""

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
    """A response as it arrived.

    Attributes:
        status: HTTP status.
        headers: Headers by lower-case name.
        body: Body as it arrived, decompressed.
        request_id: Id of the request in the endpoint's access log.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str


@dataclass(frozen=True)
class Prediction:
    """The prediction for one row.

    Attributes:
        label: Predicted class; None for a regression and for any number of labels.
        score: Score of that class, 0 to 1; None where there is no such class.
        scores: Score of each class or label; empty for a regression.
        value: Predicted value in the target's unit; a list for a forecast of several steps, None
            for a classification.
        labels: Predicted labels of a model of any number of labels; None for another model.
    """

    label: str | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    value: float | list[float] | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to `predict`.

    Attributes:
        predictions: One for each row, in the order of the rows.
        model: Name of the model in the registry.
        version: Version that predicted.
        request_id: Id of the request in the endpoint's access log.
    """

    predictions: tuple[Prediction, ...]
    model: str
    version: str
    request_id: str


@dataclass(frozen=True)
class Tensors:
    """The answer to `infer`.

    Attributes:
        outputs: Arrays by name, [B, ...] with B rows.
        model: Name of the model in the registry.
        version: Version that predicted.
        request_id: Id of the request in the endpoint's access log.
    """

    outputs: Mapping[str, npt.NDArray[np.generic]]
    model: str
    version: str
    request_id: str


@dataclass(frozen=True)
class Tensor:
    """Description of an input or output of a model.

    Attributes:
        name: Name of the input or output.
        datatype: Type by the Open Inference Protocol, such as FP32 or BYTES.
        shape: Size of each axis; -1 means any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Metadata:
    """Description of a model.

    Attributes:
        name: Name of the model in the registry.
        versions: Versions that the endpoint holds.
        inputs: Tensor of each raw column, or one of all columns.
        outputs: Tensors that an inference returns.
        parameters: More facts, such as the task, the alias and the digest of the version.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Any]


def parse_json(reply: Reply) -> dict[str, Any]:
    """Parses the body as a JSON object. Raises ServeError if it is something else."""
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise ServeError(
            f"the endpoint answered something that is not JSON: {reply.body[:80]!r}", _NOT_RAYDC
        ) from error
    if not isinstance(value, dict):
        raise ServeError(f"the endpoint answered {value!r:.80}", _NOT_RAYDC)
    return value


def parse_answer(reply: Reply) -> Answer:
    """Parses the reply to `POST /predict`. Raises ServeError if it is something else."""
    value = parse_json(reply)
    try:
        predictions = tuple(_prediction(one) for one in value["predictions"])
        return Answer(predictions, str(value["model"]), str(value["version"]), reply.request_id)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unexpected(value, error) from error


def parse_metadata(reply: Reply) -> Metadata:
    """Parses the reply to `GET /v2/models/{model}`. Raises ServeError if it is something else."""
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
    # Unknown keys are ignored: a newer endpoint may say more.
    return Prediction(
        value.get("label"),
        value.get("score"),
        value.get("scores", {}),
        value.get("value"),
        tuple(value["labels"]) if "labels" in value else None,
    )


def _tensors(values: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(one["name"], one["datatype"], tuple(one["shape"])) for one in values)


def _unexpected(value: dict[str, Any], error: Exception) -> ServeError:
    return ServeError(
        f"the endpoint answered {value!r:.80}, which is not as expected: {error!r}", _NOT_RAYDC
    )
