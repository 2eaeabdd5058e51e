"""What every stage of a run works with: a resolved spec and a connection to Ray. In the driver."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from raydc import engine, plan, spec
from raydc.errors import ClusterError, Say, UsageError
from raydc.spec import ResolvedSpec, Spec
from raydc.storage import Storage

# Nodes that `ray up` starts join soon after the head. A longer wait would only delay the
# error of a cluster that stays too small.
NODES_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RunContext:
    """A resolved spec on a connected Ray, with its places in storage.

    Attributes:
        spec: Resolved spec of the run.
        engine: Connection to Ray, with what is known of it.
        report: Prints a line of progress.
        storage: Storage that the spec names.
        run_folder: Folder of the run, `runs/<name>` in the storage.
    """

    spec: ResolvedSpec
    engine: engine.Engine
    report: Say
    storage: Storage = field(init=False)
    run_folder: Storage = field(init=False)

    def __post_init__(self) -> None:
        # A frozen dataclass sets derived fields this way only.
        object.__setattr__(self, "storage", Storage(self.spec.storage))
        object.__setattr__(self, "run_folder", self.storage / "runs" / self.spec.name)


def open_context(
    given: Spec, address: str | None, report: Say, dashboard: bool = False
) -> RunContext:
    """Resolves a spec and connects to Ray.

    Args:
        given: Spec as loaded, with paths that may be relative.
        address: Ray cluster; None takes RAY_ADDRESS, else starts a local Ray.
        report: Prints a line of progress.
        dashboard: Start the dashboard of a local Ray, and print its address.

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
    started = time.monotonic()
    connected = _connect(resolved, address, report, dashboard)
    _refuse_unreachable(given.storage, resolved.storage, connected)
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
    return RunContext(resolved, connected, report)


def _connect(
    resolved: ResolvedSpec, address: str | None, report: Say, dashboard: bool
) -> engine.Engine:
    # `ray up` returns when the head is up; other nodes join later. Wait until the spec fits.
    edits_haproxy = resolved.serve is None or resolved.serve.direct == "auto"
    connected = engine.connect(address, dashboard=dashboard, edits_haproxy=edits_haproxy)
    deadline = time.monotonic() + NODES_TIMEOUT_S
    waiting = False
    while True:
        try:
            plan.make(resolved, connected.resources)
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
        connected = engine.connect(address)


def _refuse_unreachable(given: str, resolved: str, connected: engine.Engine) -> None:
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
