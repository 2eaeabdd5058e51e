"""JSON schemas of requests and answers for the OpenAPI document of an endpoint. In the replica.

They are plain dictionaries, not pydantic models: fields are columns of a data set, and pydantic
drops some of their names (`_id` becomes a private attribute) and refuses others (`model_config`).
Bodies are checked by `predict_body` and `open_inference`, with a message for each place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from raydc.features import Categorical, Image, Numeric
from raydc.serve.protocol import binary
from raydc.serve.protocol.interface import Interface
from raydc.serve.settings import Settings

Json = dict[str, Any]

# Numbers as the features read them from text, up to what FP32 holds with room to spare.
_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"


def ref(name: str) -> Json:
    """Reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def build_schemas(interface: Interface, settings: Settings) -> Json:
    """Builds all schemas of a document by name.

    Args:
        interface: Columns and outputs of the model, which become fields.
        settings: Settings of the endpoint, for its limits.
    """
    text, flag = {"type": "string"}, {"type": "boolean"}
    rows = {
        "type": "array",
        "items": ref("Row"),
        "minItems": 1,
        "maxItems": settings.max_request_rows,
    }
    tensor = _object(
        {"name": text, "datatype": text, "shape": _array("integer")}, parameters={"type": "object"}
    )
    tensors = {"type": "array", "items": tensor}
    # `data` holds numbers or texts by the datatype, which a schema cannot express.
    outputs = {"type": "array", "items": {**tensor, "description": "With `data`, flat."}}
    return {
        "Error": _object({"error": text, "request_id": text}),
        "Row": _row(interface),
        "Rows": {"oneOf": [{**_object({"rows": rows}), "additionalProperties": False}, rows]},
        "Prediction": _prediction(interface),
        "Predictions": _object(
            {
                "predictions": {"type": "array", "items": ref("Prediction")},
                "model": text,
                "version": text,
            }
        ),
        "InferRequest": _infer_request(interface),
        "InferAnswer": _object(
            {"model_name": text, "model_version": text, "outputs": outputs}, id=text
        ),
        "Metadata": _object(
            {
                "name": text,
                "versions": _array("string"),
                "platform": text,
                "inputs": tensors,
                "outputs": tensors,
                "parameters": {"type": "object"},
            }
        ),
        "Server": _object({"name": text, "version": text, "extensions": _array("string")}),
        "Live": _object({"live": flag}),
        "Ready": _object({"ready": flag}),
        "ModelReady": _object({"name": text, "ready": flag}),
        "Health": _object({"status": {"const": "ok"}, "model": text, "version": text}),
    }


def form_schema(interface: Interface) -> Json:
    """Schema of a row sent as the fields of a form, which are all text."""
    required = interface.features.always_given
    properties = {
        name: _field(kind, name in required, interface.features.missing_values)
        for name, kind in interface.kinds.items()
    }
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **_required_of_row(interface),
    }


def _field(kind: str, is_required: bool, missing_values: Sequence[str]) -> Json:
    if is_required:
        # An empty field is a missing value, in every form.
        text = {"pattern": f"^{_NUMBER}$"} if kind == "numeric" else {"minLength": 1}
        return {"type": "string", **text, **_without(missing_values)}
    if kind == "numeric":
        missing = "|".join(map(re.escape, missing_values))
        pattern = f"^({_NUMBER}|{missing})?$" if missing else f"^({_NUMBER})?$"
        return {"type": "string", "pattern": pattern, "description": "Empty: missing."}
    return {"type": "string"}


def _required_of_row(interface: Interface) -> Json:
    if interface.image_column is not None:
        return {"required": [interface.image_column]}
    if interface.features.always_given:
        return {"required": list(interface.features.always_given)}
    # A row with no column at all is refused.
    return {"anyOf": [{"required": [name]} for name in interface.kinds]}


def _without(texts: Sequence[str]) -> Json:
    return {"not": {"enum": list(texts)}} if texts else {}


def _object(required: Json, **optional: Json) -> Json:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _array(kind: str) -> Json:
    return {"type": "array", "items": {"type": kind}}


def _row(interface: Interface) -> Json:
    features = interface.features
    # Rows of the data set can be sent as they are: the target and unused columns are allowed.
    ignored = {name: {"description": "Ignored."} for name in (features.target, *features.ignored)}
    columns = {
        name: _column(column, name in features.always_given, features.missing_values)
        for name, column in features.columns.items()
    }
    return {
        "type": "object",
        "description": (
            "A column that is left out is missing; those that no training row lacked are required. "
            "At least one is."
        ),
        "properties": {**ignored, **columns},
        "additionalProperties": False,
        **_required_of_row(interface),
    }


def _column(
    column: Numeric | Categorical | Image, is_required: bool, missing_values: Sequence[str]
) -> Json:
    null, rule = ([], _without(missing_values)) if is_required else (["null"], {})
    if isinstance(column, Numeric):
        text = {"type": "string", "pattern": f"^{_NUMBER}$"}
        missing = [{"enum": list(missing_values)}] if missing_values and not is_required else []
        return {"anyOf": [{"type": ["number", *null]}, text, *missing], **rule}
    if isinstance(column, Categorical):
        # No enum: a category that the data set did not have is counted as another or as missing.
        known = ", ".join(column.categories)
        return {
            "type": ["string", "number", "boolean", *null],
            "description": f"Known categories: {known}.",
            "examples": list(column.categories[:3]),
            **rule,
        }
    pixels = {"type": "array", "items": {"type": "array", "minItems": 1}, "minItems": 1}
    size = f"of {column.height} x {column.width} pixels; others are resized"
    return {
        "oneOf": [
            {
                "type": "string",
                "contentEncoding": "base64",
                "description": f"An encoded image {size}.",
            },
            {**pixels, "description": f"Pixels [H, W] or [H, W, C] from 0 to 255 {size}."},
        ]
    }


def _prediction(interface: Interface) -> Json:
    if not interface.classes:
        return _object({"value": {"type": "number"}})
    score = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"enum": list(interface.classes)}
    return _object(
        {"label": label, "score": score, "scores": _object(dict.fromkeys(interface.classes, score))}
    )


def _infer_request(interface: Interface) -> Json:
    names = [*interface.kinds, *([interface.all_columns] if interface.all_columns else [])]
    # Clients of the protocol send null for what they leave out.
    parameters = {"type": ["object", "null"]}
    tensor = _object(
        {
            "name": {"enum": names},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "minItems": 1,
                "maxItems": 8,
            },
            "datatype": {"enum": [*binary.DATATYPES, "BYTES"]},
        },
        data={"type": "array"},
        parameters=parameters,
    )
    output = _object(
        {"name": {"enum": [output["name"] for output in interface.outputs]}}, parameters=parameters
    )
    return _object(
        {"inputs": {"type": "array", "items": tensor, "minItems": 1}},
        id={"type": ["string", "null"]},
        outputs={"type": ["array", "null"], "items": output},
        parameters=parameters,
    )
