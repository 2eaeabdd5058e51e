"""The Ray Serve application: what `import_path: raydc.serve.app:build` names.

One deployment, the ingress itself: a request goes from Serve's proxy to the replica that computes its answer
without another hop. A new version arrives as `user_config`, which changes a replica in place.
"""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from raydc.serve.settings import Settings

DEPLOYMENT = "Replica"


class Replica:
    """Answers HTTP requests with the version that `reconfigure` was told."""

    def __init__(self) -> None:
        # Here, because the task that calls `build` imports this module too, and needs no torch.
        from raydc.serve.routes import Routes
        from raydc.serve.service import Service

        # PIL warns of each oddity of a broken image, and Python keeps every text that it has warned of.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self.service = Service()
        self.routes = Routes(self.service, importlib.metadata.version("raydc"))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve before the first request and at every change of `user_config`."""
        await self.service.configure(Settings(**user_config))

    async def __call__(self, request: Request) -> Response:
        return await self.routes.respond(request)

    async def state(self) -> dict[str, Any]:
        """For `raydc.serve.deploy`, which asks every replica."""
        return {**self.service.state(), "pid": os.getpid(), "answered": dict(self.routes.answered)}


def build(args: dict[str, Any]) -> serve.Application:
    """The application; it has no arguments, because a change of them would restart every replica."""
    return serve.deployment(name=DEPLOYMENT)(Replica).bind()
