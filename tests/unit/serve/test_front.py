"""The outermost handler: authenticator to each path, and the record of each request."""

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
    "/predict", "/invocations", "/v2", "/v2/models/small", "/v2/models/small/infer",
    "/v2/models/small/ready", "/v2/health", "/v2/health/live/x", "/docs", "/openapi.json",
    "/healthz/x", "/x/ping", "/%2e", "/predict/../ping",
]  # fmt: skip


class Versions(Service):
    """Holds versions 1, 2 (the canary) and 3 (the shadow), without their models."""

    def __init__(self, storage: Storage, auth: str) -> None:
        super().__init__()
        traffic = Traffic(
            version=1,
            canary=TrafficShare(version=2, fraction=0.5),
            shadow=TrafficShare(version=3, fraction=1.0),
        )
        limits = ("max_", "batch_", "request_")
        self.settings = Settings(
            storage=storage.uri,
            model="small",
            alias="production",
            traffic=traffic,
            auth=auth,
            **{name: 1 for name in Settings.model_fields if name.startswith(limits)},
        )
        self.loaded = {number: Version(number) for number in (1, 2, 3)}  # type: ignore[misc]


class Version:
    """A loaded version as the handler knows it: by its number."""

    def __init__(self, number: int) -> None:
        self.number, self.version = number, str(number)


async def no_body() -> None:
    raise AssertionError("the front handler reads no body")


class Front:
    """The handler before routes that answer everything, with tokens of each kind."""

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
        self.records: list[RequestRecord] = []
        self.reached: list[str] = []

    def __call__(
        self, path: str, token: str | None = None, method: str = "GET", **more: Any
    ) -> Response:
        return asyncio.run(self._send(path, token, method, **more))

    async def _send(
        self,
        path: str,
        token: str | None,
        method: str,
        answer: Callable[[Request], Awaitable[Response]] | None = None,
        headers: dict[str, str] | None = None,
        root_path: str = "",
        client_stays: bool = True,
    ) -> Response:
        authenticator = Authenticator()
        await authenticator.configure(self.storage.uri, "small", self.auth)

        async def respond(sent: Request) -> Response:
            self.reached.append(path)
            if answer is not None:
                return await answer(sent)
            return Response(b"answer", 200, {"x-raydc-model-version": "2"})

        given = {
            **({"authorization": f"Bearer {self.tokens[token]}"} if token else {}),
            **(headers or {}),
        }
        scope = {
            "type": "http", "method": method, "path": root_path + path, "root_path": root_path,
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "query_string": b"", "client": ("10.0.0.7", 5),
        }  # fmt: skip
        try:
            handler = FrontHandler(
                respond, Versions(self.storage, self.auth), authenticator, self.records.append
            )
            answers: list[Response] = []

            async def write(response: Response) -> bool:
                answers.append(response)
                return client_stays

            status = await handler.respond(Request(scope, no_body), write)
            assert status == (answers[0].status_code if client_stays else 499)
            return answers[0]
        finally:
            authenticator.close()


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return Front(tmp_path)


@pytest.mark.parametrize("root_path", ["", "/small"])
def test_front_without_token_opens_health_and_page_only(front: Front, root_path: str) -> None:
    for path in OPEN:
        assert front(path, root_path=root_path).status_code == 200, path
    for path in CLOSED:
        assert front(path, root_path=root_path).status_code == 401, path
        assert front(path, method="POST", root_path=root_path).status_code == 401, path
    assert front.reached == OPEN
    for path in CLOSED:
        assert front(path, "reader", root_path=root_path).status_code == 200, path


def test_front_refusal_is_json_with_request_id(front: Front) -> None:
    response = front("/predict", headers={"x-request-id": "r-7"})
    body = json.loads(bytes(response.body))
    assert body.keys() == {"error", "request_id"}
    assert body["request_id"] == "r-7"
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("version", "token", "status"),
    [
        ("1", "reader", 200), ("1", "releaser", 200), ("1", "odd", 403),
        ("2", "reader", 403), ("2", "releaser", 200), ("3", "reader", 403), ("3", "releaser", 200),
        ("02", "reader", 403),
        # The routes say that these are not there.
        ("4", "reader", 200), ("x", "reader", 200),
    ],
)  # fmt: skip
def test_front_version_not_public_needs_right_to_promote(
    front: Front, version: str, token: str, status: int
) -> None:
    for end in ("", "/infer", "/ready", "/infer/x"):
        response = front(f"/v2/models/small/versions/{version}{end}", token)
        assert response.status_code == status, end
    assert len(front.reached) == (4 if status == 200 else 0)


def test_front_auth_none_opens_every_path(tmp_path: Path) -> None:
    front = Front(tmp_path, auth="none")
    for path in (*OPEN, *CLOSED, "/v2/models/small/versions/3/infer"):
        assert front(path).status_code == 200, path


# Records -----------------------------------------------------------------------------------------


def test_record_answered_request_has_every_field(front: Front) -> None:
    async def answer(sent: Request) -> Response:
        sent.rows, sent.version = 3, "2"
        # As if the routes had come to it late; the times of its tokens begin there, too.
        sent.began_s -= 100
        return Response(b"12345", 200)

    headers = {"x-request-id": "r-1", "content-length": "77", "x-forwarded-for": "192.0.2.1"}
    front("/predict", "reader", "POST", answer=answer, headers=headers)
    (record,) = front.records
    assert record._replace(time_s=0, seconds=0) == RequestRecord(
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
    assert record.time_s > 1e9
    assert record.seconds > 100


@pytest.mark.parametrize(("version", "role"), [("1", "stable"), ("2", "canary"), ("3", "shadow")])
def test_record_role_is_that_of_the_version(front: Front, version: str, role: str) -> None:
    async def answer(sent: Request) -> Response:
        sent.version = version
        return Response(b"", 200)

    front("/predict", "reader", answer=answer)
    assert front.records[0].role == role


def test_record_refused_request_is_written(front: Front) -> None:
    front("/predict", headers={"content-length": "9" * 400})
    (record,) = front.records
    assert (record.status, record.token, record.version) == (401, "", "")
    assert (record.role, record.bytes_in) == ("", 0)
    front("/v2/models/small/versions/2/infer", "reader")
    assert [(record.status, record.token) for record in front.records[1:]] == [(403, "reader")]


def test_record_cancelled_request_has_status_499(front: Front) -> None:
    async def answer(_: Request) -> Response:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        front("/predict", "reader", answer=answer)
    assert front.records[0].status == 499


def test_record_answer_not_received_has_status_499(front: Front) -> None:
    front("/predict", "reader", client_stays=False)
    (record,) = front.records
    assert (record.status, record.bytes_out, record.token) == (499, 0, "reader")
