"""The Ray Serve application: what `import_path: raydc.serve.app:build` names.

One deployment, the ingress itself: a request goes from Serve's proxy to the replica that computes its answer
without another hop. A new version arrives as `user_config`, which changes a replica in place.
"""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from raydc.engine import internals
from raydc.serve.settings import Settings

DEPLOYMENT = "Replica"


class Replica:
    """Answers HTTP requests with the version that `reconfigure` was told."""

    def __init__(self) -> None:
        # Here, because the task that calls `build` imports this module too, and needs no torch.
        from raydc.serve.direct import head_limits
        from raydc.serve.http.authentication import Authenticator
        from raydc.serve.http.front import FrontHandler
        from raydc.serve.http.routes import Routes
        from raydc.serve.replica.service import Service
        from raydc.serve.watch.endpoint_metrics import EndpointMetrics
        from raydc.serve.watch.monitor import Monitor

        # PIL warns of each oddity of a broken image, and Python keeps every text that it has warned of.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self.service = Service()
        self.access = Authenticator()
        self.monitor = Monitor(self.service, EndpointMetrics(), _access_log)
        self.routes = Routes(self.service, importlib.metadata.version("raydc"))
        self.gate = FrontHandler(
            self.routes.respond, self.service, self.access, self.monitor.record
        )
        self._short: tuple[Any, Any] | None = None
        # Serve starts the replica's own server when this is done.
        head_limits.limit(self._shorten)

    def _shorten(self, app: Any) -> Any:
        """The application for a connection of Serve's server: raydc's own, where Serve has not more to do."""
        from raydc.serve.direct import fast_path, serve_accounting

        if self._short is None or self._short[0] is not app:
            found = serve_accounting.of_application(app) if fast_path.is_possible() else None
            self._short = (
                app,
                app if found is None else fast_path.FastPath(app, found, self.gate.respond),
            )
        return self._short[1]

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve before the first request and at every change of `user_config`."""
        settings = Settings(**user_config)
        await self.access.configure(settings.storage, settings.model, settings.auth)
        await self.service.configure(settings)
        self.monitor.configure(settings)

    async def __call__(self, request: Request) -> Response:
        """Serve's way, where `_shorten` has left it."""
        from raydc.serve.http.request import Request

        responses: list[Response] = []

        async def keep(response: Response) -> bool:
            responses.append(response)
            return True

        await self.gate.respond(Request(request.scope, request.receive), keep)
        return responses[0]

    def __del__(self) -> None:
        """Called by Serve when the replica has answered its last request."""
        self.monitor.close()

    async def state(self) -> dict[str, Any]:
        """For `raydc.serve.control.deploy`, which asks every replica."""
        return {**self.service.state(), "pid": os.getpid(), "answered": dict(self.routes.answered)}


def _access_log(model: str) -> Path:
    """Where Serve has the logs of this replica's node, so that they are found together."""
    replica = serve.get_replica_context().replica_id.unique_id
    return Path(internals.get_serve_logs_dir()) / f"raydc_access_{model}_{replica}.jsonl"


def build(args: dict[str, Any]) -> serve.Application:
    """The application; it has no arguments, because a change of them would restart every replica."""
    return serve.deployment(name=DEPLOYMENT)(Replica).bind()
