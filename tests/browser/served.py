"""Endpoints for the browser: replicas behind uvicorn, without Ray, and models that read digits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import small_models
import torch
import uvicorn
from starlette.responses import Response

from raydc import bundle, models
from raydc.features import Features, Image, Signature
from raydc.features.images import encode_png
from raydc.registry import Registry
from raydc.serve.http.authentication import Authenticator
from raydc.serve.http.front import FrontHandler
from raydc.serve.http.request import Request
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage

START_TIMEOUT_S = 60.0
DIGITS = tuple("0123456789")


def register(store: Storage, name: str, features: Features, seed: int = 0) -> int:
    """Registers a version with random weights."""
    made = store / f"made-{name}-{seed}"
    small_models.write_bundle(made, features, seed, name)
    return Registry(store).register(
        name, made, {"run": name, "metrics": {"accuracy": 0.5, "num_rows": 40}}
    )


def train(
    store: Storage,
    name: str,
    model: dict[str, Any],
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any],
    epochs: int,
) -> int:
    """Trains a version that reads digits, in seconds, and registers it.

    Args:
        store: Storage of the registry.
        name: Name of the model.
        model: Section `model` of its spec.
        images: Grey levels [B, H, W].
        labels: Digits [B].
        epochs: Number of passes over the images.
    """
    height, width = images.shape[1:]
    moments = (float(images.mean()),), (float(images.std()),)
    signature = Signature("image", (1, height, width), "uint8", *moments, "classification", DIGITS)
    features = Features(signature, "digit", {"image": Image(height, width, 1)})
    spec = small_models.small_spec(store.uri, name, model)
    network = models.build(spec.model, signature, seed=0)
    with one_thread():
        fit(
            network,
            torch.from_numpy(images[:, None]),
            torch.from_numpy(labels.astype(np.int64)),
            epochs,
        )
    golden = [{"image": encode_png(pixels[:, :, None])} for pixels in images[:8]]
    made = store / f"made-{name}"
    bundle.write(made, spec, features, network.state_dict(), golden, {"run": name, "step": 100})
    return Registry(store).register(
        name, made, {"run": name, "metrics": {"accuracy": 0.97, "num_rows": 340}}
    )


def fit(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Uses one thread: in small steps several mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Served:
    """One model behind a URL of this machine.

    Args:
        store: Storage of the registry.
        model: Name of the model.
        fields: Settings that differ from those of a small spec.
    """

    def __init__(self, store: Storage, model: str, **fields: Any) -> None:
        self.model = model
        section = small_models.small_spec(store.uri).serve
        limits = {
            name: getattr(section, name) for name in Settings.model_fields if hasattr(section, name)
        }
        self._given = {**limits, "storage": store.uri, "model": model, **fields}
        self.service = Service()
        self._authenticator = Authenticator()
        self._front = FrontHandler(
            Routes(self.service, "0.1.0").respond, self.service, self._authenticator, lambda _: None
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app, "127.0.0.1", 0, interface="asgi3", log_level="warning", lifespan="off"
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)

        async def write(response: Response) -> bool:
            response.headers["x-request-id"] = request.id
            await response(scope, receive, send)
            return True

        await self._front.respond(request, write)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._configure(1)
        await self._server.serve()

    async def _configure(self, version: int) -> None:
        settings = Settings(**{**self._given, "traffic": Traffic(version=version)})
        await self._authenticator.configure(settings.storage, settings.model, settings.auth)
        await self.service.configure(settings)

    def promote(self, version: int) -> None:
        """Makes another version answer."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._configure(version), self._loop).result(
            START_TIMEOUT_S
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    @contextlib.contextmanager
    def running(self) -> Iterator[Served]:
        thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, f"no server within {START_TIMEOUT_S:g} s"
            time.sleep(0.01)
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(START_TIMEOUT_S)
