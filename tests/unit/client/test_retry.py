"""Attempts, delays and deadlines against a server that fails on purpose."""

from __future__ import annotations

import socket
import threading
import time
from email.utils import formatdate
from http.server import ThreadingHTTPServer

import pytest
from scripted_endpoint import (
    DROP,
    OK,
    STALL,
    TRICKLE,
    Asking,
    Clock,
    Handler,
    Part,
    Scripted,
    ask_waiting,
    error,
)

from raydc.client import Client, async_client, replies, retry
from raydc.client import sync_client as waiting
from raydc.errors import RefusedError, UnavailableError

MAX_TEST_S = 20.0


@pytest.mark.parametrize(
    "passing",
    [
        error(503, "not ready"),
        error(429, "full"),
        (404, {}, b"Path '/predict' not found"),
        (408, {}, b"Request timed out"),
        (500, {}, b"Internal Server Error"),
        (502, {}, b"<html>"),
        (504, {}, b""),
        DROP,
    ],
)
def test_temporary_failures_are_retried(
    endpoint: Scripted, ask: Asking, clock: Clock, passing: Part
) -> None:
    endpoint.answers = [passing, passing, OK]
    ask(endpoint.url)
    assert len(endpoint.requests) == 3
    assert len(endpoint.ids) == 1, "one id for all attempts"
    assert clock.draws == [(0.0, 0.1), (0.0, 0.2)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 422, 500])
def test_refusal_is_final_and_keeps_the_endpoints_message(
    endpoint: Scripted, ask: Asking, clock: Clock, status: int
) -> None:
    endpoint.answers = [error(status, "rows[3].age: 'x' is not a number"), OK]
    with pytest.raises(
        RefusedError, match=rf"answered {status}: rows\[3\].age: 'x' is not a number"
    ) as refused:
        ask(endpoint.url)
    assert len(endpoint.requests) == 1
    assert refused.value.status == status
    assert {refused.value.request_id} == endpoint.ids


def test_redirect_names_the_other_address(endpoint: Scripted) -> None:
    endpoint.answers = [(308, {"location": "https://a/predict"}, b"")]
    with pytest.raises(RefusedError, match="The endpoint is at https://a/predict"):
        ask_waiting(endpoint.url)


def test_delays_are_random_and_double_up_to_a_limit(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [error(503, "not ready")]
    with pytest.raises(
        UnavailableError, match=r"within 30 s and 9 attempts: 503: not ready"
    ) as gone:
        ask(endpoint.url, max_retries=8)
    assert len(endpoint.requests) == 9
    assert clock.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(low == 0.0 for low, _ in clock.draws), "full jitter"
    assert (gone.value.status, {gone.value.request_id}) == (503, endpoint.ids)


def test_deadline_covers_attempts_and_delays(endpoint: Scripted, ask: Asking, clock: Clock) -> None:
    endpoint.answers = [error(503, "not ready")]
    with pytest.raises(UnavailableError, match=r"within 3 s"):
        ask(endpoint.url, timeout_s=3.0)
    assert sum(clock.slept) == pytest.approx(3.0), "the last delay ends with the time"
    assert len(endpoint.requests) == 5, "there is no attempt without time"


def test_call_can_override_timeout_and_request_id(endpoint: Scripted, clock: Clock) -> None:
    endpoint.answers = [error(503, "not ready")]
    with Client(endpoint.url) as one, pytest.raises(UnavailableError, match=r"within 0\.5 s"):
        one.predict([{}], timeout_s=0.5, request_id="q-1")
    assert endpoint.ids == {"q-1"}


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_delays_the_next_attempt(
    endpoint: Scripted, ask: Asking, clock: Clock, status: int
) -> None:
    endpoint.answers = [error(status, "full", retry_after="7"), OK]
    ask(endpoint.url)
    assert clock.slept == [7.1]


def test_retry_after_accepts_dates() -> None:
    def wanted_s(text: str) -> float:
        return retry.retry_after_s(replies.Reply(429, {"retry-after": text}, b"", "r"))

    assert 90.0 < wanted_s(formatdate(time.time() + 100, usegmt=True)) <= 100.0
    assert wanted_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert wanted_s("soon") == wanted_s("") == wanted_s("-5") == 0.0


def test_retry_after_beyond_the_deadline_fails_at_once(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [error(429, "full", retry_after="3600")]
    with pytest.raises(UnavailableError, match="full; the endpoint asks to wait 3600 s"):
        ask(endpoint.url)
    assert len(endpoint.requests) == 1
    assert clock.slept == []


def test_connections_are_reused(endpoint: Scripted, ask: Asking) -> None:
    ask(endpoint.url, 5)
    assert (len(endpoint.requests), endpoint.num_connections) == (5, 1)


def test_closed_idle_connection_costs_no_attempt(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [OK, DROP, error(503, "not ready"), OK]
    ask(endpoint.url, 2, max_retries=1)
    assert len(endpoint.requests) == 4
    assert clock.slept == [0.0, 0.1]


def test_broken_new_connection_counts_as_an_attempt(
    endpoint: Scripted, ask: Asking, clock: Clock
) -> None:
    endpoint.answers = [DROP, OK]
    with pytest.raises(UnavailableError, match="1 attempt: Server disconnected"):
        ask(endpoint.url, max_retries=0)


def test_closed_idle_connections_are_limited() -> None:
    call = retry.Call("a", "r", 30.0, 0)
    for _ in range(retry.MAX_IDLE_CONNECTIONS):
        call.start_attempt()
        assert call.delay_after_closed_connection("closed") == 0.0
    call.start_attempt()
    with pytest.raises(UnavailableError):
        call.delay_after_closed_connection("closed")


def test_refused_connection_is_retried_and_explains_serve(ask: Asking, clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnavailableError, match=r"4 attempts(.|\n)*raydc serve"):
        ask(f"http://127.0.0.1:{port}", max_retries=3)
    assert len(clock.slept) == 3


def test_endpoint_that_starts_late_is_reached(
    ask: Asking, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    servers: list[ThreadingHTTPServer] = []

    def start(delay_s: float) -> None:
        clock.now_s += delay_s
        if len(clock.draws) == 3:
            monkeypatch.setattr(Scripted, "address", ("127.0.0.1", port), raising=False)
            server = Scripted.__new__(Scripted)
            ThreadingHTTPServer.__init__(server, ("127.0.0.1", port), Handler)
            server.answers, server.requests, server.num_connections = [OK], [], 0
            servers.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()

    async def start_async(delay_s: float) -> None:
        start(delay_s)

    monkeypatch.setattr(waiting, "sleep", start)
    monkeypatch.setattr(async_client, "sleep", start_async)
    try:
        assert ask(f"http://127.0.0.1:{port}").version == "1"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize("how", ["silent", STALL, TRICKLE])
def test_deadline_ends_silent_stalled_and_slow_answers(
    endpoint: Scripted, ask: Asking, how: str
) -> None:
    endpoint.answers = [how]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}" if how == "silent" else endpoint.url
        with pytest.raises(UnavailableError, match=r"within 0\.2 s and 1 attempt: timed out"):
            ask(url, timeout_s=0.2)


def test_attempt_timeout_retries_a_stalled_answer(endpoint: Scripted, ask: Asking) -> None:
    endpoint.answers = [STALL, OK]
    assert ask(endpoint.url, attempt_timeout_s=0.2, timeout_s=MAX_TEST_S).version == "1"
    assert len(endpoint.requests) == 2
