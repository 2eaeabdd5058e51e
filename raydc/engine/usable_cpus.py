"""The CPUs that this process may use, which can be fewer than the machine has. In the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raydc.engine import internals

_CGROUPS = Path("/sys/fs/cgroup")


def count(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Counts CPUs within the limits of affinity (SLURM, `taskset`) and cgroup quotas (containers).

    Args:
        cgroups: Where the cgroup filesystem is mounted.
        own: File that names the cgroups of this process.
    """
    counts = [float(internals.get_num_cpus()), float(len(os.sched_getaffinity(0)))]
    counts += _quotas(cgroups, own)
    # Half a CPU is still one that a worker can run on, slowly.
    return max(1, int(min(counts)))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """CPUs that each cgroup around this process may use; nothing for those without a limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_v2 = not controllers
        if not is_v2 and "cpu" not in controllers.split(","):
            continue
        root = cgroups if is_v2 else cgroups / "cpu"
        # A limit of an outer group holds for the inner ones. In a container the path may be that
        # of the host, which is not there; the root then is its own group.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            yield from _quota(root.joinpath(*parts[:depth]), is_v2)


def _quota(group: Path, is_v2: bool) -> Iterator[float]:
    try:
        if is_v2:
            quota, period = (group / "cpu.max").read_text().split()[:2]
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        # Without a limit it is the word max, or -1.
        if quota.strip() != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
