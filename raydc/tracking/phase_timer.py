"""The clock of a worker: at every moment in exactly one state, whose seconds it adds up.

Rank 0's sums become `time` records of events.jsonl. What it did after its last record would be lost with a killed
process; therefore it keeps, after each step, its sums in a mapped file beside the log, which belongs to the operating
system and outlives it. The next attempt takes them over: so seconds and recomputed steps are counted to the last step
that was done. On an object store there is no such file, and the last record has to do.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.time_account import VALIDATION, Account, add_up

USEFUL, RECOMPUTED = "useful_step", "recomputed_step"
CHECKPOINT, DATA_WAIT, START_UP = "checkpoint", "data_wait", "start_up"
_STATES = (USEFUL, RECOMPUTED, CHECKPOINT, DATA_WAIT, START_UP, VALIDATION)
_RECORD_EVERY_S = 10.0
_PULSE = "pulse.bin"
_Item = TypeVar("_Item")


class PhaseTimer:
    """Counts the seconds of this worker by what it does. A context manager: leaving it writes the last record.

    Args:
        run_folder: Of the run.
        writes: Whether this is rank 0, whose seconds are those of the run.
        event: Writes an event.
    """

    def __init__(self, run_folder: Storage, writes: bool, event: Callable[..., None]) -> None:
        self._folder = run_folder
        self._writes = writes
        self._event = event
        self._pulse = Pulse(run_folder) if writes and run_folder.is_local else None
        # Moments of all records come from one clock that never jumps.
        self._epoch_s = time.time() - time.monotonic()
        self._state = START_UP
        self._entered_s = self._since_s = time.monotonic()
        self._seconds = dict.fromkeys(_STATES, 0.0)
        self._step = self._highest = 0
        self._useful = self._recomputed = self._rows = 0

    def begin(self, step: int) -> None:
        """The attempt goes on after `step` steps: takes over what an attempt that died has left."""
        self._step = step
        if self._writes:
            last = self._take_over()
            self._highest = max(step, last)
        self.record()

    def _take_over(self) -> int:
        """Writes the record that a killed attempt could not write; returns the highest step that was ever done."""
        known = list(events.read(self._folder, "events"))
        if self._pulse is not None:
            rest = self._pulse.rest(known)
            if rest is not None:
                self._event("time", **rest)
                known.append(rest)
            self._pulse.clear()
        return max((record["step"] for record in known if "recomputed_steps" in record), default=0)

    @property
    def _of_step(self) -> str:
        return USEFUL if self._step >= self._highest else RECOMPUTED

    def switch(self, state: str) -> str:
        """Enters a state; returns the one before."""
        now = time.monotonic()
        before = self._state
        self._seconds[before] += now - self._entered_s
        self._entered_s, self._state = now, state
        return before

    @contextlib.contextmanager
    def of(self, state: str) -> Iterator[None]:
        """The seconds inside count to a state. A validation that is repeated counts as recomputed."""
        repeated = state == VALIDATION and self._step < self._highest
        before = self.switch(RECOMPUTED if repeated else state)
        try:
            yield
        finally:
            self.switch(before)

    def waits(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """The items; the wait for each counts as data wait, what is done with it as a step."""
        while True:
            self.switch(DATA_WAIT)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.switch(self._of_step)
            yield item

    def step(self, step: int, num_rows: int) -> None:
        """A step is done.

        Args:
            step: Steps done, this one included.
            num_rows: Of this step, over all workers.
        """
        if step > self._highest:
            self._useful += 1
        else:
            self._recomputed += 1
        self._step = step
        self._rows += num_rows
        if self._pulse is not None:
            self.switch(self._state)
            self._pulse.write(self._record())

    def record_if_due(self) -> None:
        """Writes a record where the last one is a while ago."""
        if time.monotonic() - self._since_s >= _RECORD_EVERY_S:
            self.record()

    def record(self) -> None:
        """Writes the sums so far and begins new ones."""
        self.switch(self._state)
        if self._writes:
            self._event("time", **self._record())
        self._seconds = dict.fromkeys(_STATES, 0.0)
        self._since_s = self._entered_s
        self._useful = self._recomputed = self._rows = 0
        if self._pulse is not None:
            self._pulse.clear()

    def _record(self) -> dict[str, Any]:
        return {
            "since_s": self._epoch_s + self._since_s,
            "until_s": self._epoch_s + self._entered_s,
            "step": self._step,
            "useful_steps": self._useful,
            "recomputed_steps": self._recomputed,
            "rows": self._rows,
            "seconds": self._seconds,
        }

    def __enter__(self) -> PhaseTimer:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # A full disk has been reported by what was written before.
            self.record()


@contextlib.contextmanager
def timed_record(log: events.EventLog, state: str) -> Iterator[None]:
    """Writes the seconds inside as a record: for a driver, whose work has no clock."""
    since_s = time.time()
    yield
    until_s = time.time()
    log.write(kind="time", since_s=since_s, until_s=until_s, seconds={state: until_s - since_s})


def account_of(run_folder: Storage) -> Account:
    """Where the time of a run went, up to the last step that was done even if it is dead."""
    records = list(events.read(run_folder, "events"))
    if run_folder.is_local and run_folder.exists(_PULSE):
        rest = Pulse(run_folder).rest(records)
        records += [] if rest is None else [{"kind": "time", **rest}]
    return add_up(records)


class Pulse:
    """The last sums of a clock in a mapped file: written without a system call, read after the writer's death.

    Two slots take turns, so that a kill in the middle of a write leaves the one before.

    Args:
        folder: A local run folder.
    """

    _FORMAT = struct.Struct(f"<dd4q{len(_STATES)}d")
    _SUM = struct.Struct("<I")
    _SLOT_BYTES = 256
    _COUNTS = ("step", "useful_steps", "recomputed_steps", "rows")

    def __init__(self, folder: Storage) -> None:
        path = folder.local_path / _PULSE
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 2 * self._SLOT_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size < size:
                os.pwrite(descriptor, bytes(size), 0)  # Not sparse: a full disk shows here, not at a step.
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
        return None if any(event["until_s"] >= kept["until_s"] for event in begun_together) else kept

    def _read(self, at: int) -> dict[str, Any] | None:
        content = bytes(self._map[at : at + self._FORMAT.size])
        found = self._SUM.unpack_from(self._map, at + self._FORMAT.size)[0]
        if not any(content) or found != zlib.crc32(content):
            return None
        since_s, until_s, *values = self._FORMAT.unpack(content)
        counts = dict(zip(self._COUNTS, values, strict=False))
        seconds = dict(zip(_STATES, values[len(self._COUNTS) :], strict=True))
        return {"since_s": since_s, "until_s": until_s, **counts, "seconds": seconds}
