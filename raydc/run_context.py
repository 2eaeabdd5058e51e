"""What every stage of a run works with: a resolved spec and its Ray. In the driver."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from raydc import engine as engines
from raydc import plan, spec
from raydc.engine import Engine
from raydc.errors import ClusterError, Say, UsageError
from raydc.spec import ResolvedSpec, Spec
from raydc.storage import Storage

# Nodes that `ray up` starts join soon after the head. A longer wait would only delay the
# error of a cluster that stays too small.
NODES_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RunContext:
    """A resolved spec with its Ray and its places in storage.

    Attributes:
        spec: Resolved spec of the run.
        connect_ray: Connects to Ray; called once, when something needs it.
        report: Prints a line of progress.
        storage: Storage that the spec names.
        run_folder: Folder of the run, `runs/<name>` in the storage.
    """

    spec: ResolvedSpec
    connect_ray: Callable[[], Engine]
    report: Say
    storage: Storage = field(init=False)
    run_folder: Storage = field(init=False)

    def __post_init__(self) -> None:
        # A frozen dataclass sets derived fields this way only.
        object.__setattr__(self, "storage", Storage(self.spec.storage))
        object.__setattr__(self, "run_folder", self.storage / "runs" / self.spec.name)

    @cached_property
    def engine(self) -> Engine:
        """Connection to Ray, with what is known of it; made at first use."""
        return self.connect_ray()

    def connect(self) -> None:
        """Connects to Ray, if nothing has yet."""
        _ = self.engine

    @property
    def is_connected(self) -> bool:
        """Whether anything has needed Ray so far."""
        return "engine" in vars(self)


def open_context(
    given: Spec,
    address: str | None,
    report: Say,
    dashboard: bool = False,
    deferred: bool = False,
) -> RunContext:
    """Resolves a spec and connects to Ray.

    Args:
        given: Spec as loaded, with paths that may be relative.
        address: Ray cluster; None takes RAY_ADDRESS, else starts a local Ray.
        report: Prints a line of progress.
        dashboard: Start the dashboard of a local Ray, and print its address.
        deferred: Start a local Ray only when something needs it. A cluster is connected at once,
            so that an address that does not answer is known before any work.

    Raises:
        ClusterError: No cluster at the address, or one that is too small for the spec.
        UsageError: Storage that not every node can reach, or a dashboard of a cluster.
    """
    if dashboard and (address or os.environ.get("RAY_ADDRESS")):
        raise UsageError(
            "--dashboard is for a local Ray, and this command uses a cluster",
            "The head node of a cluster has its own dashboard, on port 8265 by default.",
        )
    resolved = spec.resolve(given)

    def connect_ray() -> Engine:
        return _connect_and_report(resolved, given.storage, address, report, dashboard)

    context = RunContext(resolved, connect_ray, report)
    if address or os.environ.get("RAY_ADDRESS") or dashboard or not deferred:
        context.connect()
    return context


def _connect_and_report(
    resolved: ResolvedSpec, storage: str, address: str | None, report: Say, dashboard: bool
) -> Engine:
    started = time.monotonic()
    connected = _connect(resolved, address, report, dashboard)
    _refuse_unreachable(storage, resolved.storage, connected)
    where = "a local Ray" if connected.local else f"the cluster at {connected.address}"
    amounts = ", ".join(
        f"{connected.resources[name]:g} {name}"
        for name in ("CPU", "GPU")
        if name in connected.resources
    )
    elapsed_s = time.monotonic() - started
    report(f"ray       {where}: {connected.num_nodes} node(s), {amounts} ({elapsed_s:.0f} s)")
    if connected.dashboard_url:
        report(
            f"          dashboard {connected.dashboard_url}; it asks for the token that "
            "`ray get-auth-token` prints"
        )
    return connected


def _connect(resolved: ResolvedSpec, address: str | None, report: Say, dashboard: bool) -> Engine:
    # `ray up` returns when the head is up; other nodes join later. Wait until the spec fits.
    edits_haproxy = resolved.serve is None or resolved.serve.direct == "auto"
    connected = engines.connect(address, dashboard=dashboard, edits_haproxy=edits_haproxy)
    deadline = time.monotonic() + NODES_TIMEOUT_S
    waiting = False
    while True:
        try:
            plan.make(resolved, connected.resources, nodes=connected.nodes)
            return connected
        except ClusterError as error:
            # A local Ray does not grow.
            if connected.local or time.monotonic() > deadline:
                raise
            if not waiting:
                report(
                    f"ray       {error.message}; waiting up to {NODES_TIMEOUT_S:.0f} s "
                    "for nodes to join"
                )
            waiting = True
        time.sleep(1.0)
        # Connected already: this only counts nodes and resources again.
        connected = engines.connect(address)


def _refuse_unreachable(given: str, resolved: str, connected: Engine) -> None:
    """Refuses a relative path on a cluster: each node would have a folder of its own there."""
    hint = "Name a place that every node reaches: --set storage=/shared/raydc or s3://bucket/raydc"
    if connected.local or not Storage(resolved).is_local or Path(given).is_absolute():
        return
    if connected.num_nodes > 1:
        raise UsageError(
            f"storage: {given!r} is a folder below the current directory, and this cluster has "
            f"{connected.num_nodes} nodes",
            hint,
        )
    # `ray job submit` runs the driver in a folder of this name.
    if "working_dir_files" in Path(resolved).parts:
        raise UsageError(
            f"storage: {given!r} is below the working folder of a Ray job, which Ray deletes", hint
        )
