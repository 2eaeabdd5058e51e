"""Settings of memory for processes that repeat the same work: glibc and garbage. Pure; no torch.

Used in workers, in the driver for runs without workers, in replicas and in pools of evaluations.
"""

from __future__ import annotations

import ctypes
import os

from raydc import quick_imports

# Names of <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The largest that glibc takes, on machines of 64 bits.
_MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
# Settings of glibc that users make themselves.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def begin_work(max_bytes: int = 1 << 30) -> None:
    """Readies a process that has imported what it needs for work that repeats.

    Args:
        max_bytes: Unused memory that the process keeps at most, for each arena of the allocator.
    """
    quick_imports.end()
    keep_freed_memory(max_bytes)


def keep_freed_memory(max_bytes: int = 1 << 30) -> bool:
    """Lets this process keep the memory that it frees, for the next step.

    Otherwise glibc returns the top of the heap after each step, and blocks above 128 KiB at once.
    The kernel has to fill them with zeros again, page by page, when the next step asks for them:
    thousands of page faults in each step of a small CNN, and a tenth to a third of its time. Blocks
    above 32 MiB still go back at once. Values that a user has set take precedence.

    Args:
        max_bytes: Unused memory that the process keeps at most, for each arena of the allocator.

    Returns:
        Whether it was set. There is nothing to set with another C library.
    """
    is_tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if is_tuned or any(name in os.environ for name in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    # Not every C library has it, and not every system can load itself.
    except (AttributeError, OSError, TypeError):
        return False
    is_mmap_set = mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) == 1
    return bool(mallopt(_M_TRIM_THRESHOLD, max_bytes) == 1 and is_mmap_set)
