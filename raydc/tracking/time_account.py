"""Where the time of a run went: eight phases that add up to its wall time.

    useful_step      a step, or a validation, done for the first time
    recomputed_step  the same again, because a restart returned to an earlier checkpoint
    checkpoint       steps wait for a copy of their state, or the run for its last checkpoint and
                     its model
    data_wait        the step waits for its rows
    start_up         from a start, or from the last sign of life of an attempt that died, to the
                     first wait for rows
    resize           the same after an attempt that ended on purpose, to continue with other workers
    stalled          a worker stood still, and the others waited for it
    idle             the rest: waiting for nodes, ending, and between two drivers

The wall time reaches from the first `run_started` to the last sign of life, over all attempts and
all drivers. The records come from `events.jsonl`: drivers write `run_started` and `driver_ended`;
rank 0 of an attempt writes `attempt_started`, `resize` if it ends on purpose, and `time` with the
sums of its phase timer (`raydc.tracking.phase_timer`). Any rank writes `stood_still`
(`raydc.tracking.standstill`). Pure; used by drivers and commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from raydc.tracking.stalled_time import StalledTime, Window
from raydc.tracking.standstill import KIND as STOOD_STILL

USEFUL, RECOMPUTED = "useful_step", "recomputed_step"
CHECKPOINT, DATA_WAIT, START_UP = "checkpoint", "data_wait", "start_up"
RESIZE, STALLED, IDLE = "resize", "stalled", "idle"
NAMES = (USEFUL, RECOMPUTED, CHECKPOINT, DATA_WAIT, START_UP, RESIZE, STALLED, IDLE)
# The phase timer counts validation separately; the account adds it to the useful steps.
VALIDATION = "validation"
# What a phase timer counts, in the order of `mapped_sums`. `RESIZE` and `IDLE` pass while no
# worker runs, so no timer can count them.
TIMED = (USEFUL, RECOMPUTED, CHECKPOINT, DATA_WAIT, START_UP, VALIDATION)
# In these a worker that stands still holds the run up.
_STALLABLE = (USEFUL, RECOMPUTED, CHECKPOINT, DATA_WAIT, VALIDATION)
# The phase of the seconds without a running timer, after an event of this kind.
_PHASE_AFTER = {
    "run_started": START_UP,
    "waits_for_resources": IDLE,
    "attempt_started": START_UP,
    "resize": RESIZE,
    "run_finished": IDLE,
    "driver_ended": IDLE,
}


@dataclass
class Account:
    """Sums over the records of a run, added one by one in the order of time.

    Attributes:
        seconds: Seconds of each phase, by its name.
        validation_s: Seconds of the useful steps that were validation.
        useful_steps: Steps done for the first time.
        recomputed_steps: Steps done again.
        rows: Rows of all these steps together.
        attempts: How often workers were started.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))
    validation_s: float = 0.0
    useful_steps: int = 0
    recomputed_steps: int = 0
    rows: int = 0
    attempts: int = 0
    _until_s: float | None = None
    _phase_between: str = IDLE
    _stalled: StalledTime = field(default_factory=StalledTime, repr=False, compare=False)

    @property
    def wall_s(self) -> float:
        """Seconds from the first record to the last."""
        return sum(self.seconds.values())

    @property
    def restarts(self) -> int:
        """Starts of the workers after the first."""
        return max(0, self.attempts - 1)

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record of `events.jsonl`; kinds without a meaning for time change nothing."""
        kind = record["kind"]
        if kind == "time":
            self._add_sums(record)
            return
        if kind == STOOD_STILL:
            parts = self._stalled.add_standstill(record["since_s"], record["until_s"])
            self._move_stalled(parts)
            return
        if kind == "run_started":
            # The previous driver may have been killed, without a `driver_ended`.
            self._phase_between = IDLE
        # Only these are written while no timer runs. The seconds of other events are in the sums of
        # the timer that ran then.
        if kind in ("run_started", "driver_ended", "waits_for_resources"):
            self._advance(record["time_s"])
        self.attempts += kind == "attempt_started"
        self._phase_between = _PHASE_AFTER.get(kind, self._phase_between)

    def _add_sums(self, record: dict[str, Any]) -> None:
        self._advance(record["since_s"])
        for name, seconds in record["seconds"].items():
            self._count(name, seconds)
        # Start-up has its own name, whatever it waits for.
        stallable = {name: s for name, s in record["seconds"].items() if name in _STALLABLE}
        window = Window(record["since_s"], record["until_s"], stallable)
        self._move_stalled(self._stalled.add_window(window))
        self._until_s = record["until_s"]
        self.useful_steps += record.get("useful_steps", 0)
        self.recomputed_steps += record.get("recomputed_steps", 0)
        self.rows += record.get("rows", 0)

    def _count(self, name: str, seconds: float) -> None:
        if name == VALIDATION:
            self.validation_s += seconds
        phase = self._phase_of(name)
        # A name that no raydc knows is that of a damaged line.
        self.seconds[phase if phase in self.seconds else IDLE] += seconds

    def _move_stalled(self, parts: Iterable[tuple[str, float]]) -> None:
        for name, seconds in parts:
            self._count(name, -seconds)
            self.seconds[STALLED] += seconds

    def _phase_of(self, timed: str) -> str:
        if timed == VALIDATION:
            return USEFUL
        # A timer cannot know why its worker was started; the event before it says so.
        return RESIZE if timed == START_UP and self._phase_between == RESIZE else timed

    def _advance(self, moment_s: float) -> None:
        """Counts the seconds up to a moment, during which no timer ran."""
        if self._until_s is None:
            self._until_s = moment_s
        # Clocks of two hosts may differ; a second that was counted is not taken back.
        self.seconds[self._phase_between] += max(0.0, moment_s - self._until_s)
        self._until_s = max(self._until_s, moment_s)


def add_up(records: Iterable[dict[str, Any]]) -> Account:
    """Adds up the account of a run.

    Args:
        records: Lines of `events.jsonl`, in any order.
    """

    # A time record is written at its end but belongs at its start.
    def start_s(record: dict[str, Any]) -> float:
        has_start = record["kind"] in ("time", STOOD_STILL)
        return float(record["since_s"] if has_start else record.get("time_s", 0.0))

    account = Account()
    for record in sorted(records, key=start_s):
        account.add(record)
    return account


def format_lines(account: Account) -> list[str]:
    """Formats an account: a line of seconds by phase and, after restarts, a line of their cost."""
    wall_s = account.wall_s
    parts = []
    for name in NAMES:
        seconds = account.seconds[name]
        inner = (
            f" (validation {account.validation_s:.1f})"
            if name == USEFUL and account.validation_s
            else ""
        )
        # Shares that would round to 0% are left out.
        share = f" {seconds / wall_s:.0%}" if wall_s and seconds >= 0.005 * wall_s else ""
        parts.append(f"{name.replace('_', ' ')} {seconds:.1f}{inner}{share}")
    lines = [f"{wall_s:.1f} s: {', '.join(parts)}"]
    if account.restarts:
        times = "once" if account.restarts == 1 else f"{account.restarts} times"
        done = f"{account.useful_steps:,} steps, {account.recomputed_steps:,} of them done again"
        lines.append(f"workers restarted {times}: {done}")
    return lines
