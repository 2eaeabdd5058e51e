"""Bad requests to `/v1/...`: each gets its 4xx in OpenAI's format, and the next is answered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from in_process import body, request, settings_of
from language_models import LENGTH, NAME
from served_language import LanguageStore

from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service

GOOD: dict[str, Any] = {"model": NAME, "prompt": "the cat", "max_tokens": 3, "temperature": 0}
JSON = "application/json"

# Fields that replace those of a good request, and what the message names.
FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"model": None}, 400, "model"),
    ({"model": 5}, 400, "model"),
    ({"model": ""}, 400, "model"),
    ({"model": "other"}, 404, "no model 'other'"),
    ({"model": f"{NAME}:2"}, 404, f"no model '{NAME}:2'"),
    ({"model": f"{NAME}:x"}, 404, "no model"),
    ({"model": f"{NAME}:"}, 404, "no model"),
    ({"model": f"{NAME}:1:1"}, 404, "no model"),
    ({"model": "other:1"}, 404, "no model"),
    ({"model": "m" * 5000}, 404, "no model"),
    ({"prompt": None}, 400, "prompt: it is null"),
    ({"prompt": 5}, 400, "prompt: it is a number"),
    ({"prompt": []}, 400, "prompt: it is a list"),
    ({"prompt": ["a", "b"]}, 400, "prompt: it is a list"),
    ({"prompt": [5, 6]}, 400, "no codes of tokens"),
    ({"prompt": [[5, 6]]}, 400, "no codes of tokens"),
    ({"prompt": {"text": "a"}}, 400, "prompt: it is an object"),
    ({"prompt": "\ud800"}, 400, "JSON"),
    ({"prompt": "x y " * LENGTH}, 400, f"more than {LENGTH}"),
    ({"prompt": "q" * 100_000}, 400, f"more than {LENGTH}"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": -1}, 400, "max_tokens"),
    ({"max_tokens": 1.5}, 400, "max_tokens"),
    ({"max_tokens": "5"}, 400, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"),
    ({"max_tokens": 10**12}, 400, "max_tokens"),
    ({"max_tokens": LENGTH}, 400, f"this model takes {LENGTH} tokens"),
    ({"max_tokens": 1025}, 400, "this endpoint allows 1024"),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"temperature": 2.1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"temperature": True}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"top_p": 1.01}, 400, "top_p"),
    ({"top_p": []}, 400, "top_p"),
    ({"seed": 1.5}, 400, "seed"),
    ({"seed": "a"}, 400, "seed"),
    ({"seed": False}, 400, "seed"),
    ({"stop": ""}, 400, "stop"),
    ({"stop": ["a", ""]}, 400, "stop"),
    ({"stop": ["a"] * 5}, 400, "at most 4"),
    ({"stop": 5}, 400, "stop"),
    ({"stop": [5]}, 400, "stop"),
    ({"stop": "s" * 1001}, 400, "stop"),
    ({"stream": 1}, 400, "stream"),
    ({"stream": "true"}, 400, "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"stream": True, "stream_options": []}, 400, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, 400, "include_usage"),
    ({"stream": True, "stream_options": {"other": 1}}, 400, "stream_options.other"),
    ({"n": 2}, 400, "n: 2 is not supported"),
    ({"n": True}, 400, "n: True is not supported"),
    ({"best_of": 3}, 400, "best_of"),
    ({"echo": True}, 400, "echo"),
    ({"logprobs": 0}, 400, "logprobs"),
    ({"logprobs": 5}, 400, "logprobs"),
    ({"suffix": "end"}, 400, "suffix"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
    ({"presence_penalty": -1}, 400, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
    ({"max_token": 5}, 400, "max_token: there is no such field; did you mean max_tokens?"),
    ({"x" * 5000: 5}, 400, "there is no such field"),
]
_TEXT = json.dumps(GOOD).encode()
_CHAT = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "a"}]}).encode()
# Whole requests: method, path, body, content type, status, what the message names.
REQUESTS: list[tuple[str, str, bytes, str, int, str]] = [
    ("POST", "/v1/completions", b"", JSON, 400, "not JSON"),
    ("POST", "/v1/completions", b"{", JSON, 400, "not JSON"),
    ("POST", "/v1/completions", b"\xff\xfe", JSON, 400, "not JSON"),
    ("POST", "/v1/completions", b"[" * 100_000, JSON, 400, "not JSON"),
    ("POST", "/v1/completions", b"[]", JSON, 400, "a list, not an object"),
    ("POST", "/v1/completions", b"null", JSON, 400, "null, not an object"),
    ("POST", "/v1/completions", b'{"temperature": 1e999}', JSON, 400, "not JSON"),
    ("POST", "/v1/completions", _TEXT, "", 415, "content-type"),
    ("POST", "/v1/completions", _TEXT, "text/plain", 415, "content-type"),
    ("POST", "/v1/completions", b" " * 200_001, JSON, 413, "max_request_bytes"),
    ("GET", "/v1/completions", b"", JSON, 405, "use POST"),
    ("DELETE", "/v1/completions", b"", JSON, 405, "use POST"),
    ("POST", "/v1/models", _TEXT, JSON, 405, "use GET"),
    ("GET", "/v1/models/other", b"", JSON, 404, "no model 'other'"),
    ("GET", "/v1", b"", JSON, 404, "known paths"),
    ("GET", "/v1/completion", b"", JSON, 404, "did you mean completions"),
    ("POST", "/v1/embeddings", _TEXT, JSON, 404, "it answers at /v1/completions"),
    ("POST", "/v1/chat/completions", b"{", JSON, 400, "not JSON"),
    ("POST", "/v1/chat/completions", _CHAT, JSON, 400, "'small' has no chat template"),
    ("GET", "/v1/chat/completions", b"", JSON, 405, "use POST"),
]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Routes:
    store = LanguageStore(tmp_path_factory.mktemp("bad"))
    service = Service()
    asyncio.run(service.configure(store.settings(max_request_bytes=200_000)))
    return Routes(service, "0.0")


def respond(routes: Routes, method: str, path: str, content: bytes, kind: str) -> tuple[int, Any]:
    """Status and content of an answer, and the next good request is answered."""

    async def both() -> tuple[int, Any]:
        answer = await routes.respond(request(method, path, content, {"content-type": kind}))
        found = answer.status_code, body(answer)
        good = await routes.respond(
            request("POST", "/v1/completions", _TEXT, {"content-type": JSON})
        )
        assert good.status_code == 200
        return found

    found = asyncio.run(both())
    assert routes.service.admission.num_inside == 0
    return found


def check(found: tuple[int, Any], status: int, message: str) -> None:
    assert found[0] == status, found
    assert set(found[1]) == {"error", "request_id"}
    error = found[1]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert len(error["message"]) < 700
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("fields", "status", "message"), FIELDS, ids=range(len(FIELDS)))
def test_a_bad_field_is_refused_by_name(
    routes: Routes, fields: dict[str, Any], status: int, message: str
) -> None:
    content = json.dumps({**GOOD, **fields}).encode()
    found = respond(routes, "POST", "/v1/completions", content, JSON)
    check(found, status, message)
    if status == 400 and "JSON" not in message:
        param = found[1]["error"]["param"].partition(".")[0]
        assert param in {"prompt", *(name[:100] for name in fields)}


@pytest.mark.parametrize("sent", REQUESTS, ids=range(len(REQUESTS)))
def test_a_bad_request_is_refused(
    routes: Routes, sent: tuple[str, str, bytes, str, int, str]
) -> None:
    *asked, status, message = sent
    check(respond(routes, *asked), status, message)


def test_values_that_ask_for_nothing_are_taken(routes: Routes) -> None:
    neutral = {
        "n": 1,
        "best_of": 1,
        "echo": False,
        "logprobs": None,
        "suffix": None,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "user": "ada",
        "stop": None,
        "seed": -5,
        "prompt": ["the cat"],
    }
    found = respond(
        routes, "POST", "/v1/completions", json.dumps({**GOOD, **neutral}).encode(), JSON
    )
    assert found[0] == 200, found
    assert found[1]["choices"][0]["text"]


def test_a_model_of_rows_continues_no_texts(tmp_path: Path) -> None:
    import small_models
    from in_process import Store

    store = Store(tmp_path, small_models.table_features())
    service = Service()
    asyncio.run(service.configure(settings_of(store.storage)))
    sent = request("POST", "/v1/completions", _TEXT, {"content-type": JSON})
    answer = asyncio.run(Routes(service, "0.0").respond(sent))
    check((answer.status_code, body(answer)), 404, "it answers at /predict")
