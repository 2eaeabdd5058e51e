"""Outermost handler of a replica: checks access to every request, and records the outcome.

Health and the files of the page reveal nothing about the model and are open to everybody.
Everything else needs the right to `read`. A version that is not the public one, named by its number
in the path, needs the right to `promote`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from raydc.serve.http import page
from raydc.serve.http.authentication import ANYONE, Authenticator, require_right
from raydc.serve.http.request import CLIENT_CLOSED, Request, error_response
from raydc.serve.http.streamed_response import StreamedResponse
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.service import Service
from raydc.serve.watch.request_record import RequestRecord
from raydc.tokens import Token

OPEN_PATHS = page.NAMES | {"v2/health/live", "v2/health/ready", "healthz", "ping"}


class FrontHandler:
    """Checks access and records the outcome of each request; the routes answer it.

    Args:
        respond: Answers a request that has passed the check. Never raises for what a client or a
            model does.
        service: Holds the versions and their roles, which decide the right that is needed.
        authenticator: Finds the token of each request, or refuses the request.
        record: Called after each request, once its outcome is known.
    """

    def __init__(
        self,
        respond: Callable[[Request], Awaitable[Response]],
        service: Service,
        authenticator: Authenticator,
        record: Callable[[RequestRecord], None],
    ) -> None:
        self._respond = respond
        self._service = service
        self._authenticator = authenticator
        self._record = record

    async def respond(self, request: Request, write: Callable[[Response], Awaitable[bool]]) -> int:
        """Answers any request.

        Args:
            request: Request whose body has not been read yet.
            write: Sends the response; returns False if the client has closed its connection.

        Returns:
            Status of the response; `CLIENT_CLOSED` if the client did not get it.
        """
        # A date for the log. The duration is of a clock that no change of the date disturbs.
        time_s = time.time()
        token = ANYONE
        response: Response | None = None
        status = CLIENT_CLOSED
        try:
            try:
                if request.subpath not in OPEN_PATHS:
                    token = self._authenticator.check(request.header(b"authorization"))
                    self._check_rights(token, request.segments)
                request.access = token
                response = await self._respond(request)
            except RequestError as error:
                response = error_response(request, error)
            if await write(response):
                status = response.status_code
        finally:
            # `response` is None if the task was cancelled; such a request is recorded as well.
            if isinstance(response, StreamedResponse):
                # Nobody sent it if the task was cancelled before.
                response.close()
            # From where the times of its tokens begin.
            seconds = time.perf_counter() - request.began_s
            self._record(self._make_record(request, token, response, status, time_s, seconds))
        return status

    def _check_rights(self, token: Token, segments: list[str]) -> None:
        """Raises RequestError 403 if a token does not allow a path."""
        require_right(token, "read")
        names_version = segments[:2] == ["v2", "models"] and segments[3:4] == ["versions"]
        if names_version and len(segments) > 4:
            loaded = self._service.find(segments[4])
            # An unknown version passes: the routes answer 404.
            if loaded is not None and self._role_of(loaded.version) != "stable":
                require_right(token, "promote")

    def _role_of(self, version: str) -> str:
        traffic = self._service.traffic
        if traffic is None or version == str(traffic.version):
            return "stable"
        is_canary = traffic.canary is not None and version == str(traffic.canary.version)
        return "canary" if is_canary else "shadow"

    def _make_record(
        self,
        request: Request,
        token: Token,
        response: Response | None,
        status: int,
        time_s: float,
        seconds: float,
    ) -> RequestRecord:
        settings, scope, version = self._service.settings, request.scope, request.version
        is_sent = response is not None and status != CLIENT_CLOSED
        return RequestRecord(
            time_s=time_s,
            request_id=request.id,
            # ASGI servers may not know the client, as behind a Unix socket.
            client=(scope.get("client") or ("",))[0],
            forwarded_for=request.header(b"x-forwarded-for"),
            method=scope["method"],
            path=scope["path"],
            status=status,
            model=settings.model if settings is not None else "",
            version=version,
            role=self._role_of(version) if version else "",
            rows=request.rows,
            seconds=seconds,
            bytes_in=_parse_length(request.header(b"content-length")),
            bytes_out=_sent_bytes(response) if response is not None and is_sent else 0,
            token=token.name,
            tokens=request.tokens,
        )


def _sent_bytes(response: Response) -> int:
    return response.num_bytes if isinstance(response, StreamedResponse) else len(response.body)


def _parse_length(text: str) -> int:
    """Declared length of a body; 0 if it is missing or not a number."""
    # A client may declare hundreds of digits; the routes refuse such a request.
    return int(text) if text.isdecimal() and len(text) < 16 else 0
