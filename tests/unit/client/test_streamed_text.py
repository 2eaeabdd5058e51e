"""Streams of texts: whole ones, and those that break off and go on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted_endpoint import DROP, Answer, Clock, Scripted, error

from raydc import client
from raydc.client import retry, streamed_text
from raydc.errors import RefusedError, ServeError, UnavailableError, UsageError

DONE = "data: [DONE]\n\n"
# More bytes than come: the connection breaks.
CUT = {"content-length": "100000"}


def events(*texts: str, version: int = 1, is_chat: bool = False) -> str:
    found = ""
    for text in texts:
        choice: dict[str, Any] = {"delta": {"content": text}} if is_chat else {"text": text}
        found += f"data: {json.dumps({'model': f'texts:{version}', 'choices': [choice]})}\n\n"
    return found


def whole(*texts: str, **given: Any) -> Answer:
    return 200, {}, (events(*texts, **given) + DONE).encode()


def broken(*texts: str, **given: Any) -> Answer:
    return 200, {**CUT, "connection": "close"}, events(*texts, **given).encode()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retry, "monotonic", made.monotonic)
    monkeypatch.setattr(streamed_text, "sleep", made.sleep)
    return made


def asked(endpoint: Scripted) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, _, body in endpoint.requests]


def test_the_parts_of_a_text_come_one_by_one(endpoint: Scripted) -> None:
    endpoint.answers = [whole("the", " cat", "", " sat")]
    found = client.stream(endpoint.url, "texts", "Once", max_tokens=5, temperature=0)
    assert list(found) == ["the", " cat", " sat"]
    assert (found.text, found.model, found.num_resumed) == ("the cat sat", "texts:1", 0)
    ((method, path, _, _),) = endpoint.requests
    assert (method, path) == ("POST", "/v1/completions")
    (body,) = asked(endpoint)
    # With a seed, so that the text can be asked for again.
    assert isinstance(body.pop("seed"), int)
    assert body == {
        "model": "texts",
        "prompt": "Once",
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
    }


@pytest.mark.parametrize("end", ["cut", "no end"])
def test_a_stream_that_breaks_off_goes_on_where_it_was(endpoint: Scripted, end: str) -> None:
    first = broken("the c", "at") if end == "cut" else (200, {}, events("the c", "at").encode())
    # Its parts are cut elsewhere.
    endpoint.answers = [first, DROP, broken("th"), whole("the", " cat s", "at", is_chat=False)]
    found = client.stream(endpoint.url, "texts", "Once")
    assert list(found) == ["the c", "at", " s", "at"]
    assert (found.text, found.num_resumed) == ("the cat sat", 3)
    bodies = asked(endpoint)
    assert len(bodies) == 4
    assert all(one == bodies[0] for one in bodies)
    # A canary takes the same version for the same key.
    assert len({headers["x-raydc-key"] for _, _, headers, _ in endpoint.requests}) == 1


def test_a_stream_goes_on_with_its_version(endpoint: Scripted) -> None:
    endpoint.answers = [broken("a", is_chat=True), whole("b", version=2, is_chat=True)]
    endpoint.answers += [whole("a", "b", is_chat=True)]
    messages = [{"role": "user", "content": "Hello"}]
    found = client.stream(endpoint.url, "texts", messages, seed=5)
    assert list(found) == ["a", "b"]
    assert [one["model"] for one in asked(endpoint)] == ["texts", "texts", "texts:1"]
    assert {one["seed"] for one in asked(endpoint)} == {5}
    # Before anything has come, any version will do.
    endpoint.answers = [broken(), whole("b", version=2)]
    assert list(client.stream(endpoint.url, "texts", "Once")) == ["b"]


def test_a_version_that_has_gone_and_another_text_are_said(endpoint: Scripted) -> None:
    endpoint.answers = [broken("a"), whole("b", version=2), error(404, "no model 'texts:1'")]
    found = client.stream(endpoint.url, "texts", "Once")
    with pytest.raises(RefusedError, match="no model 'texts:1'"):
        list(found)
    assert found.text == "a"
    for other in (whole("x"), whole("b", "a"), whole("a")):
        endpoint.answers = [broken("a", "b"), other]
        with pytest.raises(ServeError, match="was another text when it was asked for again"):
            list(client.stream(endpoint.url, "texts", "Once"))


def test_refusals_and_errors_of_the_model_are_raised(endpoint: Scripted, clock: Clock) -> None:
    endpoint.answers = [error(429, "busy", retry_after="2"), whole("a")]
    assert list(client.stream(endpoint.url, "texts", "Once")) == ["a"]
    assert clock.now_s >= 1002.0
    endpoint.answers = [error(400, "stop: give a string")]
    with pytest.raises(RefusedError, match="stop: give a string"):
        list(client.stream(endpoint.url, "texts", "Once"))
    failed = f"data: {json.dumps({'error': {'message': 'no token in time'}})}\n\n"
    endpoint.answers = [(200, {}, (events("a") + failed).encode())]
    with pytest.raises(ServeError, match="no token in time"):
        list(client.stream(endpoint.url, "texts", "Once"))
    with pytest.raises(UsageError, match="cannot be sent as JSON"):
        client.stream(endpoint.url, "texts", "Once", temperature=float("nan"))


def test_a_stream_without_a_new_part_ends_at_its_time_limit(
    endpoint: Scripted, clock: Clock
) -> None:
    endpoint.answers = [broken("a"), broken("a", "b"), broken("a")]
    found = client.stream(endpoint.url, "texts", "Once", timeout_s=30)
    with pytest.raises(UnavailableError, match="within 30 s"):
        list(found)
    assert found.text == "ab"
    # Since the last part.
    assert 1025.0 < clock.now_s < 1062.0
