"""The clock of a worker: at every moment in exactly one state, whose seconds it adds up.

Rank 0's sums become `time` records of events.jsonl. What it did after its last record would be lost with a killed
process; therefore it keeps, after each step, its sums in a mapped file beside the log, which belongs to the operating
system and outlives it. The next attempt takes them over: so seconds and recomputed steps are counted to the last step
that was done. On an object store there is no such file, and the last record has to do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.pulse import PULSE_FILE, Pulse
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
        self._seconds = dict.fromkeys(TIMED, 0.0)
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
        self._seconds = dict.fromkeys(TIMED, 0.0)
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
        with contextlib.suppress(
            OSError
        ):  # A full disk has been reported by what was written before.
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
    if run_folder.is_local and run_folder.exists(PULSE_FILE):
        rest = Pulse(run_folder).rest(records)
        records += [] if rest is None else [{"kind": "time", **rest}]
    return add_up(records)
