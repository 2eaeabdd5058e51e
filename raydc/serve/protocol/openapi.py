"""OpenAPI 3.1 document of an endpoint: paths, bodies, answers and errors. Runs in the replica.

It describes the model that answers: its columns, its classes, the limits of its endpoint.
"""

from __future__ import annotations

from raydc.serve.protocol import binary, examples, openapi_language, predict_body
from raydc.serve.protocol.interface import Interface
from raydc.serve.protocol.openapi_schemas import (
    Json,
    build_schemas,
    common_schemas,
    form_schema,
    ref,
)
from raydc.serve.settings import Settings

ERRORS = {
    400: "The body is malformed; the message names the field.",
    401: "The endpoint needs a token (`Authorization: Bearer ...`), and this one is not valid.",
    404: "There is no such path, model or version.",
    405: "The path takes another method; see `Allow`.",
    408: "No answer within the time that a request may take.",
    413: "The body, its rows or the pixels of its images exceed a limit.",
    415: "The endpoint does not take this kind of body.",
    422: "A value does not fit its column, or is missing; the message names row and column.",
    429: "The queue is full; try again after `Retry-After` seconds.",
    500: "The model failed; the replica's log says why.",
    503: "No model is ready yet; try again after `Retry-After` seconds.",
}
_ROWS = (
    "It speaks the Open Inference Protocol v2 with binary tensor data under `/v2`, and plain rows "
    "and images at `/predict`."
)
# Health needs no token: a load balancer has none.
_OPEN_PATHS = ("/healthz", "/ping", "/v2/health/live", "/v2/health/ready")
_ERRORS_OF_GET = (401, 404, 405, 408, 503)
# RFC 9110 requires `Allow`; `Retry-After` tells clients how long to wait before they try again.
_ERROR_HEADERS = {405: "Allow", 429: "Retry-After", 503: "Retry-After"}


def build_document(
    model: str,
    version: str,
    interface: Interface,
    settings: Settings,
    raydc: str,
    has_embeddings: bool = False,
) -> Json:
    """Builds the document.

    Args:
        model: Name of the model in the registry.
        version: Version that answers.
        interface: Columns and outputs of the model, for schemas and examples.
        settings: Settings of the endpoint, for its limits and whether it needs tokens.
        raydc: Version of raydc, for the document's description.
        has_embeddings: Whether the model is an encoder of texts.
    """
    paths = _build_paths(model, version, interface, settings)
    documents = interface.features.token_column
    schemas = (
        build_schemas(interface, settings)
        if documents is None
        else {**common_schemas(), **openapi_language.build_schemas(model, settings, documents)}
    )
    if has_embeddings:
        paths = {**paths, **_embedding_paths(model)}
        schemas = {**schemas, **openapi_language.build_embedding_schemas(model, settings)}
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": model,
            "version": version,
            "description": (
                f"{_describe(interface)}, served by raydc {raydc}. "
                f"{_ROWS if documents is None else openapi_language.SPEAKS} "
                "Every answer carries the version that made it in `x-raydc-model-version`."
            ),
        },
        # Relative to where the client found this document: only it knows which prefixes proxies
        # have taken away.
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _error(status) for status in ERRORS},
        },
    }
    if settings.auth == "token":
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path in _OPEN_PATHS:
            # An empty list lifts the requirement of the whole document.
            paths[path]["get"]["security"] = []
    return document


def _describe(interface: Interface) -> str:
    """What the model is, as the beginning of a sentence."""
    features = interface.features
    if features.token_column is not None:
        return f"A language model of `{features.target}`"
    return f"A {features.signature.task}{' model' * features.has_label_sets} of `{features.target}`"


def _build_paths(model: str, version: str, interface: Interface, settings: Settings) -> Json:
    is_language = interface.features.token_column is not None
    paths = _text_paths(model) if is_language else _row_paths(model, version, interface, settings)
    one = f"/v2/models/{model}"
    # The same operations with and without a version; an operationId must be unique.
    for path, suffix in ((one, ""), (f"{one}/versions/{version}", "_version")):
        paths[path] = _get(
            f"metadata{suffix}", "Inputs, outputs and classes of the model", "Metadata"
        )
        paths[f"{path}/ready"] = _get(
            f"model_ready{suffix}", "Whether the model is ready", "ModelReady"
        )
    paths["/v2"] = _get("server", "Name and extensions of the server", "Server")
    paths["/v2/health/live"] = _get("live", "Whether the process answers", "Live")
    paths["/v2/health/ready"] = _get("ready", "Whether a model answers", "Ready")
    paths["/healthz"] = _get("healthz", "Readiness, with model and version", "Health")
    paths["/ping"] = _get("ping", "Readiness (SageMaker's path)", "Health")
    return paths


