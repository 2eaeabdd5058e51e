"""How rows are read that do not fit into memory. Pure, but for the size of the memory; in workers.

A training reads its rows in a new random order in each epoch. As long as all of them fit into the
page cache, that costs nothing. Otherwise each row is a read of the disk, of whole pages and, unless
told otherwise, of 128 KiB around it: a hundred times what was asked for if rows are small. So small
rows are collected in sequential passes over the files, as many of them as memory holds
(`raydc.data.circular_scan`). Large rows are read one by one, without the surroundings.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raydc.cgroups import OWN, ROOT, groups_of
from raydc.data import megabytes

WINDOW_VARIABLE = "RAYDC_WINDOW_MB"
_PAGE_BYTES = mmap.PAGESIZE
# Part of the free memory that rows may fill up and still be called to fit.
_FITS = 0.9
# Part of the free memory that the rows of all workers on a machine take. The rest is for what the
# machine does besides, and for the pages that a pass reads.
_KEPT = 0.6
# Besides its values, a row that is kept has its place in its steps; another one, that is not read
# yet, has its place in the files too.
_PLACE_BYTES = 8


@dataclass(frozen=True)
class Reading:
    """How the rows of one split are read.

    Attributes:
        advice: What the kernel is told about the mapped files, for `mmap.madvise`; None for its own
            way, which reads ahead and keeps what it has read.
        kept_rows: Rows that are collected in memory by sequential passes over the files; 0 reads
            the rows of each step by themselves.
        reason: Why it is not the plain way, for the events of a run; None for the plain way.
    """

    advice: int | None = None
    kept_rows: int = 0
    reason: str | None = None


PLAIN = Reading()


def choose(num_rows: int, num_bytes: int, may_keep: bool, available_bytes: int) -> Reading:
    """Chooses how rows are read that a training takes in random order.

    Args:
        num_rows: Rows of the split.
        num_bytes: Bytes of its files.
        may_keep: Whether rows take no more memory than they do in the files. Files of images do,
            once they are pixels.
        available_bytes: Memory that this process may fill, pages of files included.

    Raises:
        UsageError: `RAYDC_WINDOW_MB` is not a number from 0 on.
    """
    # Systems that say nothing about their memory, or take no advice, keep their own way.
    if num_bytes <= _FITS * available_bytes or not hasattr(mmap, "MADV_RANDOM"):
        return PLAIN
    row_bytes = max(1, num_bytes // max(1, num_rows))
    hint = "Give megabytes, such as 4000, or 0 to read each row by itself."
    kept_bytes = megabytes.read_bytes(WINDOW_VARIABLE, _KEPT * available_bytes, hint)
    kept_rows = int(kept_bytes) // (row_bytes + _PLACE_BYTES)
    # A row begins and ends somewhere in a page.
    times_scattered = (row_bytes // _PAGE_BYTES + 2) * _PAGE_BYTES / row_bytes
    size = f"{num_bytes / 1e9:.2f} GB of rows do not fit into {available_bytes / 1e9:.2f} GB"
    if not may_keep or kept_rows == 0 or num_rows / (2 * kept_rows) > times_scattered:
        reason = f"{size}: each is read by itself, about {times_scattered:.1f} times its bytes"
        return Reading(mmap.MADV_RANDOM, 0, reason)
    reason = f"{size}: memory holds {kept_rows:,} of them, which sequential passes collect"
    return Reading(mmap.MADV_SEQUENTIAL, kept_rows, reason)


def available_bytes(
    cgroups: Path = ROOT,
    own: Path = OWN,
    meminfo: Path = Path("/proc/meminfo"),
) -> int:
    """Memory that this process may fill: a share of what the machine and its cgroups have left.

    Pages of files count as free, because the kernel drops them. Workers on one machine share.

    Args:
        cgroups: Where the cgroup filesystem is mounted.
        own: File that names the cgroups of this process.
        meminfo: File with the memory of the machine.
    """
    free = list(_free_of_machine(meminfo))
    for group, is_v2 in groups_of("memory", cgroups, own):
        free += _free_of_cgroup(group, is_v2)
    # Set by Ray Train and by torchrun.
    num_workers = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(0, min(free, default=1 << 62)) // num_workers


def _free_of_machine(meminfo: Path) -> Iterator[int]:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _free_of_cgroup(group: Path, is_v2: bool) -> Iterator[int]:
    """What a group has left; nothing without a limit."""
    names = ("memory.max", "memory.current")
    if not is_v2:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        limit, used = ((group / name).read_text().strip() for name in names)
        # Without a limit it is the word max, or a number beyond all memory.
        if limit == "max" or int(limit) >= 1 << 60:
            return
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        prefix = "" if is_v2 else "total_"
        of_files = sum(int(stat.get(f"{prefix}{one}_file", 0)) for one in ("active", "inactive"))
        yield int(limit) - int(used) + of_files
    except (OSError, ValueError):
        return
