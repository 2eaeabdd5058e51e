"""The last sums of a phase timer in a mapped file, which outlives its process."""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from raydc.storage import Storage
from raydc.tracking.time_account import TIMED

PULSE_FILE = "pulse.bin"


class Pulse:
    """The last sums of a clock in a mapped file: written without a system call, read after the writer's death.

    Two slots take turns, so that a kill in the middle of a write leaves the one before.

    Args:
        folder: A local run folder.
    """

    _FORMAT = struct.Struct(f"<dd4q{len(TIMED)}d")
    _SUM = struct.Struct("<I")
    _SLOT_BYTES = 256
    _COUNTS = ("step", "useful_steps", "recomputed_steps", "rows")

    def __init__(self, folder: Storage) -> None:
        path = folder.local_path / PULSE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 2 * self._SLOT_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size < size:
                os.pwrite(
                    descriptor, bytes(size), 0
                )  # Not sparse: a full disk shows here, not at a step.
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._turn = 0

    def write(self, record: dict[str, Any]) -> None:
        """Keeps a record."""
        moments = (record["since_s"], record["until_s"])
        counts = (record[name] for name in self._COUNTS)
        content = self._FORMAT.pack(*moments, *counts, *record["seconds"].values())
        self._turn ^= 1
        at = self._turn * self._SLOT_BYTES
        self._map[at : at + len(content) + 4] = content + self._SUM.pack(zlib.crc32(content))

    def clear(self) -> None:
        """Forgets all records."""
        self._map[:] = bytes(2 * self._SLOT_BYTES)

    def read(self) -> dict[str, Any] | None:
        """The newest whole record; None where there is none."""
        records = [record for at in (0, self._SLOT_BYTES) if (record := self._read(at)) is not None]
        return max(records, key=lambda record: float(record["until_s"]), default=None)

    def rest(self, known: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """What a writer that died has kept and not written; None where that is nothing.

        Args:
            known: The events of the run. One may have been written just before the kill, and the slots not cleared.
        """
        kept = self.read()
        if kept is None:
            return None
        begun_together = (event for event in known if event.get("since_s") == kept["since_s"])
        return (
            None if any(event["until_s"] >= kept["until_s"] for event in begun_together) else kept
        )

    def _read(self, at: int) -> dict[str, Any] | None:
        content = bytes(self._map[at : at + self._FORMAT.size])
        found = self._SUM.unpack_from(self._map, at + self._FORMAT.size)[0]
        if not any(content) or found != zlib.crc32(content):
            return None
        since_s, until_s, *values = self._FORMAT.unpack(content)
        counts = dict(zip(self._COUNTS, values, strict=False))
        seconds = dict(zip(TIMED, values[len(self._COUNTS) :], strict=True))
        return {"since_s": since_s, "until_s": until_s, **counts, "seconds": seconds}
