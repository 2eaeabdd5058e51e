"""An endpoint of a Ray of its own, and what is done to it: versions, replicas, kill -9."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray import serve as ray_serve

from bench import paced
from raydc import engine, serve
from raydc.errors import ServeError
from raydc.registry import Registry
from raydc.serve.app import DEPLOYMENT
from raydc.serve.control import application as application_module
from raydc.serve.control import rollout
from raydc.serve.control.readiness import fetch_replica_states
from raydc.serve.settings import Settings
from raydc.storage import Storage

ALIAS = "production"
WAIT_TIMEOUT_S = 90.0


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)


class Stage:
    """An endpoint of the paced network: versions 1 and 2 are good, 3 has wrong golden rows."""

    def __init__(self, folder: Path, least_s: float = 0.002) -> None:
        self.storage = Storage(str(folder / "store"))
        self.file = folder / "computed.txt"
        self.least_s = least_s
        given = paced.spec_of(self.storage, self.file, least_s)
        for golden_is_wrong in (False, False, True):
            paced.register(self.storage, given, golden_is_wrong)
        self.url = ""

    def deploy(self, min_replicas: int, max_replicas: int | None = None, **section: Any) -> None:
        """Deploys the version of the alias, or changes the endpoint, and waits for the replicas.

        Args:
            min_replicas: What is waited for; with 0 nothing is.
            max_replicas: Default: `min_replicas`.
            section: More fields of the section `serve`; those of `autoscaling_config` as a mapping.
        """
        autoscaling = {
            "min_replicas": min_replicas,
            "max_replicas": max_replicas or min_replicas,
            **section.pop("autoscaling_config", {}),
        }
        given = paced.spec_of(
            self.storage, self.file, self.least_s, autoscaling_config=autoscaling, **section
        )
        version = Registry(self.storage).aliases(paced.NAME).get(ALIAS, 1)
        self.url = serve.deploy(given, self.storage, version).url
        if min_replicas:
            wait_for(lambda: self.num_replicas() == min_replicas, f"{min_replicas} replicas")

    def num_replicas(self) -> int:
        """Replicas that run and answer; 0 while one is starting or stopping."""
        application = ray_serve.status().applications.get(paced.NAME)
        deployment = application.deployments.get(DEPLOYMENT) if application else None
        states = deployment.replica_states if deployment else {}
        return states.get("RUNNING", 0) if set(states) <= {"RUNNING"} else 0

    def is_idle(self) -> bool:
        """No replica is there, not even one that stops."""
        return not processes("ray::ServeReplica")

    def versions(self) -> list[int]:
        """The version that each replica answers with."""
        return [
            state["settings"]["traffic"]["version"] for state in fetch_replica_states(paced.NAME)
        ]

    def num_in_work(self) -> int:
        """Requests that have a place in a replica; -1 while none is seen, as while one changes."""
        states = fetch_replica_states(paced.NAME)
        return sum(int(state["in_work"]) for state in states) if states else -1

    def _settings(self) -> Settings:
        application = application_module.find_application(paced.NAME)
        if application is None:
            raise LookupError("nothing is deployed")
        return application_module.read_settings(application)

    # What is done to it ---------------------------------------------------------------------------

    def promote(self, version: int = 2) -> None:
        serve.promote(self.storage, paced.NAME, ALIAS, version)

    def promote_bad(self) -> None:
        with contextlib.suppress(ServeError):
            serve.promote(self.storage, paced.NAME, ALIAS, 3)
            raise AssertionError("a version whose golden rows are wrong was promoted")

    def rollback(self) -> None:
        serve.rollback(self.storage, paced.NAME, ALIAS)

    def canary(self) -> None:
        """Half of the requests for a while."""
        rollout.start(self.storage, paced.NAME, ALIAS, "canary", 2, 0.5)
        time.sleep(1.0)
        rollout.end(self.storage, paced.NAME, ALIAS, "canary")

    def kill_controller(self) -> None:
        (old,) = processes("ray::ServeController")
        kill(old)
        wait_for(lambda: bool(set(processes("ray::ServeController")) - {old}), "another controller")
        wait_for(lambda: self.num_replicas() > 0, "a controller that knows its replicas")

    def promote_without_controller(self) -> None:
        """kill -9 of the controller when a promotion is on its way; another one sees it through."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.promote, 2)
            wait_for(lambda: self._settings().staged != () or done.done(), "a promotion on its way")
            self.kill_controller()
            done.result(timeout=WAIT_TIMEOUT_S)

    def kill_replica(self) -> None:
        """Kills one, and waits until there are as many as before."""
        replicas = processes("ray::ServeReplica")
        kill(replicas[0])
        wait_for(
            lambda: bool(set(processes("ray::ServeReplica")) - set(replicas)), "another replica"
        )
        wait_for(lambda: self.num_replicas() == len(replicas), "as many replicas as before")

    def kill_proxy(self) -> None:
        """Kills HAProxy, all processes of it, and waits for another that answers."""
        for pid in (old := processes("haproxy")):
            kill(pid)
        wait_for(lambda: bool(set(processes("haproxy")) - set(old)), "another HAProxy")


def processes(title: str) -> list[int]:
    """Ids of those whose command begins so, among what this process has started, and no others."""
    return [pid for pid in descendants(os.getpid()) if _command(pid).startswith(title)]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [
            int(child) for task in tasks for child in (task / "children").read_text().split()
        ]
        return [*children, *(one for child in children for one in descendants(child))]
    return []


def _command(pid: int) -> str:
    """Name of a process's command, without its folder; empty for a zombie or a dead process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0].rpartition("/")[2]
    return ""


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """With more logical CPUs than the machine may have: replicas of a bench ask for little."""
    engine.connect(num_cpus=4)
    try:
        yield
    finally:
        serve.shutdown()
        engine.disconnect()
