"""The Ray Serve application that `import_path: raydc.serve.app:build` names. Runs in a replica.

It has one deployment, which is the ingress itself: a request goes from Serve's proxy straight to
the replica that computes its answer. A new version arrives as `user_config`, which changes a
replica in place.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from raydc.engine import internals
from raydc.serve.direct.decision import Decision
from raydc.serve.settings import Settings

if TYPE_CHECKING:
    from raydc.serve.direct.selection import PathSelection

DEPLOYMENT = "Replica"
# Memory that a replica keeps though it does not use it.
_KEPT_BYTES = 256 * 1024 * 1024

# Ray Serve sets the level of its own logger to WARNING here (see `control.application`); a child
# with a level of its own still reaches the handlers that write Serve's log files.
logger = logging.getLogger("ray.serve.raydc")
logger.setLevel(logging.INFO)


class Replica:
    """Answers HTTP requests with the versions of the last `reconfigure`.

    Args:
        direct: `serve.direct` of the spec: `auto` or `off`.
    """

    def __init__(self, direct: str = "auto") -> None:
        # Imported here: the task that calls `build` imports this module too and needs no torch.
        from raydc.models.allocator import begin_work
        from raydc.serve.http.authentication import Authenticator
        from raydc.serve.http.front import FrontHandler
        from raydc.serve.http.routes import Routes
        from raydc.serve.replica.service import Service
        from raydc.serve.watch.endpoint_metrics import EndpointMetrics
        from raydc.serve.watch.monitor import Monitor

        # PIL warns of each oddity of a broken image, and Python keeps the text of every warning.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self.service = Service()
        self.access = Authenticator()
        self.monitor = Monitor(self.service, EndpointMetrics(), _access_log)
        self.routes = Routes(self.service, importlib.metadata.version("raydc"))
        self.gate = FrontHandler(
            self.routes.respond, self.service, self.access, self.monitor.record
        )
        # `_decide` puts `PathSelection.answer_probe` here while it checks the direct path.
        self._respond: Callable[..., Awaitable[int]] = self.gate.respond
        self._decision: Decision | None = None
        # Streams on Ray Serve's path.
        self._streaming: set[asyncio.Future[int]] = set()
        # A replica may share its node with many.
        begin_work(_KEPT_BYTES)
        # Ray Serve starts the replica's HTTP server as soon as this constructor returns.
        self._selection = self._install(direct)

    def _install(self, direct: str) -> PathSelection | None:
        """Prepares the direct path, unless it is off or uvicorn is not as expected."""
        if direct == "off":
            self._set_decision(Decision.off())
            return None
        try:
            from raydc.serve.direct.selection import PathSelection

            selection = PathSelection(self.gate.respond)
            selection.install()
        except Exception as error:  # noqa: BLE001 - another uvicorn may fail in any way.
            self._set_decision(Decision.refused([f"uvicorn or Ray Serve differs: {error}"]))
            return None
        return selection

    def _set_decision(self, decision: Decision) -> None:
        self._decision = decision
        self.routes.request_path = decision.to_dict()
        limits = "; ".join(decision.missing_limits)
        logger.log(
            logging.INFO if decision.is_direct else logging.WARNING,
            "requests take %s path (%s)%s",
            "the direct" if decision.is_direct else "Ray Serve's",
            decision.reason,
            f"; not in force: {limits}" if limits else "",
        )
        # Ray Serve keeps lines in memory until there are a thousand, or one is an error.
        for handler in logging.getLogger("ray.serve").handlers:
            handler.flush()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Ray Serve before the first request and at every change of `user_config`."""
        settings = Settings(**user_config)
        await self.access.configure(settings.storage, settings.model, settings.auth)
        await self.service.configure(settings)
        self.monitor.configure(settings)
        if self._decision is None and self._selection is not None:
            await self._decide(self._selection)

    async def check_health(self) -> None:
        """Called by Ray Serve again and again; a replica whose health check fails is replaced.

        Raises:
            RuntimeError: What computes the answers has ended, and does not come back.
        """
        fault = self.service.fault
        if fault is not None:
            raise RuntimeError(fault)

    async def _decide(self, selection: PathSelection) -> None:
        """Checks the direct path once: the server listens, and no proxy knows the replica yet."""
        self._respond = selection.answer_probe
        try:
            self._set_decision(await selection.decide())
        finally:
            self._respond = self.gate.respond

    async def __call__(self, request: StarletteRequest) -> Response:
        """Answers a request that took Ray Serve's path."""
        from raydc.serve.http.request import Request
        from raydc.serve.http.streamed_response import StreamedResponse

        handed: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        async def hand_over(response: Response) -> bool:
            handed.set_result(response)
            # Ray Serve sends it when this method has returned; the request ends after that.
            return not isinstance(response, StreamedResponse) or await response.wait_until_sent()

        answering = asyncio.ensure_future(
            self._respond(Request(request.scope, request.receive), hand_over)
        )
        waited: set[asyncio.Future[Any]] = {handed, answering}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The client has gone.
            answering.cancel()
            raise
        if not handed.done():
            await answering
        response = handed.result()
        if isinstance(response, StreamedResponse):
            # The loop itself holds tasks weakly only.
            self._streaming.add(answering)
            answering.add_done_callback(self._streaming.discard)
        else:
            await answering
        return response

    def __del__(self) -> None:
        """Called by Ray Serve when the replica has answered its last request."""
        self.monitor.close()

    async def state(self) -> dict[str, Any]:
        """State of this replica; `raydc.serve.control.readiness` collects it from all replicas."""
        return {
            **self.service.state(),
            "pid": os.getpid(),
            "answered": dict(self.routes.answered),
            "request_path": self._decision.to_dict() if self._decision else None,
        }


def _access_log(model: str) -> Path:
    """The access log of a model, in the folder where Ray Serve keeps this node's logs."""
    replica = serve.get_replica_context().replica_id.unique_id
    return Path(internals.get_serve_logs_dir()) / f"raydc_access_{model}_{replica}.jsonl"


def build(args: dict[str, Any]) -> serve.Application:
    """Builds the application.

    Args:
        args: `direct`. It is an argument and not part of `user_config`, because it is needed
            before the HTTP server starts; a change replaces the replicas, one after the other.
    """
    return serve.deployment(name=DEPLOYMENT)(Replica).bind(args.get("direct", "auto"))
