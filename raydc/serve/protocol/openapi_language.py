"""What the OpenAPI document of a language model says about `/v1/...`. Runs in the replica."""

from __future__ import annotations

from raydc.features import TokenColumn
from raydc.serve.protocol import predict_body
from raydc.serve.protocol.openapi_schemas import Json, ref
from raydc.serve.settings import Settings

SPEAKS = (
    "It continues texts and answers messages in OpenAI's format under `/v1`, whole or in "
    "server-sent events."
)
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}


def completion_content(model: str) -> Json:
    """Body of `/v1/completions`, with an example.

    Args:
        model: Name of the model in the registry.
    """
    example = {"model": model, "prompt": "Once", "max_tokens": 1, "temperature": 0, "seed": 1}
    return {"schema": ref("CompletionRequest"), "examples": {"text": {"value": example}}}


def chat_content(model: str) -> Json:
    """Body of `/v1/chat/completions`, with an example.

    Args:
        model: Name of the model in the registry.
    """
    asked = [{"role": "user", "content": "Hello"}]
    example = {"model": model, "messages": asked, "max_completion_tokens": 1, "seed": 1}
    return {"schema": ref("ChatRequest"), "examples": {"messages": {"value": example}}}


def completion_answer() -> Json:
    """Answers to `/v1/completions` by media type."""
    return _answer("Completion", "completion")


def chat_answer() -> Json:
    """Answers to `/v1/chat/completions` by media type."""
    return _answer("ChatCompletion", "chunk")


def _answer(schema: str, part: str) -> Json:
    events = f"Events `data: {{...}}`, each a {part} with the next part, and `data: [DONE]`"
    return {
        predict_body.JSON: {"schema": ref(schema)},
        "text/event-stream": {"schema": {"type": "string", "description": events}},
    }


def embedding_content(model: str) -> Json:
    """Body of `/v1/embeddings`, with an example.

    Args:
        model: Name of the model in the registry.
    """
    example = {"model": model, "input": ["a text", "another text"]}
    return {"schema": ref("EmbeddingRequest"), "examples": {"texts": {"value": example}}}


def build_embedding_schemas(model: str, settings: Settings) -> Json:
    """Builds the schemas of `/v1/embeddings` and of errors and models by name.

    Args:
        model: Name of the model in the registry.
        settings: Settings of the endpoint, for its limits.
    """
    most = settings.max_request_rows
    texts = {"type": "array", "minItems": 1, "maxItems": most, "items": _TEXT}
    properties = {
        "model": {"const": model, "description": "`model:version` names a version that answers."},
        "input": {"anyOf": [_TEXT, texts]},
        "encoding_format": {"enum": ["float", "base64", None]},
        "dimensions": {"type": ["integer", "null"], "description": "That of the model only."},
        "user": _TEXT,
    }
    vector = {"anyOf": [{"type": "array", "items": {"type": "number"}}, _TEXT]}
    one = {"object": {"const": "embedding"}, "index": _COUNT, "embedding": vector}
    usage = dict.fromkeys(("prompt_tokens", "total_tokens"), _COUNT)
    answer = {
        "object": {"const": "list"},
        "data": {"type": "array", "items": _closed(one)},
        "model": _TEXT,
        "usage": _closed(usage),
    }
    request = {**_closed(properties), "required": ["model", "input"]}
    return {"EmbeddingRequest": request, "Embeddings": _closed(answer), **_common_schemas()}


def _common_schemas() -> Json:
    """Schemas of models and errors."""
    nullable_text = {"type": ["string", "null"]}
    error = {"message": _TEXT, "type": _TEXT, "param": nullable_text, "code": nullable_text}
    entry = {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}
    listed = {"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}}
    return {
        "Models": _closed(listed),
        "Model": _closed(entry),
        "OpenAIError": _closed({"error": _closed(error), "request_id": _TEXT}),
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
    end = {
        "index": {"const": 0},
        "logprobs": {"type": "null"},
        "finish_reason": {"enum": ["stop", "length", None]},
    }
    message = {"role": {"const": "assistant"}, "content": _TEXT, "refusal": {"type": "null"}}
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT)
    completion = {
        "id": _TEXT,
        "object": {"const": "text_completion"},
        "created": _COUNT,
        "model": {**_TEXT, "description": "With the version that answers behind a colon."},
        "system_fingerprint": _TEXT,
        "choices": {"type": "array", "items": _closed({"text": _TEXT, **end})},
        "usage": _closed(usage),
    }
    chat = {
        **completion,
        "object": {"const": "chat.completion"},
        "choices": {"type": "array", "items": _closed({"message": _closed(message), **end})},
    }
    return {
        "CompletionRequest": _request(model, most, length),
        "Completion": _closed(completion),
        "ChatRequest": _chat_request(model, most),
        "ChatCompletion": _closed(chat),
        **_common_schemas(),
    }


def _request(model: str, most: int, length: int) -> Json:
    prompt = {
        **_TEXT,
        "description": f"Text that is continued; with the answer at most {length} tokens.",
    }
    properties = {"prompt": prompt, **_sampling(model, most)}
    return {**_closed(properties), "required": ["model", "prompt"]}


def _chat_request(model: str, most: int) -> Json:
    role = {"enum": ["system", "developer", "user", "assistant"]}
    part = _closed({"type": {"const": "text"}, "text": _TEXT})
    content = {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": part}]}
    message = {
        "type": "object",
        "properties": {"role": role, "content": content},
        "required": ["role", "content"],
    }
    sampling = _sampling(model, most)
    properties = {
        "messages": {"type": "array", "minItems": 1, "items": message},
        **sampling,
        "max_completion_tokens": sampling["max_tokens"],
        "max_tokens": {**sampling["max_tokens"], "deprecated": True},
    }
    return {**_closed(properties), "required": ["model", "messages"]}


def _sampling(model: str, most: int) -> Json:
    strings = {"type": "array", "maxItems": 4, "items": {**_TEXT, "minLength": 1}}
    return {
        "model": {"const": model, "description": "`model:version` names a version that answers."},
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


def _closed(properties: Json) -> Json:
    """An object that has all of these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
