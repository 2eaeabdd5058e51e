"""The last sums of a phase timer in a mapped file, which outlives its process. Runs in rank 0."""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from raydc.storage import Storage
from raydc.tracking.time_account import TIMED

SUMS_FILE = "pulse.bin"


class MappedSums:
    """Keeps the newest record of a phase timer in a mapped file.

    A write is a copy in memory, without a system call, so it is cheap enough for every step. Two
    slots take turns: a kill in the middle of a write leaves the record before it intact.

    Args:
        folder: A local run folder.
    """

    # since_s and until_s, four counts, and the seconds of each phase.
    _FORMAT = struct.Struct(f"<dd4q{len(TIMED)}d")
    _CHECKSUM = struct.Struct("<I")
    # More than a record needs (16 + 32 + 48 + 4 bytes), so that phases can be added later.
    _SLOT_BYTES = 256
    _COUNTS = ("step", "useful_steps", "recomputed_steps", "rows")

    def __init__(self, folder: Storage) -> None:
        path = folder.local_path / SUMS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 2 * self._SLOT_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size < size:
                # Written, not sparse: a full disk raises OSError here, not SIGBUS at a step.
                os.pwrite(descriptor, bytes(size), 0)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._turn = 0

    def write(self, record: dict[str, Any]) -> None:
        """Keeps a record in the slot that does not hold the newest one."""
        counts = map(record.__getitem__, self._COUNTS)
        content = self._FORMAT.pack(
            record["since_s"], record["until_s"], *counts, *record["seconds"].values()
        )
        self._turn ^= 1
        at = self._turn * self._SLOT_BYTES
        self._CHECKSUM.pack_into(self._map, at + self._FORMAT.size, zlib.crc32(content))
        self._map[at : at + self._FORMAT.size] = content

    def clear(self) -> None:
        """Forgets all records."""
        self._map[:] = bytes(2 * self._SLOT_BYTES)

    def read(self) -> dict[str, Any] | None:
        """The newest whole record, or None if there is none."""
        slots = (self._read_slot(at) for at in (0, self._SLOT_BYTES))
        records = [record for record in slots if record is not None]
        return max(records, key=lambda record: float(record["until_s"]), default=None)

    def rest(self, known: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """The record that a killed writer kept but did not write to the log.

        Args:
            known: The events of the run. The kept record may be among them, if the writer was
                killed after it wrote the event and before it cleared the slots.

        Returns:
            The record, or None if nothing is missing.
        """
        kept = self.read()
        if kept is None:
            return None
        # Records with the same start are versions of one record; the longest is the newest.
        versions = (event for event in known if event.get("since_s") == kept["since_s"])
        return None if any(event["until_s"] >= kept["until_s"] for event in versions) else kept

    def _read_slot(self, at: int) -> dict[str, Any] | None:
        content = bytes(self._map[at : at + self._FORMAT.size])
        found = self._CHECKSUM.unpack_from(self._map, at + self._FORMAT.size)[0]
        # An empty slot is refused by itself, because it is not a record whatever its checksum.
        if not any(content) or found != zlib.crc32(content):
            return None
        since_s, until_s, *values = self._FORMAT.unpack(content)
        counts = dict(zip(self._COUNTS, values, strict=False))
        seconds = dict(zip(TIMED, values[len(self._COUNTS) :], strict=True))
        return {"since_s": since_s, "until_s": until_s, **counts, "seconds": seconds}
