"""The OpenAPI 3.1 document of an endpoint: the inputs and classes of the model that answers, and every error."""

from __future__ import annotations

from typing import Any

from raydc.features import Categorical, Image, Numeric
from raydc.serve.protocol import binary, examples, predict_body
from raydc.serve.protocol.interface import Interface
from raydc.serve.settings import Settings

Json = dict[str, Any]

ERRORS = {
    400: "The body is not what it should be; the message names the field.",
    401: "The endpoint wants a token (`Authorization: Bearer ...`), and this is none of its own.",
    404: "There is no such path, model or version.",
    405: "The path takes another method; see `Allow`.",
    408: "No answer within the time that a request may take.",
    413: "The body, its rows or the pixels of its images are too many.",
    415: "The endpoint does not take this kind of body.",
    422: "A value does not fit its column; the message names row and column.",
    429: "As many requests wait as may; try again after `Retry-After` seconds.",
    500: "The model failed; the replica's log says why.",
    503: "No model is ready yet; try again after `Retry-After` seconds.",
}
# Everybody may ask for health: a load balancer has no token.
_OPEN = ("/healthz", "/ping", "/v2/health/live", "/v2/health/ready")
_OF_GET = (401, 404, 405, 408, 503)
_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"


def document(
    model: str, version: str, interface: Interface, settings: Settings, raydc: str, prefix: str
) -> Json:
    """The document.

    Args:
        model: Its name.
        version: The one that answers.
        interface: Of the model.
        settings: For the limits.
        raydc: Version of raydc.
        prefix: The path below which the endpoint answers, such as `/small`; empty at the root.
    """
    predict = _operation(
        "predict", "Ask with rows, images or a form", _predict_content(interface, settings)
    )
    invocations = {
        **predict,
        "operationId": "invocations",
        "summary": "The same, as SageMaker asks",
    }
    infer = _operation("infer", "Ask with tensors", _infer_content(interface))
    infer["responses"]["200"] = _answer(
        {
            predict_body.JSON: {"schema": _ref("InferAnswer")},
            predict_body.RAW: {
                "schema": {"description": "JSON and the binary data behind it, as in the request"}
            },
        }
    )
    predict["responses"]["200"] = invocations["responses"]["200"] = _answer(
        {predict_body.JSON: {"schema": _ref("Predictions")}}
    )
    one = f"/v2/models/{model}"
    paths: Json = {"/predict": {"post": predict}, "/invocations": {"post": invocations}}
    for path, name in ((one, ""), (f"{one}/versions/{version}", "_version")):
        paths[path] = _get(
            f"metadata{name}", "Inputs, outputs and classes of the model", "Metadata"
        )
        paths[f"{path}/ready"] = _get(
            f"model_ready{name}", "Whether the model is ready", "ModelReady"
        )
        paths[f"{path}/infer"] = {"post": {**infer, "operationId": f"infer{name}"}}
    paths["/v2"] = _get("server", "Name and extensions of the server", "Server")
    paths["/v2/health/live"] = _get("live", "Whether the process answers", "Live")
    paths["/v2/health/ready"] = _get("ready", "Whether a model answers", "Ready")
    paths["/healthz"] = _get("healthz", "Ready, with model and version", "Health")
    paths["/ping"] = _get("ping", "The same, as SageMaker asks", "Health")
    whole: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": model,
            "version": version,
            "description": (
                f"A {interface.features.signature.task} of `{interface.features.target}`, served by raydc {raydc}. "
                "It speaks the Open Inference Protocol v2 with binary tensor data under `/v2`, and plain rows and "
                "images at `/predict`. Every answer carries the version that gave it in `x-raydc-model-version`."
            ),
        },
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(interface, settings),
            "responses": {str(status): _error(status) for status in ERRORS},
        },
    }
    if settings.auth == "token":
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"token": []}]
        for path in _OPEN:
            paths[path]["get"]["security"] = []
    return whole


# Operations -------------------------------------------------------------------------------------------------


def _operation(name: str, summary: str, content: Json) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {
            str(status): {"$ref": f"#/components/responses/{status}"} for status in ERRORS
        },
    }


def _get(name: str, summary: str, schema: str) -> Json:
    errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in _OF_GET}
    responses = {"200": _answer({predict_body.JSON: {"schema": _ref(schema)}}), **errors}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _answer(content: Json) -> Json:
    headers = {
        name: {"schema": {"type": "string"}} for name in ("x-raydc-model", "x-raydc-model-version")
    }
    return {"description": "The answer.", "headers": headers, "content": content}


