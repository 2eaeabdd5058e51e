"""JSON schemas of requests and answers for the OpenAPI document of an endpoint. In the replica.

They are plain dictionaries, not pydantic models: fields are columns of a data set, and pydantic
drops some of their names (`_id` becomes a private attribute) and refuses others (`model_config`).
Bodies are checked by `predict_body` and `open_inference`, with a message for each place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from raydc.features import (
    CATEGORIES,
    Column,
    DateParts,
    Image,
    NumberList,
    Numeric,
    SeriesWindow,
    Text,
)
from raydc.serve.protocol import binary
from raydc.serve.protocol.interface import Interface
from raydc.serve.settings import Settings

Json = dict[str, Any]

# Numbers as the features read them from text, up to what FP32 holds with room to spare.
_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"
# A number as JSON writes it, without an exponent.
_JSON_NUMBER = r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?"


def ref(name: str) -> Json:
    """Reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def build_schemas(interface: Interface, settings: Settings) -> Json:
    """Builds all schemas of a document by name.

    Args:
        interface: Columns and outputs of the model, which become fields.
        settings: Settings of the endpoint, for its limits.
    """
    text = {"type": "string"}
    rows = {
        "type": "array",
        "items": ref("Row"),
        "minItems": 1,
        "maxItems": settings.max_request_rows,
    }
    tensor = _tensor()
    # `data` holds numbers or texts by the datatype, which a schema cannot express.
    outputs = {"type": "array", "items": {**tensor, "description": "With `data`, flat."}}
    return {
        **common_schemas(),
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
    }


def _tensor() -> Json:
    text = {"type": "string"}
    return _object(
        {"name": text, "datatype": text, "shape": _array("integer")}, parameters={"type": "object"}
    )


def common_schemas() -> Json:
    """Builds the schemas of answers that every model gives."""
    text, flag = {"type": "string"}, {"type": "boolean"}
    tensors = {"type": "array", "items": _tensor()}
    return {
        "Error": _object({"error": text, "request_id": text}),
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
        name: _field(column, name in required, interface.features.missing_values)
        for name, column in interface.features.columns.items()
    }
    properties |= {name: _window_text(column) for name, column in interface.windows.items()}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **_required_of_row(interface),
    }


def _field(column: Column, is_required: bool, missing_values: Sequence[str]) -> Json:
    kind = column.kind
    if isinstance(column, NumberList):
        pattern = _list_pattern(column)
        pattern = pattern if is_required else f"({pattern})?"
        return {"type": "string", "pattern": f"^{pattern}$", "description": "A list as JSON text."}
    if is_required:
        # An empty field is a missing value, in every form.
        text = {"pattern": f"^{_NUMBER}$"} if kind == "numeric" else {"minLength": 1}
        return {"type": "string", **text, **_without(missing_values)}
    if kind == "numeric":
        missing = "|".join(map(re.escape, missing_values))
        pattern = f"^({_NUMBER}|{missing})?$" if missing else f"^({_NUMBER})?$"
        return {"type": "string", "pattern": pattern, "description": "Empty: missing."}
    return {"type": "string"}


def _list_pattern(column: NumberList) -> str:
    array = rf"\[{_JSON_NUMBER}(,{_JSON_NUMBER}){{{len(column.mean) - 1}}}\]"
    if not column.max_items:
        return array
    item = array if column.has_width else _JSON_NUMBER
    return rf"\[({item}(,{item})*)?\]"


def _required_of_row(interface: Interface) -> Json:
    # An image cannot be filled in, and neither can the past.
    required = [
        *interface.features.always_given,
        *interface.windows,
        *interface.image_columns,
    ]
    if required:
        return {"required": required}
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


def _column(column: Column, is_required: bool, missing_values: Sequence[str]) -> Json:
    null, rule = ([], _without(missing_values)) if is_required else (["null"], {})
    if isinstance(column, Numeric):
        text = {"type": "string", "pattern": f"^{_NUMBER}$"}
        missing = [{"enum": list(missing_values)}] if missing_values and not is_required else []
        return {"anyOf": [{"type": ["number", *null]}, text, *missing], **rule}
    if isinstance(column, DateParts):
        date = {"type": "string", "description": "A date in ISO 8601; without a zone in UTC."}
        seconds = {"type": "number", "description": "Seconds since 1970."}
        return {"anyOf": [seconds, date, *([] if is_required else [{"type": "null"}])], **rule}
    if isinstance(column, CATEGORIES):
        # No enum: a category that the data set did not have is counted as another or as missing.
        known = ", ".join(column.categories)
        return {
            "type": ["string", "number", "boolean", *null],
            "description": f"Known categories: {known}.",
            "examples": list(column.categories[:3]),
            **rule,
        }
    if isinstance(column, SeriesWindow):
        return _window(column)
    if isinstance(column, Text):
        cut = f"A text. What comes after {column.max_tokens:,} tokens is not read."
        return {"type": ["string", *null], "description": cut, **rule}
    if isinstance(column, NumberList):
        # JSON text of a list is taken too, but no schema can say what it has to hold.
        return _list(column) if is_required else {"anyOf": [_list(column), {"type": "null"}]}
    assert isinstance(column, Image)
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


def _window_text(column: SeriesWindow) -> Json:
    """Past steps as JSON in a field of a form, in its plainest form."""
    step = rf"\[{_JSON_NUMBER}(,{_JSON_NUMBER}){{{len(column.columns) - 1}}}\]"
    pattern = rf"^\[{step}(,{step}){{{column.length - 1}}}\]$"
    return {"type": "string", "pattern": pattern, "description": "The steps of a row, as JSON."}


def _window(column: SeriesWindow) -> Json:
    number: Json = {"type": ["number", "null"] if column.takes_previous else "number"}
    step = _object(dict.fromkeys(column.columns, number))
    if column.takes_previous:
        step["required"] = []
    numbers = {"type": "array", "items": number}
    sizes = {"minItems": len(column.columns), "maxItems": len(column.columns)}
    forms = [{**step, "description": "What else it holds is ignored."}, {**numbers, **sizes}]
    length = {"minItems": column.length, "maxItems": column.length}
    shapes = [{"type": "array", "items": {"anyOf": forms}, **length}]
    if len(column.columns) == 1:
        shapes.append({**numbers, **length})
    what = (
        f"The last {column.length:,} steps, the oldest first: each an object of "
        f"{', '.join(column.columns)}, or a list of these numbers."
    )
    return {"anyOf": shapes, "description": what}


def _list(column: NumberList) -> Json:
    if not column.max_items:
        size = len(column.mean)
        numbers = _array("number")
        return {**numbers, "minItems": size, "maxItems": size}
    told = f"What comes after {column.max_items:,} items is not read."
    items: Json = {"type": "number"}
    if column.has_width:
        size = len(column.mean)
        items = {**_array("number"), "minItems": size, "maxItems": size}
    return {"type": "array", "items": items, "description": told}


def _prediction(interface: Interface) -> Json:
    if not interface.classes:
        number, count = {"type": "number"}, interface.features.signature.num_values
        if count == 1:
            return _object({"value": number})
        steps = {"type": "array", "items": number, "minItems": count, "maxItems": count}
        return _object({"value": {**steps, "description": "The next values, in their order."}})
    score = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"enum": list(interface.classes)}
    scores = _object(dict.fromkeys(interface.classes, score))
    if interface.features.has_label_sets:
        return _object({"labels": {"type": "array", "items": label}, "scores": scores})
    return _object({"label": label, "score": score, "scores": scores})


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
