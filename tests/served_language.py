"""A language model behind uvicorn in the test's own process, without Ray: on both paths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from in_process import spoil_golden
from language_models import NAME, language_spec, write_language_bundle
from starlette.requests import Request as StarletteRequest

from raydc import bundle
from raydc.bundle import Bundle
from raydc.bundle.completion import find_prompts
from raydc.models.cached_slots import Scores, SlotModel
from raydc.models.decoder_slots import make_slots
from raydc.registry import Registry
from raydc.serve import app
from raydc.serve.control.application import build_settings
from raydc.serve.direct.fast_path import FastPath
from raydc.serve.direct.head_limits import LimitedProtocol
from raydc.serve.replica.generation_engine import GenerationEngine
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage

WAIT_S = 60.0


class LanguageStore:
    """A registry with three versions: 1 and 2 are good, the golden rows of 3 do not match."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder / "store"))
        self.registry = Registry(self.storage)
        for seed in range(3):
            made = Storage(str(folder / f"bundle-{seed}"))
            write_language_bundle(made, seed)
            if seed == 2:
                spoil_golden(made)
            self.registry.register(NAME, made, {"run": NAME})

    def settings(self, version: int = 1, **fields: Any) -> Settings:
        section = language_spec(self.storage.uri).serve
        assert section is not None
        made = build_settings(NAME, section, self.storage, Traffic(version=version))
        return made.model_copy(update={"access_log": False, **fields})

    def bundle(self, version: int = 1) -> Bundle:
        return bundle.load(self.registry.folder(NAME, version))


@dataclass
class HeldSlots:
    """Slots whose passes wait until the test lets them go.

    Attributes:
        slots: The slots that compute.
        gate: Passes run while it is set.
        num_steps: Passes of one token that have begun.
    """

    slots: SlotModel
    gate: threading.Event = field(default_factory=threading.Event)
    num_steps: int = 0

    def __post_init__(self) -> None:
        self.num_slots, self.max_tokens = self.slots.num_slots, self.slots.max_tokens
        self.chunk_tokens, self.rows_per_pass = self.slots.chunk_tokens, self.slots.rows_per_pass

    def prefill(self, slot: int, codes: Sequence[int], start: int) -> Scores:
        return self.slots.prefill(slot, codes, start)

    def step(self, codes: Mapping[int, int]) -> Scores:
        self.num_steps += 1
        assert self.gate.wait(WAIT_S)
        return self.slots.step(codes)

    def clear(self, slot: int) -> None:
        self.slots.clear(slot)

    def assign(self, slot: int, adapter: Mapping[str, Any]) -> None:
        self.slots.assign(slot, adapter)


class NoAccounting:
    """Ray Serve's counts, of which there are none here."""

    route_prefix = "/"
    in_work = 0

    def begin(self) -> None:
        self.in_work += 1

    def end(self, method: str, status: int, seconds: float) -> None:
        self.in_work -= 1


class LanguageServer:
    """A replica behind a URL of this machine.

    Args:
        settings: Its settings.
        path: `direct`, or `serve` for the way that Ray Serve calls a replica.
    """

    def __init__(self, settings: Settings, path: str = "direct") -> None:
        self.replica = app.Replica("off")
        self.accounting = NoAccounting()
        self._settings = settings
        direct = FastPath(self._serve, self.accounting, self.replica.gate.respond)

        def prepare(protocol: LimitedProtocol) -> None:
            if path == "direct":
                protocol.app = direct

        config = uvicorn.Config(
            self._serve,
            "127.0.0.1",
            0,
            http=partial(LimitedProtocol, prepare=prepare),  # type: ignore[arg-type]
            interface="asgi3",
            log_level="critical",
            lifespan="off",
            proxy_headers=False,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self.replica(StarletteRequest(scope, receive))
        await response(scope, receive, send)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.replica.reconfigure(self._settings.model_dump(mode="json"))
        await self._server.serve()

    def configure(self, settings: Settings) -> None:
        """Changes the settings while it answers."""
        assert self._loop is not None
        change = self.replica.reconfigure(settings.model_dump(mode="json"))
        asyncio.run_coroutine_threadsafe(change, self._loop).result(WAIT_S)

    def hold(self, version: int = 1) -> HeldSlots:
        """Puts an engine whose passes wait into the place of that of a version."""
        service = self.replica.service
        loaded = service.loaded[version]
        slots = HeldSlots(make_slots(loaded.bundle.model, loaded.settings.num_slots))
        engine = GenerationEngine(slots, find_prompts(loaded.bundle))
        service.loaded[version] = replace(loaded, engine=engine)
        return slots

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[LanguageServer]:
        thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        thread.start()
        wait_until(lambda: self._server.started or not thread.is_alive())
        assert thread.is_alive(), "the server did not start"
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(WAIT_S)


def wait_until(is_true: Any) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s"
        time.sleep(0.01)


def events_of(content: str) -> list[Any]:
    """JSON of the events of a stream; the last one is `[DONE]` as text."""
    lines = content.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    texts = [line.removeprefix("data: ") for line in lines]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]
