"""Starts Ray Serve on a Ray that raydc did not start, with HAProxy edited there too. In the driver.

A Ray that raydc starts has the path of a program in its environment that edits the configuration
and becomes HAProxy. Another one may not, and HAProxy would run as Serve wrote it, without raydc's
limits. So Serve is started by a task that has the path in its own environment, which Serve's
controller and proxies inherit. That is done only if every node can run the program: a proxy does
not start without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from raydc.engine import internals, serve_environment

PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
_NAME = "raydc-haproxy"
# Answers of a node that are not a path: it has the program set, has another one, or can run none.
_SET, _OTHER, _CANNOT = _NOT_A_PATH = ("has it set", "has another one set", "cannot run it")
_WITHOUT = (_OTHER, _CANNOT)
_NODES_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 240.0
_RUN_TIMEOUT_S = 20.0


def start_serve(location: str, host: str, port: int, edits_haproxy: bool) -> None:
    """Starts Serve's controller and proxies.

    Args:
        location: Ray Serve's `proxy_location`.
        host: Address that the proxies listen on.
        port: Port that they listen on.
        edits_haproxy: Whether HAProxy gets raydc's rules where that is possible.

    Raises:
        ray.exceptions.RayError: The proxies did not start.
        TimeoutError: They did not start in time.
    """
    import ray

    program = None if internals.is_own_ray() or not edits_haproxy else _find_program()
    if program is None:
        _start(location, host, port)
        return
    start = ray.remote(num_cpus=0, max_retries=0)(_start)
    environment = {"env_vars": {PROGRAM: program}}
    reference = start.options(runtime_env=environment).remote(location, host, port)
    ray.get(reference, timeout=_START_TIMEOUT_S)


def _start(location: str, host: str, port: int) -> None:
    from ray import serve

    serve.start(proxy_location=location, http_options={"host": host, "port": port})


def will_edit_haproxy() -> bool:
    """Whether a Serve that starts on this Ray has HAProxy with raydc's rules on every node."""
    # The environment of raydc's own Ray has been chosen already.
    if internals.is_own_ray():
        return True
    return set(_ask_nodes().values()) == {_SET} or _find_program() is not None


def nodes_without_program() -> list[str]:
    """Each node that cannot run raydc's HAProxy, or has another one set, with that in words."""
    return [f"{node} {answer}" for node, answer in _ask_nodes().items() if answer in _WITHOUT]


def _find_program() -> str | None:
    """Path at which every node can run raydc's HAProxy; None if there is none."""
    found = set(_ask_nodes().values())
    # Only a path that is the same on all nodes: one that joins later has to find it, too.
    return next(iter(found)) if len(found) == 1 and found.isdisjoint(_NOT_A_PATH) else None


def _ask_nodes() -> dict[str, str]:
    """The answer of each node by its name; see `_look`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    installed = shutil.which(_NAME, path=os.path.dirname(sys.executable))
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # Several nodes of one machine share its address.
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        asked[name] = look.options(scheduling_strategy=there).remote(
            installed, may_write=len(nodes) == 1
        )
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_NODES_TIMEOUT_S)
    return {name: _answer(answer) for name, answer in asked.items()}


def _answer(reference: Any) -> str:
    import ray

    try:
        return str(ray.get(reference, timeout=0))
    # A node that went away meanwhile, or is too busy to say.
    except (ray.exceptions.RayError, TimeoutError):
        return _CANNOT


def _look(installed: str | None, may_write: bool) -> str:
    """Says which program a node can run as its HAProxy. Runs on that node.

    Args:
        installed: Path of `raydc-haproxy` at the driver.
        may_write: Whether the node may write one of its own, if it cannot run that.

    Returns:
        Its path; or `_SET` or `_OTHER` if Ray was started with one there, or `_CANNOT`.
    """
    given = os.environ.get(PROGRAM)
    if given:
        return _SET if os.path.basename(given) == _NAME else _OTHER
    if installed is not None and _runs(installed):
        return installed
    if may_write:
        written = serve_environment.write_program(Path(internals.session_folder()))
        if _runs(str(written)):
            return str(written)
    return _CANNOT


def _runs(program: str) -> bool:
    """Whether a program becomes HAProxy: one of an older raydc, say, would not."""
    try:
        ran = subprocess.run(
            [program, "-v"], capture_output=True, timeout=_RUN_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return ran.returncode == 0 and b"HAProxy" in ran.stdout
