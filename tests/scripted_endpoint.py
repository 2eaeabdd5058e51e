"""An HTTP server on loopback that answers by a script and fails on purpose, and both clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from raydc.client import AsyncClient, Client

Answer = tuple[int, dict[str, str], bytes]


Part = Answer | str  # Or one of the ways to fail, see `Handler`.


OK: Answer = (200, {}, b'{"predictions": [{"value": 1.0}], "model": "m", "version": "1"}')


DROP, STALL, TRICKLE = "drop", "stall", "trickle"


class Scripted(ThreadingHTTPServer):
    """Gives its answers one after the other, the last one for ever; keeps the requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Part] = [OK]
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.num_connections = 0
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ids(self) -> set[str]:
        return {headers["x-request-id"] for _, _, headers, _ in self.requests}


class Handler(BaseHTTPRequestHandler):
    """Answers by the script: DROP closes at once, STALL stops in an answer, TRICKLE takes long."""

    server: Scripted
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.num_connections += 1

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        answers = self.server.answers
        part = answers.pop(0) if len(answers) > 1 else answers[0]
        status, more, content = part if isinstance(part, tuple) else OK
        if part == DROP:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if part == STALL:
            self.wfile.write(content[:5])
            self.wfile.flush()
            self.rfile.read(1)  # Until the client goes away.
            self.close_connection = True
            return
        pieces = [bytes([one]) for one in content] if part == TRICKLE else [content]
        for piece in pieces:
            time.sleep(0.05 * (part == TRICKLE))
            self.wfile.write(piece)

    do_GET = do_POST = answer

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        return


class Clock:
    """Time that passes only while the client sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.draws: list[tuple[float, float]] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s

    async def sleep_async(self, delay_s: float) -> None:
        self.sleep(delay_s)

    def uniform(self, low: float, high: float) -> float:
        self.draws.append((low, high))
        return high


Asking = Callable[..., Any]


def ask_waiting(
    url: str, calls: int = 1, *, method: str = "predict", given: Any = ([{}],), **options: Any
) -> Any:
    with Client(url, **options) as one:
        for _ in range(calls):
            result = getattr(one, method)(*given)
        return result


def ask_awaited(
    url: str, calls: int = 1, *, method: str = "predict", given: Any = ([{}],), **options: Any
) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **options) as one:
            for _ in range(calls):
                result = await getattr(one, method)(*given)
            return result

    return asyncio.run(run())


def error(status: int, message: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": message, "request_id": "r"}).encode()


def binary_answer(outputs: list[tuple[dict[str, Any], bytes]]) -> Answer:
    named = [
        {**output, "parameters": {"binary_data_size": len(content)}} for output, content in outputs
    ]
    header = json.dumps({"model_name": "m", "model_version": "3", "outputs": named}).encode()
    body = b"".join([header, *(content for _, content in outputs)])
    return 200, {"inference-header-content-length": str(len(header))}, body
