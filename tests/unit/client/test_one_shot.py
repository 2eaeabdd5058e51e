"""Functions for a single request."""

from __future__ import annotations

import json

import pytest
from scripted_endpoint import OK, Scripted, error

from raydc import client
from raydc.errors import RefusedError, ServeError, UsageError


def test_locate_tries_the_root_then_the_name(endpoint: Scripted) -> None:
    assert client.locate(endpoint.url, "digits") == endpoint.url
    endpoint.answers = [error(404, "no model 'digits'"), OK]
    assert client.locate(endpoint.url, "digits") == f"{endpoint.url}/digits"
    assert [path for _, path, _, _ in endpoint.requests[1:]] == [
        "/v2/models/digits",
        "/digits/v2/models/digits",
    ]
    endpoint.answers = [error(404, "no model 'digits'")]
    with pytest.raises(ServeError, match="no model 'digits'"):
        client.locate(endpoint.url, "digits")


def test_complete_posts_what_openai_calls_a_completion(endpoint: Scripted) -> None:
    endpoint.answers = [(200, {}, b'{"choices": [{"text": " end"}]}')]
    found = client.complete(endpoint.url, "texts:2", "the", max_tokens=3, stop=["."])
    assert found == {"choices": [{"text": " end"}]}
    ((method, path, headers, body),) = endpoint.requests
    assert (method, path, headers["content-type"]) == (
        "POST",
        "/v1/completions",
        "application/json",
    )
    asked = {"model": "texts:2", "prompt": "the", "max_tokens": 3, "stop": ["."]}
    assert json.loads(body) == asked


def test_chat_posts_what_openai_calls_a_chat_completion(endpoint: Scripted) -> None:
    endpoint.answers = [(200, {}, b'{"choices": [{"message": {"content": "Hi"}}]}')]
    messages = [{"role": "user", "content": "Hello"}]
    found = client.chat(endpoint.url, "talks", messages, seed=5)
    assert found == {"choices": [{"message": {"content": "Hi"}}]}
    ((method, path, _, body),) = endpoint.requests
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert json.loads(body) == {"model": "talks", "messages": messages, "seed": 5}


def test_complete_says_what_an_endpoint_or_json_refuses(endpoint: Scripted) -> None:
    content = json.dumps({"error": {"message": "stop: give a string"}, "request_id": "r"})
    endpoint.answers = [(400, {}, content.encode())]
    with pytest.raises(RefusedError, match="stop: give a string") as refused:
        client.complete(endpoint.url, "texts", "the", stop=5)
    assert "{" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot be sent as JSON"):
        client.complete(endpoint.url, "texts", "the", temperature=float("nan"))
