"""Helpers of endpoint tests: versions to register, requests without retries, a steady load."""

from __future__ import annotations

import contextlib
import http.client
import json
import operator
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ray
import small_models
from ray import serve as ray_serve

from raydc import checksummed_folder
from raydc.engine import serve_client, serve_environment
from raydc.errors import ServeError
from raydc.features import Features
from raydc.registry import Registry
from raydc.serve.control.readiness import fetch_replica_states
from raydc.storage import Storage

# So that replicas fit beside what other tests run.
SMALL = {"num_cpus": 0.1}
WAIT_S = 60.0
_NUM_CLIENTS = 4


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.1)


def wait_for_replicas(
    model: str, number: int = 1, settings: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """States of the replicas of a model.

    A router of Ray Serve may see none for a moment, or one too many, while a replica changes. So
    this waits until as many answer as the test expects.

    Args:
        model: Name of the model.
        number: Replicas that answer.
        settings: What each replica holds, by setting; None if that does not matter.
    """
    found: list[dict[str, Any]] = []

    def are_there() -> bool:
        found[:] = fetch_replica_states(model)
        return len(found) == number and all(
            state["settings"][name] == value
            for state in found
            for name, value in (settings or {}).items()
        )

    wait_for(are_there, f"{number} replica(s) of {model} with {settings}")
    return found


def register(
    storage: Storage,
    features: Features,
    seed: int,
    name: str = "small",
    golden_is_wrong: bool = False,
) -> int:
    made = storage / f"made-{name}-{seed}"
    small_models.write_bundle(made, features, seed, name)
    if golden_is_wrong:
        meta, files = checksummed_folder.read_checksummed(made)
        golden = json.loads(files["golden.json"])
        golden["outputs"][0][0] += 1.0
        checksummed_folder.write_checksummed(
            made, {**files, "golden.json": json.dumps(golden).encode()}, meta
        )
    return Registry(storage).register(name, made, {"seed": seed})


def ask(
    url: str, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request, without retries: status, headers and JSON."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.connect()
        # A body that is too large is refused before all of it is sent; the answer is there then.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                method,
                parts.path + path,
                body,
                {n.replace("_", "-"): v for n, v in headers.items()},
            )
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return response.status, received, json.loads(response.read())
    finally:
        connection.close()


def choose_port() -> int:
    """The port of Serve, which it cannot change while it runs, or a free one."""
    try:
        return serve_client.address()[1]
    except ServeError:
        return serve_environment.free_port("127.0.0.1")


def take_down() -> None:
    """Takes down all endpoints. Serve itself stays, for those of the next module."""
    if serve_client.applications():
        serve_client.apply([])
        wait_for(lambda: not ray_serve.status().applications, "no endpoint is left")


def serve_logs(model: str) -> list[str]:
    """Lines that replicas of a model have written into Ray Serve's folder of logs."""
    node = ray._private.worker._global_node
    folder = Path(node.get_logs_dir_path()) / "serve"
    return [
        line
        for file in sorted(folder.glob(f"replica_{model}_*"), key=lambda one: one.stat().st_mtime)
        for line in file.read_text().splitlines()
    ]


class ClientThreads(ABC):
    """Clients that run in threads inside a `with` block, which begins when all have answers.

    Attributes:
        num_ended: Requests of each client that have ended.
    """

    num_clients: int
    num_ended: list[int]

    @abstractmethod
    def ask_once(self, number: int, turn: int) -> None:
        """One request of one client, and what it records of it."""

    def has_failed(self) -> bool:
        """Whether it is no use to wait for more."""
        return False

    def grow(self, num_more: int = 3) -> None:
        """Waits for more requests of each client.

        The first of them may have begun before this call. Of three, the last two of all clients
        have begun after it, in whatever order they end.
        """
        wanted = [ended + num_more for ended in self.num_ended]
        wait_for(
            lambda: self.has_failed() or all(map(operator.ge, self.num_ended, wanted)),
            "more answers",
        )

    def _run(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            turn += 1
            self.ask_once(number, turn)
            self.num_ended[number] += 1

    def stop(self) -> None:
        """Lets each client end with its current request."""
        self._stop.set()

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self.num_ended = [0] * self.num_clients
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(self.num_clients)
        ]
        for thread in self._threads:
            thread.start()
        self.grow()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(WAIT_S)


@dataclass
class Load(ClientThreads):
    """A steady load: every answer is counted, none is tried again.

    `sequences` has the versions that each client saw, in its order, each once for as long as it
    stayed.
    """

    url: str
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=lambda: [""] * _NUM_CLIENTS)
    num_clients = _NUM_CLIENTS

    def has_failed(self) -> bool:
        return bool(self.failures)

    def grow(self, num_more: int = 8) -> None:
        super().grow(num_more)

    def ask_once(self, number: int, turn: int) -> None:
        body = json.dumps(small_models.table_rows(1, number)).encode()
        try:
            status, _, answer = ask(
                self.url,
                "POST",
                "/predict",
                body,
                content_type="application/json",
                x_raydc_key=f"client-{number}",
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(repr(error))
            return
        if status == 200:
            self.versions.append(answer["version"])
            if not self.sequences[number].endswith(answer["version"]):
                self.sequences[number] += answer["version"]
        else:
            self.failures.append(f"{status}: {answer}")
