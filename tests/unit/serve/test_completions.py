"""`/v1/...` over HTTP on both paths: OpenAI's client, streams, clients that go, versions."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from language_models import LENGTH, NAME, TEXTS
from served_language import LanguageServer, LanguageStore, events_of, wait_until

from raydc.bundle.completion import complete
from raydc.bundle.growing_answer import AnswerOptions
from raydc.models.token_sampling import TokenSampling
from raydc.serve.settings import Traffic, TrafficShare
from raydc.serve.watch.request_record import RequestRecord
from raydc.tokens import TokenStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LanguageStore:
    return LanguageStore(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module", params=["direct", "serve"])
def server(request: pytest.FixtureRequest, store: LanguageStore) -> Iterator[LanguageServer]:
    with LanguageServer(store.settings(auth="none"), request.param).running() as made:
        yield made


def ask(
    server: LanguageServer, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": NAME, "prompt": "the cat", **fields}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60)


def offline(store: LanguageStore, prompt: str, options: AnswerOptions, version: int = 1) -> Any:
    return complete(store.bundle(version), prompt, options)


def test_an_answer_is_the_offline_text(server: LanguageServer, store: LanguageStore) -> None:
    expected = offline(store, TEXTS[1][:9], AnswerOptions(12))
    answer = ask(server, prompt=TEXTS[1][:9], max_tokens=12, temperature=0)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["object"] == "text_completion"
    assert found["model"] == f"{NAME}:1"
    assert answer.headers["x-raydc-model-version"] == "1"
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == (expected.text, "length")
    num_prompt = found["usage"]["prompt_tokens"]
    assert 0 < num_prompt <= len(TEXTS[1][:9].encode())
    assert found["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 12,
        "total_tokens": num_prompt + 12,
    }


def test_the_events_of_a_stream_are_the_answer(server: LanguageServer) -> None:
    asked = {"max_tokens": 20, "temperature": 1, "top_p": 0.9, "seed": 7}
    expected = ask(server, **asked).json()
    body = {"model": NAME, "prompt": "the cat", **asked, "stream": True}
    body["stream_options"] = {"include_usage": True}
    slots = server.hold()
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
        # It has begun with the first token; a slow client may get all others in one event.
        slots.gate.set()
        answer.read()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, usage, done = events_of(answer.text)
    assert done == "[DONE]"
    text = "".join(part["choices"][0]["text"] for part in parts)
    assert text == expected["choices"][0]["text"]
    reasons = [part["choices"][0]["finish_reason"] for part in parts]
    assert (reasons[-1], set(reasons[:-1])) == ("length", {None})
    assert all(part["usage"] is None for part in parts)
    assert (usage["choices"], usage["usage"]) == ([], expected["usage"])
    # Ray Serve's own middleware adds the header on its path.
    ids = {part["id"] for part in parts}
    assert len(ids) == 1
    assert answer.headers.get("x-request-id", ids.pop().removeprefix("cmpl-")) in parts[0]["id"]


def test_openai_client_unchanged(server: LanguageServer, store: LanguageStore) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == [NAME, f"{NAME}:1"]
    assert client.models.retrieve(f"{NAME}:1").owned_by == "raydc"
    sampling = TokenSampling(0.8, 0.9, 11)
    asked = {"prompt": TEXTS[0][:12], "max_tokens": 16, "temperature": 0.8, "top_p": 0.9}
    expected = offline(store, TEXTS[0][:12], AnswerOptions(16, sampling))
    whole = client.completions.create(model=NAME, seed=11, **asked)
    assert whole.choices[0].text == expected.text
    parts = client.completions.create(model=f"{NAME}:1", seed=11, stream=True, **asked)
    assert "".join(part.choices[0].text for part in parts) == expected.text
    stop = expected.text[4:6]
    stopped = client.completions.create(model=NAME, seed=11, stop=[stop], **asked)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == expected.text[: expected.text.index(stop)]
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=NAME, prompt="a " * 200, max_tokens=4)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hi"}])


def test_what_the_client_leaves_open_fits_into_a_row(server: LanguageServer) -> None:
    num_prompt = ask(server, prompt=TEXTS[2], max_tokens=1).json()["usage"]["prompt_tokens"]
    prompt = TEXTS[2] + "x" * (LENGTH - num_prompt - 3)
    usage = ask(server, prompt=prompt).json()["usage"]
    assert usage["total_tokens"] == LENGTH
    assert usage["completion_tokens"] < 16
    # Sixteen where there is room, as with OpenAI.
    assert ask(server, prompt="a").json()["usage"]["completion_tokens"] == 16


def raw_stream(server: LanguageServer, **fields: Any) -> socket.socket:
    """A connection that has asked for a stream."""
    body = {"model": NAME, "prompt": "the", "max_tokens": 40, "stream": True, **fields}
    content = json.dumps(body).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(content), content)
    )
    return connection


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_whose_client_goes_is_ended(server: LanguageServer, is_stream: bool) -> None:
    admission = server.replica.service.admission
    slots = server.hold()
    connection = raw_stream(server, stream=is_stream)
    if is_stream:
        assert b"200 OK" in connection.recv(1000)
    wait_until(lambda: slots.num_steps == 1)
    assert admission.num_in_work == 1
    connection.close()
    # The pass still waits: it is not the end of the answer that frees the place.
    wait_until(lambda: admission.num_in_work == 0)
    slots.gate.set()
    assert ask(server, max_tokens=3).json()["usage"]["completion_tokens"] == 3
    # One step was begun for the first, and the second took two.
    assert slots.num_steps == 3


def test_client_that_goes_while_it_waits_leaves_the_queue(
    server: LanguageServer, store: LanguageStore
) -> None:
    server.configure(store.settings(auth="none", num_slots=1, max_queued_requests=1))
    slots = server.hold()
    admission = server.replica.service.admission
    try:
        first, second = raw_stream(server, max_tokens=4), raw_stream(server, max_tokens=4)
        wait_until(lambda: (admission.num_in_work, admission.num_waiting) == (1, 1))
        second.close()
        # The pass of the first still waits.
        wait_until(lambda: admission.num_waiting == 0)
        assert admission.num_in_work == 1
        first.close()
    finally:
        slots.gate.set()
        server.configure(store.settings(auth="none"))


def test_more_streams_than_slots_wait_and_the_queue_has_an_end(
    server: LanguageServer, store: LanguageStore
) -> None:
    settings = store.settings(auth="none", num_slots=2, max_queued_requests=1)
    server.configure(settings)
    slots = server.hold()
    try:
        streams = [raw_stream(server, max_tokens=4) for _ in range(3)]
        admission = server.replica.service.admission
        wait_until(lambda: (admission.num_in_work, admission.num_waiting) == (2, 1))
        refused = ask(server)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        slots.gate.set()
        for connection in streams:
            content = b""
            while not content.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                part = connection.recv(4096)
                assert part
                content += part
            connection.close()
    finally:
        slots.gate.set()
        server.configure(store.settings(auth="none"))


def test_a_stream_ends_on_its_version_and_a_new_one_begins_on_the_new(
    server: LanguageServer, store: LanguageStore
) -> None:
    expected = {version: offline(store, "one", AnswerOptions(24), version) for version in (1, 2)}
    assert expected[1].text != expected[2].text
    asked = {"prompt": "one", "max_tokens": 24, "temperature": 0, "stream": True}
    slots = server.hold()
    try:
        with httpx.stream(
            "POST", f"{server.url}/v1/completions", json={"model": NAME, **asked}, timeout=60
        ) as old:
            wait_until(lambda: slots.num_steps == 1)
            server.configure(store.settings(2, auth="none"))
            assert server.replica.service.loaded.keys() == {2}
            new = events_of(ask(server, **asked).text)
            slots.gate.set()
            old.read()
        for version, events in ((1, events_of(old.text)), (2, new)):
            assert events.pop() == "[DONE]"
            assert {event["model"] for event in events} == {f"{NAME}:{version}"}
            text = "".join(event["choices"][0]["text"] for event in events)
            assert text == expected[version].text
        assert old.headers["x-raydc-model-version"] == "1"
    finally:
        slots.gate.set()
        server.configure(store.settings(auth="none"))


def test_a_version_that_does_not_verify_is_refused_and_the_old_one_answers(
    server: LanguageServer, store: LanguageStore
) -> None:
    server.configure(store.settings(3, auth="none"))
    assert "golden" in server.replica.service.refused[3]
    assert ask(server).json()["model"] == f"{NAME}:1"
    server.configure(store.settings(auth="none"))


def test_a_pass_that_fails_is_500_or_the_last_event_of_a_stream(server: LanguageServer) -> None:
    slots = server.hold()
    slots.gate.set()
    slots.slots = None  # type: ignore[assignment]
    slots.prefill = lambda slot, codes, start: 1 / 0  # type: ignore[method-assign, assignment]
    slots.clear = lambda slot: None  # type: ignore[method-assign]
    failed = ask(server, stream=True)
    assert failed.status_code == 500
    assert failed.json()["error"]["type"] == "server_error"
    slots = server.hold(1)
    slots.slots.step = lambda codes: 1 / 0  # type: ignore[method-assign, assignment]
    body = {"model": NAME, "prompt": "the", "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as broken:
        # The first token has come.
        assert broken.status_code == 200
        slots.gate.set()
        broken.read()
    # A first token without a whole character has no event.
    *parts, last = events_of(broken.text)
    assert all(part["choices"][0]["finish_reason"] is None for part in parts)
    assert last["error"]["type"] == "server_error"
    server.hold().gate.set()
    assert ask(server).status_code == 200


def test_a_stream_that_stalls_or_takes_too_long_ends_with_an_error(
    server: LanguageServer, store: LanguageStore
) -> None:
    body = {"model": NAME, "prompt": "the", "max_tokens": 40, "stream": True}
    for fields, message in (
        ({"request_timeout_s": 0.3}, "no token within request_timeout_s = 0.3 s"),
        (
            {"stream_timeout_s": 0.3, "request_timeout_s": 600.0},
            "has not ended within generation.timeout_s = 0.3 s",
        ),
    ):
        server.configure(store.settings(auth="none", **fields))
        slots = server.hold()
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
        slots.gate.set()
        last = events_of(answer.text)[-1]
        assert last["error"]["code"] == "timeout"
        assert message in last["error"]["message"]
        wait_until(lambda: server.replica.service.admission.num_in_work == 0)
    # An answer in one piece has no status yet.
    server.configure(store.settings(auth="none", request_timeout_s=0.3))
    slots = server.hold()
    assert ask(server, max_tokens=5).status_code == 408
    slots.gate.set()
    server.configure(store.settings(auth="none"))


def test_the_access_log_counts_what_was_sent(server: LanguageServer) -> None:
    records: list[RequestRecord] = []
    gate = server.replica.gate
    before, gate._record = gate._record, records.append
    try:
        answer = ask(server, {"x-request-id": "counted"}, max_tokens=9, stream=True)
        # Requests of other tests may end only now.
        wait_until(lambda: any(one.request_id == "counted" for one in records))
    finally:
        gate._record = before
    (record,) = (one for one in records if one.request_id == "counted")
    assert record.status == 200
    assert record.tokens is not None
    assert record.tokens.num_answer == 9
    assert 0 < record.tokens.first_s <= record.tokens.last_s <= record.seconds
    assert record.bytes_out == len(answer.content)


def test_a_canary_is_named_by_those_who_may_promote(store: LanguageStore) -> None:
    traffic = Traffic(version=1, canary=TrafficShare(version=2, fraction=1e-9))
    tokens = TokenStore(store.storage, NAME)
    reader, owner = tokens.create("reader"), tokens.create("owner", ("read", "promote"))
    with LanguageServer(store.settings(traffic=traffic, auth="token")).running() as server:

        def status(model: str, token: str | None) -> tuple[int, Any]:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            body = {"model": model, "prompt": "a", "max_tokens": 1}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers)
            return answer.status_code, answer.json()

        assert status(NAME, None)[0] == 401
        assert status(NAME, None)[1]["error"]["code"] == "invalid_api_key"
        assert status(NAME, reader)[1]["model"] == f"{NAME}:1"
        assert status(f"{NAME}:1", reader)[1]["model"] == f"{NAME}:1"
        assert status(f"{NAME}:2", reader)[0] == 403
        assert status(f"{NAME}:2", owner)[1]["model"] == f"{NAME}:2"
        assert status(f"{NAME}:3", owner)[0] == 404
