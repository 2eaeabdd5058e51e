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


def test_an_endpoint_that_always_gives_another_version_is_not_asked_for_ever(
    endpoint: Scripted,
) -> None:
    endpoint.answers = [broken("a"), whole("b", version=2)]
    with pytest.raises(ServeError, match="was another text"):
        list(client.stream(endpoint.url, "texts", "Once"))
    assert len(endpoint.requests) == 3


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


def test_whatever_unicode_calls_a_line_break_is_a_part_of_a_text(endpoint: Scripted) -> None:
    # Servers write such characters as they are; only a line feed ends a line of a stream.
    texts = ["a\u2028b", "c\u0085\u2029", "Grüße 🙂", "d\r\n"]
    lines = [json.dumps({"model": "m:1", "choices": [{"text": one}]}) for one in texts]
    written = [json.dumps(json.loads(one), ensure_ascii=False) for one in lines]
    body = "".join(f": a comment\r\ndata: {one}\r\n\r\n" for one in written) + DONE
    endpoint.answers = [(200, {"content-type": "text/event-stream"}, body.encode())]
    assert list(client.stream(endpoint.url, "m", "Once")) == texts


def test_lines_are_read_whatever_their_pieces() -> None:
    content = "data: é🙂\r\n\ndata: b\n\ndata: half".encode()
    pieces = [bytes([one]) for one in content]
    expected = ["data: é🙂", "", "data: b", ""]
    assert list(streamed_text.whole_lines(pieces)) == expected
    assert list(streamed_text.whole_lines([content])) == expected
    assert list(streamed_text.whole_lines([b"data: [DONE]"])) == ["data: [DONE]"]


def test_half_an_event_at_the_end_is_none(endpoint: Scripted) -> None:
    """A proxy may end a body that broke off as if it were whole."""
    for size in (3, 30, len(events("b").rstrip())):
        cut = events("a") + events("b")[:size]
        endpoint.answers = [(200, {}, cut.encode()), whole("a", "b")]
        found = client.stream(endpoint.url, "texts", "Once")
        assert (list(found), found.num_resumed) == (["a", "b"], 1)


def test_a_reader_takes_its_time(endpoint: Scripted, clock: Clock) -> None:
    endpoint.answers = [broken("a", "b"), whole("a", "b", "c")]
    found = []
    for part in client.stream(endpoint.url, "texts", "Once", timeout_s=30):
        found.append(part)
        # The endpoint may have ended the stream of whoever reads nothing.
        clock.now_s += 100.0
    assert found == ["a", "b", "c"]


def test_a_stream_without_a_seed_gets_one(endpoint: Scripted) -> None:
    endpoint.answers = [whole("a")]
    list(client.stream(endpoint.url, "texts", "Once", seed=None))
    assert isinstance(asked(endpoint)[0]["seed"], int)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"<html>hello</html>", "text/html", "answers with text/html and no stream"),
        (b'{"choices": []}', "application/json", "answers with application/json and no stream"),
        (b"data: hello\n\n", "text/event-stream", "cannot be read: hello"),
        (b"data: [1]\n\n", "text/event-stream; charset=utf-8", r"cannot be read: \[1\]"),
        (b'data: {"model": "m", "choices": [5]}\n\n', "text/event-stream", "cannot be read"),
        (b'data: {"model": "m", "choices": [{"text": 5}]}\n\n', "text/event-stream", "be read"),
        (b'data: {"model": "m"}\n\n', "text/event-stream", "cannot be read"),
        (b"data: \xff\n\n", "text/event-stream", "cannot be read"),
        (b'data: {"error": "no room"}\n\n', "text/event-stream", "no room"),
    ],
)
def test_what_is_no_stream_of_texts_is_said(
    endpoint: Scripted, content: bytes, kind: str, message: str
) -> None:
    endpoint.answers = [(200, {"content-type": kind}, content)]
    with pytest.raises(ServeError, match=message):
        list(client.stream(endpoint.url, "texts", "Once"))
    assert len(endpoint.requests) == 1


def test_a_part_without_text_is_none(endpoint: Scripted) -> None:
    opening = {"model": "m:1", "choices": [{"delta": {"role": "assistant", "content": None}}]}
    body = f"data: {json.dumps(opening)}\n\n{events('a', is_chat=True)}{DONE}"
    endpoint.answers = [(200, {}, body.encode())]
    assert list(client.stream(endpoint.url, "m", [{"role": "user", "content": "Hi"}])) == ["a"]


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
