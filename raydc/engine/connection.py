"""The connection to Ray. Runs in the driver.

raydc attaches to the cluster of `--address` or `RAY_ADDRESS`. Without either it starts a local
Ray, which ends with this process. Supervision, restarts, placement and autoscaling are Ray's.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydc.engine import internals, interruption, ray_start, serve_environment, usable_cpus
from raydc.engine.owned_folder import OwnedFolder
from raydc.engine.ray_token import choose_auth
from raydc.errors import ClusterError

# Ray Train reads these in the driver and hands them to its controller and workers. Chosen by
# measurement: a dead worker is noticed within a fifth of a second, and a group that cannot be
# placed is soon retried at a different size.
_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    # `raydc.elastic.scaling_policy` looks for draining nodes itself; Ray's watcher would add a
    # process to each start of a group.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "120",
}
# These must be in the environment of the worker processes themselves.
_WORKER_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
}
# Folders of HAProxy's configuration and sockets, which a local Ray does not remove.
_local_folders: list[OwnedFolder] = []
_SERVE_THREAD_TIMEOUT_S = 5.0
_QUIET = ("ray.train", "ray.tune", "ray.data")


@dataclass(frozen=True)
class Engine:
    """A connected Ray.

    Attributes:
        local: This process started it, and it ends with this process.
        address: `host:port` of its head.
        num_nodes: Nodes that are alive.
        resources: Totals of the cluster, by Ray's names.
        nodes: Resources of each node that is alive; empty if they are not known.
    """

    local: bool
    address: str
    num_nodes: int
    resources: dict[str, float]
    dashboard_url: str | None = None
    nodes: tuple[dict[str, float], ...] = ()


def connect(
    address: str | None = None,
    num_cpus: int | None = None,
    quiet: bool = True,
    dashboard: bool = False,
    edits_haproxy: bool = True,
) -> Engine:
    """Attaches to a Ray cluster, or starts a local Ray; does nothing if connected already.

    Args:
        address: `host:port`, `ray://...` or `auto`. Default: `RAY_ADDRESS`, else a local Ray.
        num_cpus: CPUs of a local Ray. Default: those that this process may use.
        quiet: Keep Ray's own informational log lines off the terminal.
        dashboard: Start the dashboard of a local Ray, on loopback only.
        edits_haproxy: Whether raydc edits the configuration of HAProxy that a local Ray writes
            (`serve.direct: auto`). On a cluster this is decided where Ray is started.

    Raises:
        ClusterError: There is no cluster at the address, it refuses, or this Ray is untested and
            differs from what raydc needs.
    """
    import ray

    # An import may have swallowed the interruption; nothing has started yet.
    interruption.raise_received()
    internals.check_untested()
    # Threads that Serve leaves in the driver call Ray once more after its end, which would start
    # another Ray.
    internals.never_start_by_itself()
    address = address or os.environ.get("RAY_ADDRESS")
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return _describe(local=address is None)
    # The default of 30 s is too short for a busy machine.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    # Ray would start processes for future tasks. Those of raydc need another environment and could
    # not use them.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    choose_auth(local=address is None)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Silences a warning of Ray's.
    level = logging.ERROR if quiet else logging.INFO
    options: dict[str, Any] = {
        "logging_level": level,
        "log_to_driver": not quiet,
        "runtime_env": {"env_vars": _WORKER_ENVIRONMENT},
    }
    shown = None
    if address:
        if address == "auto":
            # Looked up here: the record of a Ray that was killed stays behind.
            address = ray_start.require_running()
        ray_start.require_port(address)
        # Serve's controller inherits them and passes them on, unless it runs already.
        options["runtime_env"]["env_vars"] = {**_WORKER_ENVIRONMENT, **serve_environment.SETTINGS}
        with ray_start.limited(address):
            ray.init(address=address, **options)
    else:
        # Its processes have the modules of this one, which those of a cluster may lack.
        options["runtime_env"]["worker_process_setup_hook"] = "raydc.quick_imports.begin"
        # Without an address Ray would join a cluster that happens to run on this machine.
        with _ingress_environment(edits_haproxy), ray_start.limited(None):
            context = ray.init(
                address="local",
                num_cpus=num_cpus or usable_cpus.count(),
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                **options,
            )
            shown = context.dashboard_url if dashboard else None
        ray_start.watch_own()
    if quiet:
        for name in _QUIET:
            logging.getLogger(name).setLevel(level)
        # A level would not do, because Serve sets it again. All it logs in a driver is progress,
        # and complaints of its threads at the end.
        logging.getLogger("ray.serve").disabled = True
    return _describe(local=address is None, dashboard_url=f"http://{shown}" if shown else None)


def attach(address: str | None = None) -> bool:
    """Attaches to a running Ray: of `address`, of `RAY_ADDRESS`, or of this machine.

    Never starts a Ray.

    Returns:
        False if no address was given and no Ray runs here.

    Raises:
        ClusterError: There is no cluster at the address that was given.
    """
    import ray

    # An import may have swallowed the interruption; nothing has changed yet.
    interruption.raise_received()
    if ray.is_initialized():
        return True
    if address or os.environ.get("RAY_ADDRESS"):
        connect(address)
        return True
    running = ray_start.running_address()
    if running is None:
        return False
    connect(running)
    return True


def machine() -> dict[str, float]:
    """Counts the CPUs and GPUs that a local Ray would get."""
    import torch

    return {"CPU": float(usable_cpus.count()), "GPU": float(torch.cuda.device_count())}


def sample(space: dict[str, Any], num_samples: int, seed: int) -> list[dict[str, Any]]:
    """Draws points of a search space, in the order of Ray Tune's own generator.

    Args:
        space: Domains of `ray.tune` by name.
        num_samples: Number of draws; a grid gives all its points in each.
        seed: The same seed draws the same points.
    """
    import numpy as np

    generate_variants = internals.generate_variants
    random = np.random.RandomState(seed)
    return [
        values
        for _ in range(num_samples)
        for _, values in generate_variants(dict(space), random_state=random)
    ]


def disconnect() -> None:
    """Ends a local Ray, or leaves the cluster."""
    import ray

    ray_start.leave_own()
    internals.end_serve_thread(_SERVE_THREAD_TIMEOUT_S)
    ray.shutdown()
    while _local_folders:
        _local_folders.pop().cleanup()


@contextlib.contextmanager
def _ingress_environment(edits_haproxy: bool) -> Iterator[None]:
    """Sets the environment of Serve's ingress in the block, where Ray starts and inherits it."""
    if not serve_environment.is_available():
        yield
        return
    _local_folders.append(serve_environment.make_folder())
    settings = serve_environment.local(Path(_local_folders[-1].name), edits_haproxy)
    # Variables that the user has set take precedence.
    own = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _describe(local: bool, dashboard_url: str | None = None) -> Engine:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = {name: float(amount) for name, amount in ray.cluster_resources().items()}
    gcs_address = ray.get_runtime_context().gcs_address
    each = tuple({key: float(one) for key, one in node["Resources"].items()} for node in nodes)
    return Engine(local, gcs_address, len(nodes), resources, dashboard_url, each)


