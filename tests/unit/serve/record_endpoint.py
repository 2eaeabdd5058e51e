"""An endpoint without a server, for rows of several fields."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from in_process import Store, body, post

from raydc.features import Features
from raydc.serve.http.request import Request
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service


class RecordEndpoint:
    """An endpoint of a small bundle, which is asked in this process.

    Args:
        folder: Empty folder for the registry.
        features: Features of the bundle.
    """

    def __init__(self, folder: Path, features: Features) -> None:
        service = Service()
        self.settings = Store(folder, features).settings(max_request_rows=50)
        asyncio.run(service.configure(self.settings))
        self.routes = Routes(service, "0.0")
        assert service.current is not None
        self.bundle, self.interface = service.current.bundle, service.current.interface

    def ask(self, path: str, content: Any) -> tuple[int, Any]:
        """Status and content of the answer to JSON."""
        return self.respond(post(path, content))

    def respond(self, asked: Request) -> tuple[int, Any]:
        """Status and content of the answer to a request."""
        answer = asyncio.run(self.routes.respond(asked))
        return answer.status_code, body(answer)

    def offline(self, rows: list[dict[str, Any]]) -> Any:
        """What the model predicts without an endpoint."""
        x = self.bundle.features.apply(self.bundle.features.from_json_rows(rows))
        return self.bundle.features.decode(self.bundle.forward(x))
