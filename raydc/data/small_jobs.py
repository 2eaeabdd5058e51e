"""Which jobs are so small that the driver is done before tasks of Ray would have started."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from pyarrow import fs as pafs

from raydc.data import joins, megabytes, sources
from raydc.data.layout import Layout
from raydc.engine import usable_cpus
from raydc.spec.data import Data
from raydc.spec.language import LANGUAGE

# The tasks of a preparation start and import for 20 seconds. In that time one CPU prepares about so
# much CSV, and of other sources what their weights say.
_SMALL_BYTES = 200e6
# CPU time that the tasks take for a row, beside this process: blocks are passed on between them.
# Measured with 2 CPUs: 1.5 for Parquet, 2.4 for CSV. So few CPUs catch up with this process late.
_CPU_OF_TASKS = 1.5
_MAX_FACTOR = 4.0
SMALL_VARIABLE = "RAYDC_SMALL_MB"
# Opening a file and asking for its size and content takes as long as preparing so many bytes of
# CSV: 0.5 ms on a disk, some 50 ms in an object store.
_BYTES_OF_OPENING = 5e3
_BYTES_OF_REQUESTS = 500e3
# Work for a byte, beside one of CSV. One CPU prepared 21 MB/s of Parquet, 9.7 of CSV, 3.6 of JSON
# Lines with 21 columns, and 1.1 of texts whose tokens are learnt. `tasks.read_blocks` sees how
# large compressed rows really are.
_WEIGHTS = {"parquet": 0.5, "jsonl": 2.5, "image_folder": 4.0, "tar": 4.0}
_COMPRESSED_WEIGHT = 4.0
_TEXT_WEIGHT = 8.0
_COMPRESSED = (".gz", ".bz2", ".zst", ".xz", ".npz", ".tgz")


def is_small(layout: Layout, data: Data) -> bool:
    """Whether a source is so small that one process handles it sooner than tasks would start.

    Args:
        layout: Files of the source.
        data: Its section `data`, whose joined tables count too.

    Raises:
        DataError: A joined table is not there.
        UsageError: `RAYDC_SMALL_MB` is not a number.
    """
    limit = small_bytes(_SMALL_BYTES * _factor(num_cpus()))
    if "text" in data.features.columns.values() or data.task == LANGUAGE:
        limit /= _TEXT_WEIGHT
    layouts = [layout]
    if weighted_bytes(layouts) <= limit:
        layouts += [sources.locate(joins.data_of(join, data)) for join in data.joins]
    return weighted_bytes(layouts) + sum(map(_opening_bytes, layouts)) <= limit


def small_bytes(default: float) -> float:
    """Bytes of files up to which this process does the work itself; see `RAYDC_SMALL_MB`.

    Args:
        default: The bytes unless the variable is set.

    Raises:
        UsageError: The variable is not a number from 0 on.
    """
    hint = "Give megabytes, such as 64, or 0 to use Ray for all data."
    return megabytes.read_bytes(SMALL_VARIABLE, default, hint)


def weighted_bytes(layouts: Iterable[Layout]) -> float:
    """Bytes of CSV that are as much work as the files of some sources.

    Args:
        layouts: Files of each source.
    """
    return sum(
        file.num_bytes * _weight(layout, file.path) for layout in layouts for file in layout.files
    )


def _factor(num_cpus: int) -> float:
    """How much more a number of CPUs has to prepare before Ray is as fast as this process."""
    return 1 / max(1 / _MAX_FACTOR, 1 - _CPU_OF_TASKS / num_cpus)


def num_cpus() -> int:
    """CPUs of the connected Ray, or those that a local one would have."""
    # Not imported for this: whoever is connected has imported it.
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    return usable_cpus.of_process()


def _opening_bytes(layout: Layout) -> float:
    """Bytes of CSV that are as much work as opening the second file and all others."""
    is_local = isinstance(layout.filesystem, pafs.LocalFileSystem)
    return (len(layout.files) - 1) * (_BYTES_OF_OPENING if is_local else _BYTES_OF_REQUESTS)


def _weight(layout: Layout, path: str) -> float:
    packed = _COMPRESSED_WEIGHT if path.lower().endswith(_COMPRESSED) else 1.0
    return _WEIGHTS.get(layout.format, 1.0) * packed