def _error(status: int) -> Json:
    error: Json = {
        "description": ERRORS[status],
        "content": {predict_body.JSON: {"schema": _ref("Error")}},
    }
    name = {405: "Allow", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if name:
        error["headers"] = {name: {"schema": {"type": "string"}}}
    return error


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _predict_content(interface: Interface, settings: Settings) -> Json:
    row = examples.row(interface)
    content: Json = {
        predict_body.JSON: {
            "schema": _ref("Rows"),
            "examples": {"rows": {"value": {"rows": [row]}}},
        }
    }
    if interface.image_column is not None:
        image: Json = {"type": "string", "contentMediaType": "image/*"}
        content["image/*"] = {"schema": image}
        files = {
            "type": "array",
            "items": image,
            "minItems": 1,
            "maxItems": settings.max_request_rows,
        }
        content[predict_body.MULTIPART] = {
            "schema": {"type": "object", "properties": {"image": files}, "required": ["image"]},
        }
    else:
        content[predict_body.MULTIPART] = content[predict_body.URLENCODED] = {
            "schema": _fields(interface)
        }
        content[predict_body.CSV] = {
            "schema": {"type": "string"},
            "example": examples.csv(interface),
        }
    fast = interface.fast_input
    if fast is not None:
        text = f"One tensor {fast['datatype']} {fast['shape']}; `?dtype=` and `?shape=` where it is another."
        content[predict_body.RAW] = {
            "schema": {"type": "string", "contentMediaType": predict_body.RAW, "description": text}
        }
    return content


def _infer_content(interface: Interface) -> Json:
    text = f"JSON of as many bytes as the header `{binary.HEADER}` says, and the binary data of its tensors behind it."
    return {
        predict_body.JSON: {
            "schema": _ref("InferRequest"),
            "examples": {"one": {"value": examples.infer(interface)}},
        },
        predict_body.RAW: {
            "schema": {"type": "string", "contentMediaType": predict_body.RAW, "description": text}
        },
    }


# Schemas ----------------------------------------------------------------------------------------------------


def _schemas(interface: Interface, settings: Settings) -> Json:
    text, flag = {"type": "string"}, {"type": "boolean"}
    rows = {
        "type": "array",
        "items": _ref("Row"),
        "minItems": 1,
        "maxItems": settings.max_request_rows,
    }
    tensor = _object(
        {"name": text, "datatype": text, "shape": _array("integer")}, parameters={"type": "object"}
    )
    tensors = {"type": "array", "items": tensor}
    return {
        "Error": _object({"error": text, "request_id": text}),
        "Row": _row(interface),
        "Rows": {"oneOf": [{**_object({"rows": rows}), "additionalProperties": False}, rows]},
        "Prediction": _prediction(interface),
        "Predictions": _object(
            {
                "predictions": {"type": "array", "items": _ref("Prediction")},
                "model": text,
                "version": text,
            }
        ),
        "InferRequest": _infer_request(interface),
        "InferAnswer": _object(
            {
                "model_name": text,
                "model_version": text,
                "outputs": {
                    "type": "array",
                    "items": {**tensor, "description": "With `data`, flat."},
                },
            },
            id=text,
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


def _object(required: Json, **optional: Json) -> Json:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _array(kind: str) -> Json:
    return {"type": "array", "items": {"type": kind}}


def _row(interface: Interface) -> Json:
    features = interface.features
    ignored = {
        name: {"description": "Not looked at."} for name in (features.target, *features.ignored)
    }
    columns = {name: _column(column) for name, column in features.columns.items()}
    row: Json = {
        "type": "object",
        "description": "A column that is left out is missing; one of them must be there.",
        "properties": {**ignored, **columns},
        "additionalProperties": False,
    }
    if interface.image_column is None:
        row["anyOf"] = [{"required": [name]} for name in columns]
    else:
        row["required"] = [interface.image_column]
    return row


def _fields(interface: Interface) -> Json:
    """A row as the fields of a form, which are texts."""
    number = {"type": "string", "pattern": f"^({_NUMBER})?$", "description": "Empty: missing."}
    kinds = interface.kinds.items()
    return {
        "type": "object",
        "properties": {
            name: number if kind == "numeric" else {"type": "string"} for name, kind in kinds
        },
        "additionalProperties": False,
        "anyOf": [{"required": [name]} for name in interface.kinds],
    }


def _column(column: Numeric | Categorical | Image) -> Json:
    if isinstance(column, Numeric):
        return {
            "anyOf": [{"type": ["number", "null"]}, {"type": "string", "pattern": f"^{_NUMBER}$"}]
        }
    if isinstance(column, Categorical):
        known = ", ".join(column.categories)
        kinds = ["string", "number", "boolean", "null"]
        return {
            "type": kinds,
            "description": f"Known are {known}.",
            "examples": list(column.categories[:3]),
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
