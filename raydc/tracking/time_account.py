"""Where the time of a run went: every second has exactly one of seven names, and they add up to its wall time.

    useful_step      a step, or a validation, that is done for the first time
    recomputed_step  the same again, because a restart went back to a checkpoint from before it
    checkpoint       the steps wait for a copy of their state, or the run for its last checkpoint and its model
    data_wait        the step waits for its rows
    start_up         from a start, or from the last sign of life of an attempt that died, to the first wait for rows
    resize           the same after an attempt that left on purpose: to go on with other workers, or on another node
    idle             the rest: waiting for nodes, ending, and between the death of a driver and the next driver

The wall time is that from the first `run_started` to the last sign of life, over all attempts and all drivers. The
records are `events.jsonl`: drivers write `run_started` and `driver_ended`, rank 0 of an attempt writes
`attempt_started`, `resize` where it ends on purpose, and `time` with the sums of its clock (`raydc.tracking.phase_timer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

USEFUL, RECOMPUTED = "useful_step", "recomputed_step"
CHECKPOINT, DATA_WAIT, START_UP = "checkpoint", "data_wait", "start_up"
RESIZE, IDLE = "resize", "idle"
NAMES = (USEFUL, RECOMPUTED, CHECKPOINT, DATA_WAIT, START_UP, RESIZE, IDLE)
# The phase timer counts validation apart; the account adds it to the useful steps.
VALIDATION = "validation"
# What a phase timer counts. `RESIZE` and `IDLE` pass while no worker runs.
TIMED = (USEFUL, RECOMPUTED, CHECKPOINT, DATA_WAIT, START_UP, VALIDATION)
# What the seconds without a running clock are, after an event of this kind.
_BETWEEN = {
    "run_started": START_UP,
    "waits_for_resources": IDLE,
    "attempt_started": START_UP,
    "resize": RESIZE,
    "run_finished": IDLE,
    "driver_ended": IDLE,
}


@dataclass
class Account:
    """Sums over the records so far, taken one by one in the order of time.

    Attributes:
        seconds: By name.
        validation_s: Seconds of the useful steps that were validation.
        useful_steps: Steps done for the first time.
        recomputed_steps: Steps done again.
        rows: Rows of all these steps.
        attempts: Starts of the workers.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))
    validation_s: float = 0.0
    useful_steps: int = 0
    recomputed_steps: int = 0
    rows: int = 0
    attempts: int = 0
    _until_s: float | None = None
    _between: str = "idle"

    @property
    def wall_s(self) -> float:
        """Seconds from the first record to the last."""
        return sum(self.seconds.values())

    @property
    def restarts(self) -> int:
        """Starts of the workers after the first."""
        return max(0, self.attempts - 1)

    def take(self, record: dict[str, Any]) -> None:
        """Adds a record of `events.jsonl`. Kinds that are written while a clock runs say nothing about time."""
        kind = record["kind"]
        if kind == "time":
            self._take_sums(record)
            return
        if kind == "run_started":
            self._between = "idle"  # Since the driver before, which may have been killed.
        if kind in ("run_started", "driver_ended", "waits_for_resources"):
            self._pass(record["time_s"])
        self.attempts += kind == "attempt_started"
        self._between = _BETWEEN.get(kind, self._between)

    def _take_sums(self, record: dict[str, Any]) -> None:
        self._pass(record["since_s"])
        for name, seconds in record["seconds"].items():
            if name == VALIDATION:
                self.validation_s += seconds
            self.seconds[self._name_of(name)] += seconds
        self._until_s = record["until_s"]
        self.useful_steps += record.get("useful_steps", 0)
        self.recomputed_steps += record.get("recomputed_steps", 0)
        self.rows += record.get("rows", 0)

    def _name_of(self, state: str) -> str:
        if state == VALIDATION:
            return "useful_step"
        return "resize" if state == "start_up" and self._between == "resize" else state

    def _pass(self, moment_s: float) -> None:
        """Names the seconds until a moment for which no clock ran."""
        if self._until_s is None:
            self._until_s = moment_s
        # Clocks of two hosts may differ: time does not go back.
        self.seconds[self._between] += max(0.0, moment_s - self._until_s)
        self._until_s = max(self._until_s, moment_s)


def add_up(records: Iterable[dict[str, Any]]) -> Account:
    """The account of a run.

    Args:
        records: Lines of `events.jsonl`, in any order.
    """

    def begins_s(record: dict[str, Any]) -> float:
        return float(record["since_s"] if record["kind"] == "time" else record["time_s"])

    account = Account()
    for record in sorted(records, key=begins_s):
        account.take(record)
    return account


def lines(account: Account) -> list[str]:
    """The account as text: the seconds by name, and what restarts have cost."""
    wall_s = account.wall_s
    parts = []
    for name in NAMES:
        seconds = account.seconds[name]
        inner = (
            f" (validation {account.validation_s:.1f})"
            if name == "useful_step" and account.validation_s
            else ""
        )
        share = f" {seconds / wall_s:.0%}" if wall_s and seconds >= 0.005 * wall_s else ""
        parts.append(f"{name.replace('_', ' ')} {seconds:.1f}{inner}{share}")
    said = [f"{wall_s:.1f} s: {', '.join(parts)}"]
    if account.restarts:
        times = "once" if account.restarts == 1 else f"{account.restarts} times"
        done = f"{account.useful_steps:,} steps, {account.recomputed_steps:,} of them done again"
        said.append(f"workers started again {times}: {done}")
    return said