def _text_paths(model: str) -> Json:
    """Paths in OpenAI's format."""
    content = {predict_body.JSON: openapi_language.completion_content(model)}
    paths = {
        "/v1/completions": _post(
            "completions", "Continue a text", content, openapi_language.completion_answer()
        ),
        "/v1/models": _get("models", "Names that requests may give", "Models"),
        "/v1/chat/completions": _post(
            "chat",
            "Answer messages, with the chat template of the model",
            {predict_body.JSON: openapi_language.chat_content(model)},
            openapi_language.chat_answer(),
        ),
        f"/v1/models/{model}": _get("model", "Whether a name is known", "Model"),
    }
    return _with_own_errors(paths)


def _embedding_paths(model: str) -> Json:
    """Paths of an encoder in OpenAI's format."""
    answer = {predict_body.JSON: {"schema": ref("Embeddings")}}
    content = {predict_body.JSON: openapi_language.embedding_content(model)}
    paths = {
        "/v1/embeddings": _post("embeddings", "Vectors of texts", content, answer),
        "/v1/models": _get("models", "Names that requests may give", "Models"),
        f"/v1/models/{model}": _get("model", "Whether a name is known", "Model"),
    }
    return _with_own_errors(paths)


def _with_own_errors(paths: Json) -> Json:
    """Paths in OpenAI's format with errors in that format."""
    for path in paths.values():
        for operation in path.values():
            operation["responses"] = {
                status: openapi_language.error_of(ERRORS[int(status)])
                if status != "200"
                else response
                for status, response in operation["responses"].items()
            }
    return paths


def _row_paths(model: str, version: str, interface: Interface, settings: Settings) -> Json:
    """Paths of a model that predicts rows."""
    answer = {predict_body.JSON: {"schema": ref("Predictions")}}
    content = _predict_content(interface, settings)
    infer_content = _infer_content(interface)
    infer_answer = {
        predict_body.JSON: {"schema": ref("InferAnswer")},
        predict_body.RAW: {
            "schema": {"description": "JSON and the binary data after it, as in the request"}
        },
    }
    paths: Json = {
        "/predict": _post("predict", "Predict from rows, images or a form", content, answer),
        "/invocations": _post("invocations", "Predict (SageMaker's path)", content, answer),
    }
    one = f"/v2/models/{model}"
    for path, suffix in ((one, ""), (f"{one}/versions/{version}", "_version")):
        paths[f"{path}/infer"] = _post(
            f"infer{suffix}", "Predict from tensors", infer_content, infer_answer
        )
    return paths


def _post(name: str, summary: str, content: Json, answer: Json) -> Json:
    """A path that takes a body."""
    errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in ERRORS}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": _answer(answer), **errors},
        }
    }


def _get(name: str, summary: str, schema: str) -> Json:
    """A path that answers JSON of a schema of the document."""
    errors = {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in _ERRORS_OF_GET
    }
    responses = {"200": _answer({predict_body.JSON: {"schema": ref(schema)}}), **errors}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _answer(content: Json) -> Json:
    headers = {
        name: {"schema": {"type": "string"}} for name in ("x-raydc-model", "x-raydc-model-version")
    }
    return {"description": "The answer.", "headers": headers, "content": content}


def _error(status: int) -> Json:
    error: Json = {
        "description": ERRORS[status],
        "content": {predict_body.JSON: {"schema": ref("Error")}},
    }
    if status in _ERROR_HEADERS:
        error["headers"] = {_ERROR_HEADERS[status]: {"schema": {"type": "string"}}}
    return error


def _predict_content(interface: Interface, settings: Settings) -> Json:
    """Bodies of `/predict` by media type: what the model takes and no more."""
    row = examples.example_row(interface)
    content: Json = {
        predict_body.JSON: {
            "schema": ref("Rows"),
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
        fields = {"schema": form_schema(interface)}
        content[predict_body.MULTIPART] = content[predict_body.URLENCODED] = fields
        content[predict_body.CSV] = {
            "schema": {"type": "string"},
            "example": examples.example_csv(interface),
        }
    fast = interface.fast_input
    if fast is not None:
        text = (
            f"One tensor {fast['datatype']} {fast['shape']}; "
            "`?dtype=` and `?shape=` declare a different one."
        )
        content[predict_body.RAW] = {
            "schema": {"type": "string", "contentMediaType": predict_body.RAW, "description": text}
        }
    return content


def _infer_content(interface: Interface) -> Json:
    text = f"JSON of the length in the header `{binary.HEADER}`, then its tensors' binary data."
    return {
        predict_body.JSON: {
            "schema": ref("InferRequest"),
            "examples": {"one": {"value": examples.example_infer_request(interface)}},
        },
        predict_body.RAW: {
            "schema": {"type": "string", "contentMediaType": predict_body.RAW, "description": text}
        },
    }