def runtime_environment(setup_hook: str) -> dict[str, Any]:
    """Returns the uploaded runtime environment of this driver, for endpoints that outlive it.

    Args:
        setup_hook: `module.function` that is called in each process as it starts; only on a Ray
            that this process has started, whose processes have its modules.
    """
    import ray

    known = (
        "working_dir",
        "py_modules",
        "env_vars",
        "pip",
        "uv",
        "conda",
        "image_uri",
        "container",
        "py_executable",
    )
    environment = dict(ray.get_runtime_context().runtime_env)
    # Replicas inherit these from Serve's controller, and must not differ from it.
    variables = environment.get("env_vars") or {}
    environment["env_vars"] = {
        name: value for name, value in variables.items() if name not in serve_environment.SETTINGS
    }
    if internals.is_own_ray():
        # Under the name that Ray itself gives to a hook of the whole job.
        variable = internals.WORKER_PROCESS_SETUP_HOOK_ENV_VAR
        environment["env_vars"][variable] = setup_hook
    return {name: environment[name] for name in known if environment.get(name)}


def head_address() -> str:
    """IP address of the head node."""
    import ray

    for node in ray.nodes():
        if node["Alive"] and "node:__internal_head__" in node["Resources"]:
            return str(node["NodeManagerAddress"])
    raise ClusterError("the cluster has no head node", "Check `ray status`.")
