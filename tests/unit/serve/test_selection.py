"""The path of a replica: direct if the check passes, else Ray Serve's with a reason."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from uvicorn.protocols.http import auto, httptools_impl

from raydc.engine import direct_support, internals
from raydc.serve.direct import fast_path, own_replica, selection, serve_accounting, start_check
from raydc.serve.direct.decision import Decision
from raydc.serve.direct.head_limits import LimitedProtocol
from raydc.serve.direct.selection import PathSelection
from raydc.serve.direct.serve_accounting import UnsupportedReplicaError
from raydc.serve.http.request import CLIENT_CLOSED, Request, json_response

WAIT_S = 20.0
REFUSE = LimitedProtocol._refuse


class FakeReplica:
    """Stands for Ray Serve's replica: its count of requests, its path, its own way to raydc."""

    def __init__(self) -> None:
        self.num_ongoing = 0
        self.route_prefix = "/small"
        self.answered_by_serve = 0
        self._http_options = SimpleNamespace(host="0.0.0.0")
        self._http_port = 0
        self._route_prefix = self.route_prefix
        self._metrics_manager = SimpleNamespace(get_num_ongoing_requests=lambda: self.num_ongoing)
        self.selection = PathSelection(self.respond)
        self.decision: Decision | None = None

    def begin(self) -> None:
        self.num_ongoing += 1

    def end(self, method: str, status: int, seconds: float) -> None:
        self.num_ongoing -= 1

    async def respond(self, request: Request, write: fast_path.Write) -> int:
        """raydc's own routes."""
        response = json_response({"path": request.scope["path"]})
        return response.status_code if await write(response) else CLIENT_CLOSED

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Ray Serve's path, down to the replica's `__call__`."""
        scope["root_path"] = self.route_prefix
        responses: list[Response] = []

        async def keep(response: Response) -> bool:
            responses.append(response)
            return True

        self.num_ongoing += 1
        self.answered_by_serve += 1
        request = StarletteRequest(scope, receive)
        respond = self.respond if self.decision else self.selection.answer_probe
        await respond(Request(request.scope, request.receive), keep)
        await responses[0](scope, receive, send)
        self.num_ongoing -= 1


def decide(
    monkeypatch: pytest.MonkeyPatch, replica: FakeReplica, **options: Any
) -> tuple[Decision, bool]:
    """Starts a server like Ray Serve's, checks it, and sends one more request.

    Returns:
        The decision, and whether that request took Ray Serve's path.
    """
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    monkeypatch.setattr(own_replica, "find_replica", lambda: replica)
    monkeypatch.setattr(serve_accounting, "find_accounting", options.pop("find", lambda _: replica))
    replica.selection.install()

    async def main() -> tuple[Decision, bool]:
        app = internals.RequestIdMiddleware(replica.serve)
        config = uvicorn.Config(
            app, "127.0.0.1", 0, log_level="critical", lifespan="off", interface="asgi3", **options
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(WAIT_S):
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            replica._http_port = port
            replica.decision = await replica.selection.decide()
            before = replica.answered_by_serve
            answer = await asyncio.to_thread(ask, port)
            assert answer == {"path": "/small/predict"}
        server.should_exit = True
        await serving
        return replica.decision, replica.answered_by_serve > before

    return asyncio.run(main())


def ask(port: int) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", "/small/predict")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_selection_takes_the_direct_path_if_the_check_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert decision.is_direct
    assert decision.has_head_limits
    assert decision.missing_limits == []
    assert "check at start passed with ray 2." in decision.reason
    assert not took_serves_path


def test_selection_falls_back_if_the_server_has_another_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start_check, "HEAD_TIMEOUT_S", 1.0)
    decision, took_serves_path = decide(monkeypatch, FakeReplica(), http="h11")
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, False, True)
    assert decision.reason == "Ray Serve's HTTP server does not use raydc's protocol"
    assert len(decision.missing_limits) == 4
    assert auto.AutoHTTPProtocol is httptools_impl.HttpToolsProtocol, "nothing stays behind"


def refuse_and_answer(protocol: Any, status: int, message: str) -> None:
    """Refuses a head, and answers the request as well."""
    close, protocol.transport.close = protocol.transport.close, lambda: None
    REFUSE(protocol, status, message)
    protocol.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    close()


@pytest.mark.parametrize(
    ("method", "changed", "reason"),
    [
        (
            "data_received",
            httptools_impl.HttpToolsProtocol.data_received,
            "should be refused with 431, but it is not refused",
        ),
        ("_start_timer", lambda _: None, "should be refused with 408, but it is not refused"),
        ("_refuse", refuse_and_answer, "should be refused with 431, but the answer is 431"),
    ],
)
def test_selection_falls_back_if_a_limit_is_not_in_force(
    monkeypatch: pytest.MonkeyPatch, method: str, changed: Any, reason: str
) -> None:
    monkeypatch.setattr(start_check, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(LimitedProtocol, method, changed)
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, False, True)
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("STATUS_LINE", dict.fromkeys(range(600), b"HTTP/1.1 200 OK\r\n"), "status 207 and 200"),
        ("STATUS_LINE", {}, "incomplete"),
        ("_write", lambda *_: None, "incomplete"),
    ],
)
def test_selection_falls_back_if_the_direct_path_answers_differently(
    monkeypatch: pytest.MonkeyPatch, name: str, changed: Any, reason: str
) -> None:
    monkeypatch.setattr(fast_path, name, changed)
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert reason in decision.reason
    assert [text[:8] for text in decision.missing_limits] == ["a client"]


def add_header(cycle: Any, response: Response) -> None:
    response.raw_headers.append((b"x-new", b"1"))


def reverse_body(cycle: Any, response: Response) -> None:
    response.body = bytes(response.body)[::-1]


def exceed_last_answer(cycle: Any, response: Response) -> None:
    response.body = bytes(response.body) + (b"" if cycle.keep_alive else b"more")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add_header, "headers [('x-new', '1')]"),
        (reverse_body, "is answered differently: bodies b"),
        (exceed_last_answer, "more follows the last answer on the direct path"),
    ],
)
def test_selection_falls_back_if_the_direct_path_changes_an_answer(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Response], None], reason: str
) -> None:
    write = fast_path._write

    async def changed(cycle: Any, request: Request, response: Response) -> bool:
        change(cycle, response)
        return await write(cycle, request, response)

    monkeypatch.setattr(fast_path, "_write", changed)
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert reason in decision.reason


def test_selection_falls_back_if_both_paths_answer_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def not_found(request: Request, write: fast_path.Write) -> int:
        await request.read(1024 * 1024)
        return 404 if await write(json_response({}, 404)) else CLIENT_CLOSED

    monkeypatch.setattr(start_check, "echo", not_found)
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert decision.reason == "the echo is answered with 404"


def test_selection_falls_back_if_the_check_fails_in_an_unknown_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: Any) -> None:
        raise AttributeError("another Ray")

    monkeypatch.setattr(start_check, "check_answers", fail)
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert decision.reason == "the check at start failed: AttributeError('another Ray')"


def test_selection_falls_back_if_requests_stay_in_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(FakeReplica):
        def begin(self) -> None:
            self.num_ongoing += 1 if self.num_ongoing == 0 else 0

        def end(self, method: str, status: int, seconds: float) -> None:
            pass

    decision, _ = decide(monkeypatch, Forgetful())
    assert (decision.is_direct, decision.has_head_limits) == (False, True)
    assert "stay in Ray Serve's count" in decision.reason


@pytest.mark.parametrize("package", ["ray", "uvicorn"])
def test_selection_falls_back_with_an_untested_version(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(direct_support.TESTED_VERSIONS, package, ("0.1",))
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert decision.reason.endswith("is not among the tested 0.1")


def test_selection_falls_back_if_the_replica_needs_serves_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(_: Any) -> Any:
        raise UnsupportedReplicaError("requests are traced")

    decision, took_serves_path = decide(monkeypatch, FakeReplica(), find=find)
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert decision.reason == "requests are traced"


def test_selection_falls_back_without_a_server_in_the_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = FakeReplica()
    replica._http_port = 0
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    monkeypatch.setattr(own_replica, "find_replica", lambda: replica)
    decision = asyncio.run(replica.selection.decide())
    assert (decision.is_direct, decision.has_head_limits) == (False, False)
    assert "Python proxy" in decision.reason


def test_selection_falls_back_if_the_check_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(selection, "_CHECK_TIMEOUT_S", 1.0)
    monkeypatch.setattr(start_check, "check_answers", forever)
    decision, took_serves_path = decide(monkeypatch, FakeReplica())
    assert (decision.is_direct, decision.has_head_limits, took_serves_path) == (False, True, True)
    assert "more than 1 s" in decision.reason


def test_process_without_a_replica_says_so() -> None:
    replica: Callable[[], Any] = own_replica.find_replica
    with pytest.raises(Exception, match="no replica of Ray Serve"):
        replica()
