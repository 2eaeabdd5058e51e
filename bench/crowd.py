"""Holds many connections that ask for nothing or very slowly, in its own process.

    python -m bench.crowd URL {idle,head,body} COUNT

- idle: one half never sends a byte, the other half has asked for the health once.
- head: each sends the head of a request, one byte a second.
- body: each sends a head that announces a body, and then one byte of it a second.

A connection that the endpoint closes or refuses is opened again a second later. The process prints
a line of JSON when it has tried all of them once, and a second one when its standard input is
closed, and then ends.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
import urllib.parse
from collections import Counter, deque
from pathlib import Path
from typing import Any

KINDS = ("idle", "head", "body")
_ROOT = Path(__file__).resolve().parent.parent
_PERIOD_S = 1.0
# Connections are opened at this rate, so that the queue of the listening socket does not overflow.
_OPENED_PER_S = 1000
_TICK_S = 0.02
# Addresses of this machine, so that no client runs out of ports.
_NUM_SOURCES = 8
_TIMEOUT_S = 60.0


class Crowd:
    """The process, for as long as the `with` block lasts.

    Attributes:
        at_start: What had become of the connections when all had been tried once.
        at_end: The same, when the block ends.
    """

    def __init__(self, url: str, kind: str, count: int) -> None:
        self.at_start: dict[str, Any] = {}
        self.at_end: dict[str, Any] = {}
        self._command = [sys.executable, "-m", "bench.crowd", url, kind, str(count)]

    def __enter__(self) -> Crowd:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True
        )
        assert self._process.stdout is not None
        self.at_start = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate(timeout=_TIMEOUT_S)
        self.at_end = json.loads(output)


class _Connections:
    """All connections of one kind."""

    def __init__(self, url: str, kind: str, count: int) -> None:
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._kind = kind
        self._count = count
        host = f"HTTP/1.1\r\nhost: {parts.hostname}\r\n".encode()
        self._health = b"GET " + parts.path.encode() + b"/healthz " + host + b"\r\n"
        self._begin = {
            "idle": b"",
            "head": b"G",
            "body": b"POST "
            + parts.path.encode()
            + b"/predict "
            + host
            + b"content-type: application/json\r\ncontent-length: 100000\r\n\r\n",
        }[kind]
        self._head = b"ET " + parts.path.encode() + b"/healthz " + host + b"x: " + b"y" * 100_000
        self._selector = selectors.DefaultSelector()
        # Connection -> bytes that it has sent one by one; None for one that has asked.
        self._open: dict[socket.socket, int | None] = {}
        self._due: deque[tuple[float, int]] = deque((0.0, index) for index in range(count))
        self._indices: dict[socket.socket, int] = {}
        self._next: deque[tuple[float, socket.socket]] = deque()
        self.tried = 0
        self.seen: Counter[str] = Counter()

    def report(self) -> str:
        return json.dumps({"open": len(self._open), **self.seen})

    def step(self) -> None:
        """Opens what is due, sends what is due, and reads what has arrived."""
        now_s = time.monotonic()
        for _ in range(int(_OPENED_PER_S * _TICK_S)):
            if not self._due or self._due[0][0] > now_s:
                break
            self._connect(self._due.popleft()[1])
            self.tried += 1
        while self._next and self._next[0][0] <= now_s:
            due_s, connection = self._next.popleft()
            if connection in self._open:
                self._send_byte(connection)
                self._next.append((due_s + _PERIOD_S, connection))
        for key, _ in self._selector.select(_TICK_S):
            self._read(key.fileobj)  # type: ignore[arg-type]

    def _connect(self, index: int) -> None:
        connection = socket.socket()
        # Only where the endpoint is at a loopback address, of which there are many.
        if self._address[0].startswith("127."):
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{2 + index % _NUM_SOURCES}", 0))
        connection.settimeout(_PERIOD_S)
        self._indices[connection] = index
        asks = self._kind == "idle" and index % 2 == 1
        try:
            connection.connect(self._address)
            connection.setblocking(False)
            connection.send(self._health if asks else self._begin)
        except OSError as error:
            self._close(connection, type(error).__name__)
            return
        self._open[connection] = None if self._kind == "idle" else 0
        self._selector.register(connection, selectors.EVENT_READ)
        if self._kind != "idle":
            # Not all at once: spread over the period.
            self._next.append((time.monotonic() + _PERIOD_S, connection))

    def _send_byte(self, connection: socket.socket) -> None:
        num_sent = self._open[connection] or 0
        try:
            connection.send(self._head[num_sent : num_sent + 1] if self._kind == "head" else b"[")
        except OSError as error:
            self._close(connection, type(error).__name__)
            return
        self._open[connection] = num_sent + 1

    def _read(self, connection: socket.socket) -> None:
        try:
            content = connection.recv(65536)
        except OSError as error:
            self._close(connection, type(error).__name__)
            return
        if not content:
            self._close(connection, "closed")
        elif content.startswith(b"HTTP/1.1 "):
            self.seen[content[9:12].decode()] += 1
            if b"\r\ncontent-type: text/html" in content.lower():
                self.seen["html"] += 1

    def _close(self, connection: socket.socket, reason: str) -> None:
        self.seen[reason] += 1
        if self._open.pop(connection, -1) != -1:
            self._selector.unregister(connection)
        connection.close()
        self._due.append((time.monotonic() + _PERIOD_S, self._indices.pop(connection)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    raise_file_limit()
    # Elsewhere it has a machine of its own, and takes no time from the endpoint's.
    os.nice(10)
    connections = _Connections(options.url, options.kind, options.count)
    while connections.tried < options.count:
        connections.step()
    print(connections.report(), flush=True)
    ended = selectors.DefaultSelector()
    ended.register(sys.stdin, selectors.EVENT_READ)
    while not ended.select(0):
        connections.step()
    print(connections.report(), flush=True)


def raise_file_limit() -> int:
    """As many open files as this process may have; returns their number."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


if __name__ == "__main__":
    main()
