"""Sends real requests on each path to the own port before a replica is ready. Runs in the replica.

`check_head_limits` proves that heads which are too long or too slow are refused on a connection
that Ray Serve's own server accepted. `check_answers` sends the same requests down both paths and
compares what comes back. The requests are answered here, by an echo of what arrived, so they reach
no model, no access log and no metric of raydc. Ray Serve counts them: its counters must read the
same on both paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.responses import Response

from raydc.engine.direct_support import HEAD_TIMEOUT_S, MAX_HEAD_BYTES
from raydc.serve.direct import own_replica
from raydc.serve.direct.fast_path import Respond, Write
from raydc.serve.http.request import CLIENT_CLOSED, Request, json_response

Address = tuple[str, int]
Probes = dict[Address, "Probe"]
Answer = tuple[int, tuple[tuple[str, str], ...], bytes]

# Short, so that the check can wait until it has passed; connections of clients have the real one.
_PROBE_HEAD_TIMEOUT_S = 0.1
_MAX_BODY_BYTES = 1024 * 1024
# No status that Ray Serve counts as an error, and none that a model's answer has.
_ECHO_STATUS = 207
# These differ from one request to the next, on one path as well.
_VARYING_HEADERS = frozenset({"date"})
_OTHER_PROTOCOL = "Ray Serve's HTTP server does not use raydc's protocol"
# Larger than the buffers of uvicorn's flow control, so that the body arrives in several messages.
_LARGE_BODY = b"raydc" * 40_000


class CheckFailedError(Exception):
    """The direct path, or a limit on request heads, does not work as expected."""


@dataclass
class Probe:
    """A connection of the check.

    Attributes:
        is_direct: Its requests take the direct path.
        respond: Answers its requests.
        head_timeout_s: Longest time for the head of a request.
        is_seen: raydc's protocol serves it.
        problem: Why the direct path cannot be taken, or empty.
    """

    is_direct: bool
    respond: Respond
    head_timeout_s: float = HEAD_TIMEOUT_S
    is_seen: bool = False
    problem: str = ""


async def echo(request: Request, write: Write) -> int:
    """Answers with what arrived, and with Ray Serve's count of the requests in progress."""
    scope = request.scope
    body = await request.read(_MAX_BODY_BYTES)
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "root_path": scope.get("root_path", ""),
        "query": scope.get("query_string", b"").decode("latin-1"),
        "headers": sorted([name.decode(), value.decode()] for name, value in scope["headers"]),
        "body": hashlib.sha256(body).hexdigest(),
        "num_ongoing": own_replica.num_ongoing_requests(own_replica.find_replica()),
    }
    response: Response = json_response(seen, _ECHO_STATUS, {"x-raydc-check": "echo"})
    return response.status_code if await write(response) else CLIENT_CLOSED


async def check_head_limits(address: Address, probes: Probes) -> None:
    """Proves the limits on request heads at the port of this replica.

    Args:
        address: Host and port of the replica's HTTP server.
        probes: Connections of the check by their own address; raydc's protocol looks them up.

    Raises:
        CheckFailedError: The server does not use raydc's protocol, or a limit is not in force.
    """
    probe = Probe(False, echo)
    async with _connect(address, probes, probe) as (reader, writer):
        # One byte too many. More than that would be left unread, and reset the connection.
        start = b"GET / HTTP/1.1\r\nx: "
        writer.write(start + b"y" * (MAX_HEAD_BYTES + 1 - len(start)))
        await _expect_refusal(reader, probe, 431, f"a head of more than {MAX_HEAD_BYTES} bytes")
    probe = Probe(False, echo, _PROBE_HEAD_TIMEOUT_S)
    async with _connect(address, probes, probe) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        await _expect_refusal(reader, probe, 408, "a head that does not arrive in time")


async def _expect_refusal(
    reader: asyncio.StreamReader, probe: Probe, status: int, what: str
) -> None:
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            answer = await _read_answer(reader)
            is_closed = await reader.read() == b""
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
        found = f"it is not refused ({type(error).__name__})"
    else:
        if answer[0] == status and is_closed and "error" in json.loads(answer[2] or b"{}"):
            return
        found = f"the answer is {answer[0]}"
    if not probe.is_seen:
        raise CheckFailedError(_OTHER_PROTOCOL)
    raise CheckFailedError(f"{what} should be refused with {status}, but {found}")


