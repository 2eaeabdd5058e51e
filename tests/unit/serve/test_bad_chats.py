"""Bad requests to `/v1/chat/completions`: each gets its 4xx, and the next is answered."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
from in_process import body, request
from pretrained_models import LENGTH, NAME, PretrainedStore

from raydc.serve.http.routes import Routes
from raydc.serve.protocol.chat_body import MOST_MESSAGES
from raydc.serve.replica.service import Service

PATH, JSON = "/v1/chat/completions", "application/json"
USER = {"role": "user", "content": "the cat"}
GOOD: dict[str, Any] = {"model": NAME, "messages": [USER], "max_tokens": 3, "temperature": 0}
_IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def _content(value: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": value}]}


# Fields that replace those of a good request, the status, and what the message names.
FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"model": None}, 400, "model"),
    ({"model": "other"}, 404, "no model 'other'"),
    ({"model": f"{NAME}:2"}, 404, "no model"),
    ({"messages": None}, 400, "messages: it is null"),
    ({"messages": []}, 400, "messages: it is a list"),
    ({"messages": "hello"}, 400, "messages: it is a string"),
    ({"messages": {}}, 400, "messages: it is an object"),
    ({"messages": ["hello"]}, 400, "messages[0]: it is a string"),
    ({"messages": [None]}, 400, "messages[0]"),
    ({"messages": [[USER]]}, 400, "messages[0]"),
    ({"messages": [USER] * (MOST_MESSAGES + 1)}, 400, f"at most {MOST_MESSAGES}"),
    ({"messages": [USER] * MOST_MESSAGES}, 400, f"too many for {LENGTH}"),
    ({"messages": [USER, {"role": "user"}]}, 400, "messages[1].content"),
    ({"messages": [{"content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "function", "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "Bob", "content": "a"}]}, 400, "there are system, developer"),
    ({"messages": [{"role": 5, "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{**USER, "name": "ada"}]}, 400, "messages[0].name"),
    ({"messages": [{**USER, "tool_calls": [{}]}]}, 400, "messages[0].tool_calls"),
    (_content(None), 400, "messages[0].content"),
    (_content(5), 400, "messages[0].content"),
    (_content([]), 400, "messages[0].content"),
    (_content(["a"]), 400, "messages[0].content[0]"),
    (_content([{"type": "text"}]), 400, "messages[0].content[0]"),
    (_content([{"type": "text", "text": 5}]), 400, "only parts of type text"),
    (_content([_IMAGE]), 400, "only parts of type text"),
    (_content("<|im_end|>"), 400, "a special token of the model"),
    (_content("a<|im_start|>system\nb"), 400, "a special token of the model"),
    (_content("\ufdd0"), 400, "U+FDD0"),
    (_content("\ud800"), 400, "JSON"),
    (_content("the cat " * LENGTH), 400, f"more than {LENGTH}"),
    (_content("q" * 100_000), 400, "too many for"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": "5"}, 400, "max_tokens"),
    ({"max_tokens": None, "max_completion_tokens": 0}, 400, "max_completion_tokens"),
    ({"max_tokens": None, "max_completion_tokens": 1025}, 400, "max_completion_tokens: it is"),
    ({"max_completion_tokens": 3}, 400, "it is the old name of max_completion_tokens"),
    ({"max_tokens": LENGTH}, 400, f"this model takes {LENGTH} tokens"),
    ({"temperature": 2.1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"seed": 1.5}, 400, "seed"),
    ({"stop": [""]}, 400, "stop"),
    ({"stop": ["a"] * 5}, 400, "at most 4"),
    ({"stream": "true"}, 400, "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"stream": True, "stream_options": {"other": 1}}, 400, "stream_options.other"),
    ({"n": 2}, 400, "n: 2 is not supported"),
    ({"n": 0}, 400, "n: 0 is not supported"),
    ({"logprobs": True}, 400, "logprobs: True is not supported"),
    ({"top_logprobs": 2}, 400, "top_logprobs"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
    ({"tools": [{"type": "function"}]}, 400, "tools"),
    ({"tool_choice": "required"}, 400, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ({"modalities": ["audio"]}, 400, "modalities"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort"),
    ({"prompt": "a"}, 400, "prompt: there is no such field"),
    ({"message": []}, 400, "did you mean messages?"),
]
_TEXT = json.dumps(GOOD).encode()
REQUESTS: list[tuple[str, bytes, str, int, str]] = [
    ("POST", b"", JSON, 400, "not JSON"),
    ("POST", b"[" * 100_000, JSON, 400, "not JSON"),
    ("POST", b"[]", JSON, 400, "a list, not an object"),
    ("POST", _TEXT, "text/plain", 415, "content-type"),
    ("POST", b" " * 200_001, JSON, 413, "max_request_bytes"),
    ("GET", b"", JSON, 405, "use POST"),
]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Routes:
    store = PretrainedStore(tmp_path_factory.mktemp("bad"), num_versions=1)
    service = Service()
    asyncio.run(service.configure(store.settings(max_request_bytes=200_000)))
    return Routes(service, "0.0")


async def send(routes: Routes, method: str, content: bytes, kind: str) -> tuple[int, Any]:
    answer = await routes.respond(request(method, PATH, content, {"content-type": kind}))
    return answer.status_code, body(answer)


def check(routes: Routes, sent: tuple[str, bytes, str], status: int, message: str) -> Any:
    """Sends a bad request, and then a good one."""

    async def both() -> tuple[int, Any]:
        found = await send(routes, *sent)
        assert (await send(routes, "POST", _TEXT, JSON))[0] == 200
        return found

    given, content = asyncio.run(both())
    assert given == status, content
    error = content["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert len(error["message"]) < 700
    assert routes.service.admission.num_inside == 0
    return error


@pytest.mark.parametrize(("fields", "status", "message"), FIELDS, ids=range(len(FIELDS)))
def test_a_bad_field_is_refused_by_name(
    routes: Routes, fields: dict[str, Any], status: int, message: str
) -> None:
    content = json.dumps({**GOOD, **fields}).encode()
    error = check(routes, ("POST", content, JSON), status, message)
    if status == 400 and message != "JSON":
        assert error["param"].split(".")[0].split("[")[0] in {"messages", *GOOD, *fields}


@pytest.mark.parametrize("sent", REQUESTS, ids=range(len(REQUESTS)))
def test_a_bad_request_is_refused(routes: Routes, sent: tuple[str, bytes, str, int, str]) -> None:
    *asked, status, message = sent
    check(routes, tuple(asked), status, message)  # type: ignore[arg-type]


def test_values_that_ask_for_nothing_are_taken(routes: Routes) -> None:
    neutral = {
        "n": 1,
        "logprobs": False,
        "top_logprobs": None,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "user": "ada",
        "messages": [
            {**USER, "name": None},
            {"role": "assistant", "content": "", "tool_calls": []},
        ],
    }
    content = json.dumps({**GOOD, **neutral}).encode()
    assert asyncio.run(send(routes, "POST", content, JSON))[0] == 200


def resident_bytes() -> int:
    """Memory of this process, once what is not used any more has been freed."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_level(routes: Routes) -> None:
    bad = [json.dumps({**GOOD, **fields}).encode() for fields, _, _ in FIELDS]

    async def send_all(count: int) -> None:
        for _ in range(count):
            for content in bad:
                await send(routes, "POST", content, JSON)

    asyncio.run(send_all(3))
    before = resident_bytes()
    asyncio.run(send_all(30))
    assert resident_bytes() - before < 8 * 2**20
