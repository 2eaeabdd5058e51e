"""The control groups of Linux around this process, which limit its CPUs and its memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def groups_of(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[tuple[Path, bool]]:
    """Yields the folder of each group around this process, the innermost first.

    A limit of an outer group holds for the inner ones.

    Args:
        controller: Controller of version 1 whose groups are wanted: `cpu` or `memory`.
        root: Where the cgroup filesystem is mounted.
        own: File that names the groups of this process.

    Yields:
        The folder, which may be missing, and whether it is of version 2.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_v2 = not controllers
        if not is_v2 and controller not in controllers.split(","):
            continue
        mounted = root if is_v2 else root / controller
        # In a container the path may be that of the host, which is not there; the root then is its
        # own group.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            yield mounted.joinpath(*parts[:depth]), is_v2
