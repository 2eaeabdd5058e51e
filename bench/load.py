"""Generates load on an endpoint in its own process; each request becomes a line of a file.

    python -m bench.load URL FILE --clients 4 --pace 0.01 [--library]     closed loop
    python -m bench.load URL FILE --clients 2 --pictures A.png B.jpg       pictures, in turn
    python -m bench.load URL FILE --rate 1000                             open loop

Clients of the closed loop wait for their answer; the open loop sends at its rate whatever happens.
Without `--library` nothing is retried. Each client has one connection and its own key. The process
ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp

from raydc.client import AsyncClient
from raydc.errors import RaydcError

REQUEST_TIMEOUT_S = 30.0
LIBRARY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 90.0
MAX_OPEN = 3000
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Request:
    """One request: when it began (Unix time), how long it took, who answered or what failed."""

    client: int
    began_s: float
    took_s: float
    version: str | None
    status: int
    failure: str | None = None
    retry_after: str | None = None

    @property
    def ended_s(self) -> float:
        return self.began_s + self.took_s


# What came of it ----------------------------------------------------------------------------------


def failures(requests: Iterable[Request]) -> Counter[str]:
    return Counter(request.failure for request in requests if request.failure is not None)


def percentile_s(requests: Iterable[Request], fraction: float) -> float:
    """Of those that were answered; NaN without any."""
    took = sorted(request.took_s for request in requests if request.failure is None)
    return took[min(len(took) - 1, int(fraction * len(took)))] if took else float("nan")


def changes(requests: Iterable[Request]) -> dict[int, list[str]]:
    """Lists the versions that each client saw, in order, without immediate repetitions."""
    seen: dict[int, list[str]] = {}
    for request in sorted(requests, key=lambda one: one.began_s):
        versions = seen.setdefault(request.client, [])
        if request.version is not None and versions[-1:] != [request.version]:
            versions.append(request.version)
    return seen


def outage_s(requests: Iterable[Request]) -> float:
    """Seconds from the first failure to the first answer after the last; 0 without a failure."""
    failed = [request for request in requests if request.failure is not None]
    if not failed:
        return 0.0
    last_s = max(request.ended_s for request in failed)
    answered = [
        request.ended_s
        for request in requests
        if request.failure is None and request.ended_s >= last_s
    ]
    return min(answered, default=last_s) - min(request.began_s for request in failed)


# The side that starts it --------------------------------------------------------------------------


class Load:
    """A process that asks, as long as the `with` block lasts.

    Args:
        url: The endpoint.
        rows: What each request has.
        file: For its records.
        options: Further ones of the command.
        waits: Whether the block begins with the first answer; else at once.
    """

    def __init__(
        self,
        url: str,
        rows: list[dict[str, Any]],
        file: Path,
        *options: str,
        waits: bool = True,
    ) -> None:
        self.file = file
        self._waits = waits
        self._command = [
            sys.executable,
            "-m",
            "bench.load",
            url,
            str(file),
            "--rows",
            json.dumps(rows),
            *options,
        ]

    def __enter__(self) -> Load:
        self.file.write_text("")
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, cwd=_ROOT)
        if self._waits:
            self.wait_for_more(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=END_TIMEOUT_S)

    def requests(self, from_s: float = 0.0, until_s: float = float("inf")) -> list[Request]:
        """Those that ended after `from_s` and began before `until_s`."""
        with self.file.open() as file:
            made = [Request(*json.loads(line)) for line in file if line.endswith("\n")]
        return [one for one in made if one.ended_s >= from_s and one.began_s <= until_s]

    def wait_for_more(self, count: int, timeout_s: float = END_TIMEOUT_S) -> None:
        """Waits for answers that are still to come."""
        now_s, deadline = time.time(), time.monotonic() + timeout_s
        while (
            sum(one.failure is None and one.began_s >= now_s for one in self.requests(now_s))
            < count
        ):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(
                    f"no {count} answers within {timeout_s:g} s: "
                    f"{failures(self.requests(now_s)).most_common(3)}"
                )
            time.sleep(0.05)


# The side that asks -------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=json.loads, default=[])
    parser.add_argument("--pictures", type=Path, nargs="+")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pace", type=float, default=0.01)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--library", action="store_true")
    options = parser.parse_args()
    with options.file.open("a", buffering=1) as file:
        asyncio.run(_run(options, file))


async def _run(options: argparse.Namespace, file: IO[str]) -> None:
    def note(*values: Any) -> None:
        file.write(json.dumps(values) + "\n")

    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    body = json.dumps({"rows": options.rows}).encode()
    pictures = [path.read_bytes() for path in options.pictures or ()]
    if options.rate:
        await _flood(options, body, note, ended)
        return
    ask = _ask_library if options.library else _ask_plainly
    clients = [
        asyncio.create_task(
            ask(options, index, pictures[index % len(pictures)] if pictures else body, note, ended)
        )
        for index in range(options.clients)
    ]
    await asyncio.gather(*clients)


Note = Callable[..., None]
Ended = asyncio.Future[str]


async def _ask_plainly(
    options: argparse.Namespace, client: int, body: bytes, note: Note, ended: Ended
) -> None:
    async with _session(1) as session:
        while not ended.done():
            await _post(session, options.url, client, body, note, bool(options.pictures))
            await asyncio.sleep(options.pace)


async def _ask_library(
    options: argparse.Namespace, client: int, _: bytes, note: Note, ended: Ended
) -> None:
    async with AsyncClient(
        options.url, key=f"client-{client}", timeout_s=LIBRARY_TIMEOUT_S
    ) as library:
        while not ended.done():
            began_s, started = time.time(), time.perf_counter()
            version, failure = None, None
            try:
                version = (await library.predict(options.rows)).version
            except RaydcError as error:
                failure = str(error)
            note(
                client,
                began_s,
                time.perf_counter() - started,
                version,
                200 if version else 0,
                failure,
            )
            await asyncio.sleep(options.pace)


async def _flood(options: argparse.Namespace, body: bytes, note: Note, ended: Ended) -> None:
    async with _session(0) as session:
        tasks: set[asyncio.Task[None]] = set()
        started, count = time.perf_counter(), 0
        while not ended.done():
            due = int((time.perf_counter() - started) * options.rate)
            for _ in range(max(0, min(due - count, MAX_OPEN - len(tasks)))):
                task = asyncio.create_task(_post(session, options.url, count, body, note))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                count += 1
            count = due
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)


def _sentence(content: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)["error"])
    return content[:100].decode(errors="replace")


def _session(limit: int) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit), timeout=timeout)


async def _post(
    session: aiohttp.ClientSession,
    url: str,
    client: int,
    body: bytes,
    note: Note,
    is_picture: bool = False,
) -> None:
    # Which kind of picture it is is found in its bytes.
    kind = "image/png" if is_picture else "application/json"
    headers = {"content-type": kind, "x-raydc-key": f"client-{client}"}
    began_s, started = time.time(), time.perf_counter()
    version = failure = retry_after = None
    status = 0
    try:
        async with session.post(f"{url}/predict", data=body, headers=headers) as response:
            content, status = await response.read(), response.status
            retry_after = response.headers.get("retry-after")
        if status == 200:
            version = json.loads(content)["version"]
        else:
            failure = f"{status}: {_sentence(content)}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        failure = repr(error)[:100]
    note(client, began_s, time.perf_counter() - started, version, status, failure, retry_after)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
