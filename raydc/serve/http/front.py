"""What every request passes: who asks is checked before anything is looked at, and what came of it is seen.

Everybody may ask for health and for the files of the page, which know nothing of the model. All else needs the right
to `read`, and a version that is not the public one, by its number in the path, the right to `promote`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from raydc.serve.http import page
from raydc.serve.http.authentication import ANYONE, Authenticator, demand
from raydc.serve.http.request import GONE, Request, refuse
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.service import Service
from raydc.serve.watch.request_record import RequestRecord
from raydc.tokens import Token

_OPEN = page.NAMES | {"v2/health/live", "v2/health/ready", "healthz", "ping"}


class FrontHandler:
    """Stands before the routes.

    Args:
        respond: Answers a request that may be answered; never raises for what a client or a model does.
        service: For the versions and who may ask them.
        access: For the tokens.
        see: Is told of each request.
    """

    def __init__(
        self,
        respond: Callable[[Request], Awaitable[Response]],
        service: Service,
        access: Authenticator,
        see: Callable[[RequestRecord], None],
    ) -> None:
        self._respond = respond
        self._service = service
        self._access = access
        self._see = see

    async def respond(self, asked: Request, write: Callable[[Response], Awaitable[bool]]) -> int:
        """Answers any request.

        Args:
            asked: The request.
            write: Sends the answer; gives False when there is nobody any more to send it to.

        Returns:
            The status; `GONE` when nobody got the answer.
        """
        time_s, started = time.time(), time.perf_counter()
        token = ANYONE
        response: Response | None = None
        status = GONE
        try:
            try:
                if asked.place not in _OPEN:
                    token = self._access.check(asked.text(b"authorization"))
                    self._demand(token, asked.path)
                response = await self._respond(asked)
            except RequestError as error:
                response = refuse(asked, error)
            if await write(response):
                status = response.status_code
        finally:
            # Without a response, the task has been cancelled.
            self._see(
                self._seen(asked, token, response, status, time_s, time.perf_counter() - started)
            )
        return status

    def _demand(self, token: Token, path: list[str]) -> None:
        """Raises RequestError where a token is not enough for a path."""
        demand(token, "read")
        if path[:2] == ["v2", "models"] and path[3:4] == ["versions"] and len(path) > 4:
            loaded = self._service.find(path[4])
            if loaded is not None and self._role(loaded.version) != "stable":
                demand(token, "promote")

    def _role(self, version: str) -> str:
        traffic = self._service.traffic
        if traffic is None or version == str(traffic.version):
            return "stable"
        return (
            "canary"
            if traffic.canary is not None and version == str(traffic.canary.version)
            else "shadow"
        )

    def _seen(
        self,
        asked: Request,
        token: Token,
        response: Response | None,
        status: int,
        time_s: float,
        took_s: float,
    ) -> RequestRecord:
        settings, scope = self._service.settings, asked.scope
        version = ""
        for name, value in response.raw_headers if response is not None else ():
            if name == b"x-raydc-model-version":
                version = value.decode()
        return RequestRecord(
            time_s=time_s,
            request_id=asked.id,
            client=(scope.get("client") or ("",))[0],
            forwarded_for=asked.text(b"x-forwarded-for"),
            method=scope["method"],
            path=scope["path"],
            status=status,
            model=settings.model if settings is not None else "",
            version=version,
            role=self._role(version) if version else "",
            rows=asked.rows,
            seconds=took_s,
            bytes_in=_number(asked.text(b"content-length")),
            bytes_out=len(response.body) if response is not None and status != GONE else 0,
            token=token.name,
        )


def _number(text: str) -> int:
    """A declared length; 0 where there is none, or one that is no number."""
    return int(text) if text.isdecimal() and len(text) < 16 else 0
