"""A resolved spec on a Ray that this process is connected to: what every stage starts from."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from raydc import engine, plan, spec
from raydc.errors import ClusterError, Say, UsageError
from raydc.spec import ResolvedSpec, Spec
from raydc.storage import Storage

NODES_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Job:
    """A resolved spec on a connected Ray, with its places in storage."""

    spec: ResolvedSpec
    engine: engine.Engine
    report: Say
    storage: Storage = field(init=False)
    run_folder: Storage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", Storage(self.spec.storage))
        object.__setattr__(self, "run_folder", self.storage / "runs" / self.spec.name)


def open_job(given: Spec, address: str | None, report: Say) -> Job:
    """Resolves a spec and connects to Ray.

    Raises:
        ClusterError: No cluster, or one that cannot hold the job.
        UsageError: Storage that not every node can reach.
    """
    resolved = spec.resolve(given)
    started = time.monotonic()
    connected = _connect(resolved, address, report)
    _refuse_unreachable(given.storage, resolved.storage, connected)
    where = "a local Ray" if connected.local else f"the cluster at {connected.address}"
    amounts = ", ".join(
        f"{connected.resources[name]:g} {name}"
        for name in ("CPU", "GPU")
        if name in connected.resources
    )
    report(
        f"ray       {where}: {connected.num_nodes} node(s), {amounts} ({time.monotonic() - started:.0f} s)"
    )
    return Job(resolved, connected, report)


def _connect(resolved: ResolvedSpec, address: str | None, report: Say) -> engine.Engine:
    # `ray up` returns when the head is up; the other nodes follow, and are waited for where the spec needs them.
    connected = engine.connect(address)
    deadline = time.monotonic() + NODES_TIMEOUT_S
    waiting = False
    while True:
        try:
            plan.make(resolved, connected.resources)
            return connected
        except ClusterError as error:
            if connected.local or time.monotonic() > deadline:
                raise
            if not waiting:
                report(
                    f"ray       {error.message}; waiting up to {NODES_TIMEOUT_S:.0f} s for nodes to join"
                )
            waiting = True
        time.sleep(1.0)
        connected = engine.connect(address)


def _refuse_unreachable(given: str, resolved: str, connected: engine.Engine) -> None:
    hint = "Name a place that every node reaches: --set storage=/shared/raydc or s3://bucket/raydc"
    if connected.local or not Storage(resolved).is_local or Path(given).is_absolute():
        return
    if connected.num_nodes > 1:
        raise UsageError(
            f"storage: {given!r} is a folder below the current directory, and this cluster has "
            f"{connected.num_nodes} nodes",
            hint,
        )
    if "working_dir_files" in Path(resolved).parts:
        raise UsageError(
            f"storage: {given!r} is below the working folder of a Ray job, which Ray deletes", hint
        )
