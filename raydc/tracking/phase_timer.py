"""The phase timer of a worker: at every moment in exactly one phase, whose seconds it adds up.

Runs in every worker; rank 0's sums become `time` records of events.jsonl. A killed process would
lose what it did after its last record. Therefore the timer keeps its sums, after each step, in a
mapped file next to the log: it belongs to the operating system and outlives the process. The next
attempt takes the sums over, so seconds and recomputed steps are counted up to the last step done.
An object store cannot hold such a file; there the last record has to suffice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.mapped_sums import SUMS_FILE, MappedSums
from raydc.tracking.time_account import (
    DATA_WAIT,
    RECOMPUTED,
    START_UP,
    TIMED,
    USEFUL,
    VALIDATION,
    Account,
    add_up,
)

_RECORD_EVERY_S = 10.0
_Item = TypeVar("_Item")


class PhaseTimer:
    """Counts the seconds of a worker by phase. A context manager: leaving it writes the last
    record.

    Args:
        run_folder: Holds `events.jsonl` and, on a local filesystem, the file of mapped sums.
        writes: Whether this is rank 0, whose seconds are those of the run.
        record_event: Writes an event: `Journal.record_event`.
        now_s: A monotonic clock; its zero does not matter.
        unix_s: The Unix time, which events of all machines have in common.
    """

    def __init__(
        self,
        run_folder: Storage,
        writes: bool,
        record_event: Callable[..., None],
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder = run_folder
        self._writes = writes
        self._record_event = record_event
        self._now_s = now_s
        self._mapped_sums = MappedSums(run_folder) if writes and run_folder.is_local else None
        # Read once: if Unix time were adjusted during the run, records would overlap or leave gaps.
        self._zero_s = unix_s() - now_s()
        self._phase = START_UP
        self._entered_s = self._since_s = now_s()
        self._seconds = dict.fromkeys(TIMED, 0.0)
        # Steps done by this attempt's state, and the most that any attempt of the run has done.
        self._step = self._highest = 0
        self._useful = self._recomputed = self._rows = 0

    def start_attempt(self, step: int) -> None:
        """Continues after `step` steps, and takes over the sums of an attempt that was killed."""
        self._step = step
        if self._writes:
            last = self._take_over()
            self._highest = max(step, last)
        self.record()

    def _take_over(self) -> int:
        """Writes the record that a killed attempt lost; returns the highest step done."""
        known = list(events.read(self._folder, "events"))
        if self._mapped_sums is not None:
            rest = self._mapped_sums.rest(known)
            if rest is not None:
                self._record_event("time", **rest)
                known.append(rest)
            # Only after the record is written: a second kill in between loses nothing.
            self._mapped_sums.clear()
        # Drivers write time records too, without steps.
        return max((record["step"] for record in known if "recomputed_steps" in record), default=0)

    @property
    def _step_phase(self) -> str:
        return USEFUL if self._step >= self._highest else RECOMPUTED

    def switch(self, phase: str) -> str:
        """Enters a phase; returns the previous one."""
        now_s = self._now_s()
        previous = self._phase
        self._seconds[previous] += now_s - self._entered_s
        self._entered_s, self._phase = now_s, phase
        return previous

    @contextlib.contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Counts the seconds of the block to a phase; a repeated validation is recomputed work."""
        is_repeated = phase == VALIDATION and self._step < self._highest
        previous = self.switch(RECOMPUTED if is_repeated else phase)
        try:
            yield
        finally:
            self.switch(previous)

    def time_waiting(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yields the items; waiting for one counts as data wait, the time after it as a step."""
        while True:
            self.switch(DATA_WAIT)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.switch(self._step_phase)
            yield item

    def count_step(self, step: int, num_rows: int) -> None:
        """Counts a step that is done.

        Args:
            step: Steps done, this one included.
            num_rows: Rows of this step, over all workers.
        """
        if step > self._highest:
            self._useful += 1
        else:
            self._recomputed += 1
        self._step = step
        self._rows += num_rows
        if self._mapped_sums is not None:
            # Re-entering the phase brings the sums up to this moment before they are kept.
            self.switch(self._phase)
            self._mapped_sums.write(self._sums())

    def record_if_due(self) -> None:
        """Writes a record if the last one is ten seconds old."""
        if self._now_s() - self._since_s >= _RECORD_EVERY_S:
            self.record()

    def record(self) -> None:
        """Writes the sums so far as a record and starts new ones."""
        self.switch(self._phase)
        if self._writes:
            self._record_event("time", **self._sums())
        self._seconds = dict.fromkeys(TIMED, 0.0)
        self._since_s = self._entered_s
        self._useful = self._recomputed = self._rows = 0
        if self._mapped_sums is not None:
            self._mapped_sums.clear()

    def _sums(self) -> dict[str, Any]:
        return {
            "since_s": self._zero_s + self._since_s,
            "until_s": self._zero_s + self._entered_s,
            "step": self._step,
            "useful_steps": self._useful,
            "recomputed_steps": self._recomputed,
            "rows": self._rows,
            "seconds": self._seconds,
        }

    def __enter__(self) -> PhaseTimer:
        return self

    def __exit__(self, *error: object) -> None:
        # A full disk was reported by earlier writes; it must not hide the error of the block.
        with contextlib.suppress(OSError):
            self.record()


@contextlib.contextmanager
def timed_record(log: events.EventLog, phase: str) -> Iterator[None]:
    """Writes the seconds of the block as a `time` record, for a driver: it has no phase timer."""
    since_s = time.time()
    yield
    until_s = time.time()
    log.write(kind="time", since_s=since_s, until_s=until_s, seconds={phase: until_s - since_s})


def read_account(run_folder: Storage) -> Account:
    """Where the time of a run went, up to its last step, even if the run was killed."""
    records = list(events.read(run_folder, "events"))
    if run_folder.is_local and run_folder.exists(SUMS_FILE):
        rest = MappedSums(run_folder).rest(records)
        records += [] if rest is None else [{"kind": "time", **rest}]
    return add_up(records)
