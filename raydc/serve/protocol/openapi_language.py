"""What the OpenAPI document of a language model says about `/v1/...`. Runs in the replica."""

from __future__ import annotations

from raydc.features import TokenColumn
from raydc.serve.protocol import predict_body
from raydc.serve.protocol.openapi_schemas import Json, ref
from raydc.serve.settings import Settings

SPEAKS = "It continues texts in OpenAI's format under `/v1`, whole or in server-sent events."
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}


def completion_content(model: str) -> Json:
    """Body of `/v1/completions`, with an example.

    Args:
        model: Name of the model in the registry.
    """
    example = {"model": model, "prompt": "Once", "max_tokens": 1, "temperature": 0, "seed": 1}
    return {"schema": ref("CompletionRequest"), "examples": {"text": {"value": example}}}


def completion_answer() -> Json:
    """Answers to `/v1/completions` by media type."""
    events = "Events `data: {...}`, each a completion with the next part, and `data: [DONE]`"
    return {
        predict_body.JSON: {"schema": ref("Completion")},
        "text/event-stream": {"schema": {"type": "string", "description": events}},
    }


def error_of(description: str) -> Json:
    """An error in OpenAI's form.

    Args:
        description: What it means.
    """
    content = {predict_body.JSON: {"schema": ref("OpenAIError")}}
    return {"description": description, "content": content}


def build_schemas(model: str, settings: Settings, documents: TokenColumn) -> Json:
    """Builds the schemas of requests and answers by name.

    Args:
        model: Name of the model in the registry.
        settings: Settings of the endpoint, for its limits.
        documents: Column of documents, for the tokens that the model takes.
    """
    length = settings.length or documents.length
    most = min(settings.max_tokens, length)
    nullable_text = {"type": ["string", "null"]}
    choice = {
        "text": _TEXT,
        "index": {"const": 0},
        "logprobs": {"type": "null"},
        "finish_reason": {"enum": ["stop", "length", None]},
    }
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT)
    model_entry = {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}
    completion = {
        "id": _TEXT,
        "object": {"const": "text_completion"},
        "created": _COUNT,
        "model": {**_TEXT, "description": "With the version that answers behind a colon."},
        "system_fingerprint": _TEXT,
        "choices": {"type": "array", "items": _closed(choice)},
        "usage": _closed(usage),
    }
    error = {"message": _TEXT, "type": _TEXT, "param": nullable_text, "code": nullable_text}
    return {
        "CompletionRequest": _request(model, most, length),
        "Completion": _closed(completion),
        "Models": _closed(
            {"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}}
        ),
        "Model": _closed(model_entry),
        "OpenAIError": _closed({"error": _closed(error), "request_id": _TEXT}),
    }


def _request(model: str, most: int, length: int) -> Json:
    strings = {"type": "array", "maxItems": 4, "items": {**_TEXT, "minLength": 1}}
    properties = {
        "model": {"const": model, "description": "`model:version` names a version that answers."},
        "prompt": {
            **_TEXT,
            "description": f"Text that is continued; with the answer at most {length} tokens.",
        },
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": most},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "stop": {"anyOf": [{"type": "null"}, {**_TEXT, "minLength": 1}, strings]},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": "boolean"}},
            "additionalProperties": False,
            "description": "For `stream: true` only.",
        },
        "user": _TEXT,
    }
    required = ["model", "prompt"]
    return {**_closed(properties), "required": required}


def _closed(properties: Json) -> Json:
    """An object that has all of these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
