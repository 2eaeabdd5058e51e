"""The CPUs that this process may use, which can be fewer than the machine has. In the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raydc.cgroups import OWN, ROOT, groups_of
from raydc.engine import internals


def count(cgroups: Path = ROOT, own: Path = OWN) -> int:
    """Counts the CPUs that a local Ray may use: as `of_process`, and as Ray itself counts.

    Args:
        cgroups: Where the cgroup filesystem is mounted.
        own: File that names the cgroups of this process.
    """
    return max(1, min(int(internals.get_num_cpus()), of_process(cgroups, own)))


def of_process(cgroups: Path = ROOT, own: Path = OWN) -> int:
    """Counts CPUs within the limits of affinity (SLURM, `taskset`) and cgroup quotas (containers).

    Ray is not imported for it.

    Args:
        cgroups: Where the cgroup filesystem is mounted.
        own: File that names the cgroups of this process.
    """
    counts = [float(len(os.sched_getaffinity(0)))]
    # Nothing comes from groups without a limit.
    for group, is_v2 in groups_of("cpu", cgroups, own):
        counts += _quota(group, is_v2)
    # Half a CPU is still one that a worker can run on, slowly.
    return max(1, int(min(counts)))


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