async def check_answers(address: Address, probes: Probes) -> None:
    """Proves that both paths give the same answers.

    Args:
        address: Host and port of the replica's HTTP server.
        probes: As for `check_head_limits`.

    Raises:
        CheckFailedError: An answer differs, or a request stays in Ray Serve's count.
        ClusterError: Ray Serve is not as expected.
    """
    before = own_replica.num_ongoing_requests(own_replica.find_replica())
    prefix = own_replica.route_prefix(own_replica.find_replica())
    by_path = [
        await _ask_all(address, probes, Probe(is_direct, echo), prefix)
        for is_direct in (False, True)
    ]
    for sent, by_serve, directly in zip(_requests(prefix), *by_path, strict=True):
        if by_serve != directly:
            line = sent.partition(b"\r\n")[0].decode()
            raise CheckFailedError(
                f"{line!r} is answered differently: {_differences(by_serve, directly)}"
            )
    if directly[0] != _ECHO_STATUS:
        raise CheckFailedError(f"the echo is answered with {directly[0]}")
    # A request leaves the count just after its answer has been sent.
    for _ in range(100):
        if own_replica.num_ongoing_requests(own_replica.find_replica()) == before:
            return
        await asyncio.sleep(0.01)
    raise CheckFailedError("requests of the direct path stay in Ray Serve's count")


def _requests(prefix: str) -> list[bytes]:
    """Requests of one connection; the last one closes it."""
    path = prefix.rstrip("/").encode() + b"/raydc-start-check"
    head = b" HTTP/1.1\r\nhost: raydc\r\nx-request-id: check\r\n"
    chunks = b"5\r\nraydc\r\n3\r\nabc\r\n0\r\n\r\n"
    return [
        b"GET " + path + b"/a%20b?c=d&c=%C3%A9" + head + b"\r\n",
        b"HEAD " + path + head + b"\r\n",
        b"PUT " + path + head + b"content-length: 5\r\n\r\nraydc",
        b"PUT " + path + head + b"transfer-encoding: chunked\r\n\r\n" + chunks,
        b"PUT " + path + head + b"content-length: %d\r\n\r\n" % len(_LARGE_BODY) + _LARGE_BODY,
        b"GET " + path + head + b"connection: close\r\n\r\n",
    ]


async def _ask_all(address: Address, probes: Probes, probe: Probe, prefix: str) -> list[Answer]:
    """Answers to `_requests`, one after the other on one connection."""
    name = "the direct path" if probe.is_direct else "Ray Serve's path"
    answers = []
    try:
        async with _connect(address, probes, probe) as (reader, writer):
            for sent in _requests(prefix):
                writer.write(sent)
                await writer.drain()
                answers.append(await _read_answer(reader, has_body=not sent.startswith(b"HEAD")))
            if await reader.read() != b"":
                raise CheckFailedError(f"more follows the last answer on {name}")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        if not probe.is_seen:
            raise CheckFailedError(_OTHER_PROTOCOL) from error
        raise CheckFailedError(
            f"answer {len(answers) + 1} on {name} is incomplete ({type(error).__name__})"
        ) from error
    if probe.problem:
        raise CheckFailedError(probe.problem)
    return answers


def _differences(by_serve: Answer, directly: Answer) -> str:
    """What differs, short enough for a log line."""
    if by_serve[0] != directly[0]:
        return f"status {by_serve[0]} and {directly[0]}"
    if by_serve[1] != directly[1]:
        return f"headers {sorted(set(by_serve[1]) ^ set(directly[1]))}"
    return f"bodies {by_serve[2][:300]!r} and {directly[2][:300]!r}"


async def _read_answer(reader: asyncio.StreamReader, has_body: bool = True) -> Answer:
    """Status, headers in order of their names, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.rstrip("\r\n").split("\r\n")
    headers = []
    num_bytes = 0
    for one in rest:
        name, _, value = one.partition(":")
        name = name.strip().lower()
        if name == "content-length":
            num_bytes = int(value)
        headers.append((name, "" if name in _VARYING_HEADERS else value.strip()))
    body = await reader.readexactly(num_bytes) if has_body else b""
    return int(line.split()[1]), tuple(sorted(headers)), body


@contextlib.asynccontextmanager
async def _connect(
    address: Address, probes: Probes, probe: Probe
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that raydc's protocol recognises by the client's address."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as client:
        client.setblocking(False)
        # Bound first, so that the probe is known before the server accepts the connection.
        client.bind((address[0], 0))
        own: Address = client.getsockname()[:2]
        probes[own] = probe
        try:
            await asyncio.get_running_loop().sock_connect(client, address)
            reader, writer = await asyncio.open_connection(sock=client)
            try:
                yield reader, writer
            finally:
                writer.close()
        finally:
            del probes[own]
