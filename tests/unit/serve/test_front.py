"""The gate: whom it lets to which path, and what it says of each request afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from raydc.serve.http import page
from raydc.serve.http.authentication import Authenticator
from raydc.serve.http.front import FrontHandler
from raydc.serve.http.request import Request
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic, TrafficShare
from raydc.serve.watch.request_record import RequestRecord
from raydc.storage import Storage
from raydc.tokens import TokenStore

OPEN = [
    "/v2/health/live",
    "/v2/health/ready",
    "/healthz",
    "/ping",
    "/",
    *(f"/{name}" for name in page.NAMES if name),
]
CLOSED = [
    "/predict", "/invocations", "/v2", "/v2/models/small", "/v2/models/small/infer", "/docs", "/openapi.json",
    "/v2/models/small/ready", "/v2/health", "/v2/health/live/x", "/healthz/x", "/x/ping", "/%2e", "/predict/../ping",
]  # fmt: skip


class Versions(Service):
    """Holds versions 1, 2 (the canary) and 3 (the shadow), as far as a gate asks."""

    def __init__(self, storage: Storage, auth: str) -> None:
        super().__init__()
        traffic = Traffic(
            version=1,
            canary=TrafficShare(version=2, fraction=0.5),
            shadow=TrafficShare(version=3, fraction=1.0),
        )
        self.settings = Settings(
            storage=storage.uri, model="small", alias="production", traffic=traffic, auth=auth,
            **{name: 1 for name in Settings.model_fields if name.startswith(("max_", "batch_", "request_"))},
        )  # fmt: skip
        self.loaded = {number: Version(number) for number in (1, 2, 3)}  # type: ignore[misc]


class Version:
    def __init__(self, number: int) -> None:
        self.number, self.version = number, str(number)


async def no_body() -> None:
    raise AssertionError("the gate reads no body")


class Door:
    """A gate with tokens of each kind."""

    def __init__(self, folder: Path, auth: str = "token") -> None:
        self.storage = Storage(str(folder / "store"))
        tokens = TokenStore(self.storage, "small")
        self.tokens = {
            name: tokens.create(name, rights)
            for name, rights in (
                ("reader", ("read",)),
                ("releaser", ("read", "promote")),
                ("odd", ("promote",)),
            )
        }
        self.auth = auth
        self.seen: list[RequestRecord] = []
        self.reached: list[str] = []

    def __call__(
        self, path: str, token: str | None = None, method: str = "GET", **more: Any
    ) -> Response:
        return asyncio.run(self._ask(path, token, method, **more))

    async def _ask(
        self,
        path: str,
        token: str | None,
        method: str,
        answer: Callable[[Request], Awaitable[Response]] | None = None,
        headers: dict[str, str] | None = None,
        root_path: str = "",
        client_stays: bool = True,
    ) -> Response:
        access = Authenticator()
        await access.configure(self.storage.uri, "small", self.auth)

        async def respond(asked: Request) -> Response:
            self.reached.append(path)
            if answer is not None:
                return await answer(asked)
            return Response(b"answer", 200, {"x-raydc-model-version": "2"})

        given = {
            **({"authorization": f"Bearer {self.tokens[token]}"} if token else {}),
            **(headers or {}),
        }
        scope = {
            "type": "http", "method": method, "path": root_path + path, "root_path": root_path,
            "headers": [(name.encode(), value.encode()) for name, value in given.items()], "query_string": b"",
            "client": ("10.0.0.7", 5),
        }  # fmt: skip
        try:
            gate = FrontHandler(
                respond, Versions(self.storage, self.auth), access, self.seen.append
            )
            answers: list[Response] = []

            async def write(response: Response) -> bool:
                answers.append(response)
                return client_stays

            status = await gate.respond(Request(scope, no_body), write)
            assert status == (answers[0].status_code if client_stays else 499)
            return answers[0]
        finally:
            access.close()


@pytest.fixture
def ask(tmp_path: Path) -> Door:
    return Door(tmp_path)


@pytest.mark.parametrize("root_path", ["", "/small"])
def test_health_and_page_are_open_and_nothing_else(ask: Door, root_path: str) -> None:
    for path in OPEN:
        assert ask(path, root_path=root_path).status_code == 200, path
    for path in CLOSED:
        assert ask(path, root_path=root_path).status_code == 401, path
        assert ask(path, method="POST", root_path=root_path).status_code == 401, path
    assert ask.reached == OPEN
    for path in CLOSED:
        assert ask(path, "reader", root_path=root_path).status_code == 200, path


def test_a_refusal_is_json_with_the_request_id(ask: Door) -> None:
    response = ask("/predict", headers={"x-request-id": "r-7"})
    body = json.loads(bytes(response.body))
    assert body.keys() == {"error", "request_id"}
    assert body["request_id"] == "r-7"
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("version", "token", "status"),
    [
        ("1", "reader", 200), ("1", "releaser", 200), ("1", "odd", 403),
        ("2", "reader", 403), ("2", "releaser", 200), ("3", "reader", 403), ("3", "releaser", 200),
        ("02", "reader", 403), ("4", "reader", 200), ("x", "reader", 200),  # The routes say that these are not there.
    ],
)  # fmt: skip
def test_a_version_that_is_not_public_takes_the_right_to_promote(
    ask: Door, version: str, token: str, status: int
) -> None:
    for end in ("", "/infer", "/ready", "/infer/x"):
        response = ask(f"/v2/models/small/versions/{version}{end}", token)
        assert response.status_code == status, end
    assert len(ask.reached) == (4 if status == 200 else 0)


def test_none_lets_everybody_everywhere(tmp_path: Path) -> None:
    ask = Door(tmp_path, auth="none")
    for path in (*OPEN, *CLOSED, "/v2/models/small/versions/3/infer"):
        assert ask(path).status_code == 200, path


# What is seen -----------------------------------------------------------------------------------------------


def test_an_answered_request_is_seen_whole(ask: Door) -> None:
    async def answer(asked: Request) -> Response:
        asked.rows = 3
        return Response(b"12345", 200, {"x-raydc-model-version": "2"})

    headers = {"x-request-id": "r-1", "content-length": "77", "x-forwarded-for": "192.0.2.1"}
    ask("/predict", "reader", "POST", answer=answer, headers=headers)
    (seen,) = ask.seen
    assert seen._replace(time_s=0, seconds=0) == RequestRecord(
        0,
        "r-1",
        "10.0.0.7",
        "192.0.2.1",
        "POST",
        "/predict",
        200,
        "small",
        "2",
        "canary",
        3,
        0,
        77,
        5,
        "reader",
    )
    assert seen.time_s > 1e9
    assert 0 < seen.seconds < 60


@pytest.mark.parametrize(("version", "role"), [("1", "stable"), ("2", "canary"), ("3", "shadow")])
def test_the_role_is_that_of_the_version(ask: Door, version: str, role: str) -> None:
    async def answer(asked: Request) -> Response:
        return Response(b"", 200, {"x-raydc-model-version": version})

    ask("/predict", "reader", answer=answer)
    assert ask.seen[0].role == role


def test_refused_and_odd_requests_are_seen_as_well(ask: Door) -> None:
    ask("/predict", headers={"content-length": "9" * 400})
    (seen,) = ask.seen
    assert (seen.status, seen.token, seen.version, seen.role, seen.bytes_in) == (401, "", "", "", 0)
    ask("/v2/models/small/versions/2/infer", "reader")
    assert [(seen.status, seen.token) for seen in ask.seen[1:]] == [(403, "reader")]


def test_a_client_that_goes_away_is_seen(ask: Door) -> None:
    async def answer(asked: Request) -> Response:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        ask("/predict", "reader", answer=answer)
    assert ask.seen[0].status == 499


def test_an_answer_that_nobody_gets_is_seen_so(ask: Door) -> None:
    ask("/predict", "reader", client_stays=False)
    (seen,) = ask.seen
    assert (seen.status, seen.bytes_out, seen.token) == (499, 0, "reader")
