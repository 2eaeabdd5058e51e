"""Huge pages for the memory of tensors. Used in workers that train on a CPU.

A step reads and writes all weights, gradients and moments. In pages of 4 KiB they take more entries
than a CPU keeps of its page table, and each entry that is missing is looked up in memory, twice as
slowly in a virtual machine.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torch import Tensor

# Of <sys/mman.h> on Linux. The second one came with Linux 6.1.
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_PAGE_SIZE_FILE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_SETTING_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPPINGS_FILE = Path("/proc/self/maps")
# To move a huge page takes the kernel one to three milliseconds, and a refusal takes it longer.
# What is beyond is left to its own thread, which needs minutes for it and no time of this process.
_MAX_TRIED_BYTES = 256 << 20
# With ordinary pages of 64 KiB a huge one has 512 MiB, which a small tensor fills with nothing.
_LARGEST_PAGE = 32 << 20


def use_huge_pages(tensors: Iterable[Tensor]) -> int:
    """Moves tensors on a CPU into huge pages, where they are in memory of this process's own.

    Their addresses and values stay. Nothing happens if the kernel is not Linux, or shall not use
    huge pages (`transparent_hugepage/enabled` is `never`), or has no memory for them, or if they
    are larger than 32 MiB.

    Args:
        tensors: Tensors that are used again and again; those of other devices are left out.

    Returns:
        Bytes of the huge pages that hold them now. Before Linux 6.1, and beyond 256 MiB, the kernel
        moves them later, and they are not counted.
    """
    try:
        size = int(_PAGE_SIZE_FILE.read_text())
        # Advice to move at once would be followed in spite of it.
        if "[never]" in _SETTING_FILE.read_text() or size > _LARGEST_PAGE:
            return 0
        madvise = _find_madvise()
        mappings = list(_anonymous_mappings())
    # Other systems have none of these.
    except (AttributeError, OSError, TypeError, ValueError):
        return 0
    moved = tried = 0
    for page in sorted(_pages_of(tensors, mappings, size)):
        if madvise(page * size, size, _MADV_HUGEPAGE) != 0:
            return moved
        if tried < _MAX_TRIED_BYTES:
            tried += size
            moved += size if madvise(page * size, size, _MADV_COLLAPSE) == 0 else 0
    return moved


def _find_madvise() -> Callable[[int, int, int], int]:
    """`madvise` of the C library, which takes an address, a size and advice, and returns 0."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise


def _anonymous_mappings() -> Iterator[tuple[int, int]]:
    """First address and end of each part of memory that is this process's own and no file's."""
    start = stop = 0
    for line in _MAPPINGS_FILE.read_text().splitlines():
        addresses, access, _, _, inode, *name = line.split(maxsplit=5)
        # Stacks and the kernel's own parts have names, too.
        if access != "rw-p" or inode != "0" or (name and name[0].strip() != "[heap]"):
            continue
        first, end = (int(address, 16) for address in addresses.split("-"))
        # Where advice begins or ends, the kernel has cut one mapping into neighbours.
        if first == stop:
            stop = end
            continue
        if stop:
            yield start, stop
        start, stop = first, end
    if stop:
        yield start, stop


def _pages_of(
    tensors: Iterable[Tensor], mappings: list[tuple[int, int]], size: int
) -> Iterator[int]:
    """Numbers of the huge pages that tensors lie in and that are inside one mapping."""
    seen: set[int] = set()
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.numel() == 0:
            continue
        try:
            # Of a tensor that is a view, all that it is a view of.
            storage = tensor.untyped_storage()
            start = storage.data_ptr()
        except RuntimeError:
            continue  # Sparse ones and other kinds have no memory of their own.
        with contextlib.suppress(StopIteration):
            first, end = next(one for one in mappings if one[0] <= start < one[1])
            stop = min(end, start + storage.nbytes())
            for page in range(start // size, -(-stop // size)):
                if page not in seen and first <= page * size and (page + 1) * size <= end:
                    seen.add(page)
                    yield page
