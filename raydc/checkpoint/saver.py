"""Keeps the state of a run safe: when, copied how, and brought where.

A step waits for a copy to host memory (`raydc.checkpoint.snapshot`), the end of the next one for what is left of it. A thread
brings the copy to storage, another one into the memory of other processes where there is such a place (`PeerCheckpoints`). Each
has one copy at a time. What is due while the last one is still on its way:

- by seconds or `auto`: it is taken when the last one has arrived;
- by steps, at the end of an epoch, and in memory: the step waits, so that no more is lost than was promised;
- while storage refuses: nobody waits; the newest copy takes the place of the one that could not be written.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from raydc.checkpoint.delivery_thread import DeliveryThread
from raydc.checkpoint.interval import CheckpointInterval, FailureHistory
from raydc.checkpoint.snapshot import HostCopy, Snapshots
from raydc.checkpoint.state import Parts, constant_files, state_file
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.errors import CheckpointError
from raydc.spec import ResolvedSpec
from raydc.tracking.journal import Journal

# Between the tries to write one checkpoint: storage that is away for a minute costs none.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_MAX_FAILURES = 3
_ARRIVAL_TIMEOUT_S = 60.0
# Recent states of fast steps leave no more often, and may arrive so late before a step waits: what is lost is then the
# sum of both, not a number of steps.
_MEMORY_EVERY_S, _MEMORY_LATE_S = 0.25, 0.05
# Memory that has refused a state is left alone for so long.
_MEMORY_PAUSE_S = 30.0
_FINISH_TIMEOUT_S = 600.0
_LEAVE_TIMEOUT_S = 10.0


class PeerCheckpoints(Protocol):
    """Memory that outlives the workers, for states that are newer than the newest checkpoint."""

    def put(self, copy: HostCopy) -> bool:
        """Returns when the state is in memory; whether that is of another node, or there is no other.

        Raises:
            OSError: It is not.
        """

    def newest(self) -> Found | None:
        """The newest state that verifies."""

    def read(self, step: int) -> Found:
        """The state after `step` steps. Raises CheckpointError where there is none."""

    def forget_after(self, step: int) -> None:
        """The run goes on after `step` steps: what is newer belongs to a history that no longer counts."""


class Saver:
    """Keeps the state of a run safe. Only rank 0 has one that does anything.

    Args:
        store: Takes the checkpoints.
        spec: The resolved spec.
        features: Of `Features.to_dict`.
        meta: JSON values that describe the states of this attempt.
        journal: Whose lines must be safe before a state is.
        device: Of the network.
        recent: Memory that outlives the workers, if there is any.
        still_ours: Raises RunError once another driver has taken the run.
    """

    def __init__(
        self,
        store: CheckpointStore,
        spec: ResolvedSpec,
        features: dict[str, Any],
        meta: Mapping[str, Any],
        journal: Journal,
        device: torch.device,
        recent: PeerCheckpoints | None,
        still_ours: Callable[[], None] = lambda: None,
    ) -> None:
        self.waited_s = 0.0
        self._store, self._spec, self._meta, self._journal, self._recent = (
            store,
            spec,
            meta,
            journal,
            recent,
        )
        self._still_ours = still_ours
        self._others = constant_files(spec, features)
        self._snapshots = Snapshots(device)
        self._to_storage = DeliveryThread(
            "raydc-checkpoint", self._write, self._not_written, _PAUSES_S
        )
        self._to_memory = DeliveryThread("raydc-recent", self._put, self._not_put)
        self._copy: HostCopy | None = None
        self._is_for_storage = False
        self._num_failures = 0
        self._reason = ""
        # A state leaves early enough to arrive before it is needed.
        self._max_recomputed_steps = spec.fault_tolerance.max_recomputed_steps
        self._memory_every = max(1, self._max_recomputed_steps * 4 // 5)
        self._step_in_storage, self._step_in_memory = -1, 0
        self._is_in_memory, self._no_memory_before_s, self._put_s = False, 0.0, 0.0
        self._shown_s = 0.0
        self._interval = CheckpointInterval(spec.checkpoint, FailureHistory(), 0, time.monotonic())

    def begin(self, step: int, failures: FailureHistory) -> None:
        """The attempt goes on after `step` steps, in a run that has failed before as `failures` says."""
        self._interval = CheckpointInterval(self._spec.checkpoint, failures, step, time.monotonic())
        self._step_in_memory = step
        if self._recent is not None:
            self._recent.forget_after(step)

    # Which state -------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether `save` would do something after `step` steps."""
        return (
            self._is_storage_due(step)
            or self._is_memory_due(step)
            or self._is_promise_at_risk(step)
        )

    def _is_storage_due(self, step: int) -> bool:
        due = self._interval.is_due(step, time.monotonic())
        return due and (self._interval.is_a_promise or self._to_storage.wait(0.0))

    def _is_memory_due(self, step: int) -> bool:
        if self._recent is None or step - self._step_in_memory < self._memory_every:
            return False
        now_s = time.monotonic()
        if now_s < self._no_memory_before_s:
            return False
        # Nobody waits for memory that has not come up yet.
        return self._is_in_memory or self._to_memory.wait(0.0)

    def _is_promise_at_risk(self, step: int) -> bool:
        """Whether a state is still on its way to memory that must be there before the next step."""
        late = step - self._step_in_memory >= self._max_recomputed_steps - self._memory_every
        if not late or not self._is_in_memory or time.monotonic() - self._put_s < _MEMORY_LATE_S:
            return False
        return not self._to_memory.wait(0.0, idle=True)

    def save(self, parts: Parts, must: bool = False) -> None:
        """Copies the state and hands it over to the threads, as far as it is due.

        Args:
            parts: The live state. Its lines of metrics are flushed.
            must: To storage whether it is due or not.

        Raises:
            CheckpointError: Storage has refused for too long.
        """
        if self._num_failures >= _MAX_FAILURES:
            raise self._refused(f"{self._num_failures} checkpoints in a row")
        started_s, step = time.monotonic(), parts.state.step
        to_storage = (must or self._is_storage_due(step)) and self._wait(self._to_storage, step)
        to_memory = self._is_memory_due(step) and self._wait(self._to_memory, step)
        if to_storage or to_memory:
            self._hand_over(parts, to_storage, to_memory).let_go()
        elif self._is_promise_at_risk(step):
            self._to_memory.wait(_ARRIVAL_TIMEOUT_S, idle=True)
        waited_s = time.monotonic() - started_s
        self.waited_s += waited_s
        if to_storage:
            self._interval.taken(step, time.monotonic(), waited_s)
            self._show_interval()

    def _show_interval(self) -> None:
        """Says what `auto` has come to, once and whenever it has changed much."""
        chosen_s = self._interval.seconds(time.monotonic())
        if (
            self._spec.checkpoint.every_seconds == "auto"
            and not 1 / 1.5 < self._shown_s / chosen_s < 1.5
        ):
            self._shown_s = chosen_s
            self._journal.record_event(
                "checkpoint_interval", **self._interval.explain(time.monotonic())
            )

    def _wait(self, courier: DeliveryThread, step: int) -> bool:
        if courier.wait(_ARRIVAL_TIMEOUT_S):
            return True
        reason = f"the one before has been on its way for more than {_ARRIVAL_TIMEOUT_S:.0f} s"
        self._journal.record_event("checkpoint_failed", step=step, reason=reason)
        return False

    def _hand_over(self, parts: Parts, to_storage: bool, to_memory: bool) -> HostCopy:
        state = parts.state
        others = {**self._others, "state.json": state_file(state)}
        if to_memory and (unseen := self._journal.unwritten_lines()):
            others["metrics.jsonl"] = unseen
        if self._copy is not None:
            self._copy.complete()
        copy = self._copy = self._snapshots.take(
            state.step, parts.weights, parts.step_state, others, self._meta, state.best_step
        )
        self._store.reached("copied")
        self._is_for_storage = to_storage
        if to_storage:
            self._to_storage.take(copy)
        if to_memory:
            self._step_in_memory, self._put_s = copy.step, time.monotonic()
            self._no_memory_before_s = self._put_s + _MEMORY_EVERY_S
            self._to_memory.take(copy)  # Which may refuse at once, for longer.
        return copy

    def complete(self) -> None:
        """Returns when nothing of the state that was handed over last is left to be copied."""
        if self._copy is not None:
            started_s = time.monotonic()
            self._copy.complete()
            waited_s = time.monotonic() - started_s
            if self._is_for_storage:
                self._interval.waited(waited_s)
            self._copy, self._is_for_storage = None, False
            self.waited_s += waited_s

    def save_now(self, parts: Parts, timeout_s: float) -> str:
        """Returns when the state is in storage or in the memory of another process, whatever was due.

        Args:
            parts: The live state. Its lines of metrics are flushed.
            timeout_s: Longest time.

        Returns:
            Where it is: storage or memory.

        Raises:
            CheckpointError: It is neither in time.
        """
        started_s = time.monotonic()
        to_storage, to_memory = self._to_storage.wait(timeout_s), False
        if self._recent is not None:
            to_memory = self._to_memory.wait(timeout_s)
        copy = self._hand_over(parts, to_storage, to_memory)
        copy.is_safe.wait(max(0.0, started_s + timeout_s - time.monotonic()))
        place = copy.place
        copy.let_go()
        self.waited_s += time.monotonic() - started_s
        if place is None:
            raise CheckpointError(
                f"the state after step {copy.step} was not safe within {timeout_s:.0f} s{self._reason}",
                "The run goes on from the checkpoint before.",
            )
        self._journal.record_event("handed_over", step=copy.step, to=place)
        return place

    # In the threads ----------------------------------------------------------------------------------

    def _write(self, copy: HostCopy) -> None:
        started_s = time.monotonic()
        copy.complete()
        self._still_ours()
        self._journal.sync()
        name = self._store.write(copy.step, copy.files, copy.meta, copy.best_step, copy.hashes())
        copy.arrived("storage")
        self._step_in_storage, self._num_failures = copy.step, 0
        write_s = time.monotonic() - started_s
        self._interval.written(write_s)
        self._journal.record_event(
            "checkpoint", step=copy.step, checkpoint=name, write_s=round(write_s, 4)
        )

    def _not_written(self, copy: HostCopy, error: OSError, is_last_try: bool) -> None:
        self._reason = f": {error}"
        self._num_failures += is_last_try
        kind = "checkpoint_failed" if is_last_try else "checkpoint_delayed"
        self._journal.record_event(kind, step=copy.step, reason=str(error))

    def _put(self, copy: HostCopy) -> None:
        copy.complete()
        if self._recent is not None and self._recent.put(copy):
            copy.arrived("memory")
            if not self._is_in_memory:
                self._journal.record_event("recent_state", step=copy.step)
            self._is_in_memory = True

    def _not_put(self, copy: HostCopy, error: OSError, is_last_try: bool) -> None:
        self._is_in_memory, self._no_memory_before_s = False, time.monotonic() + _MEMORY_PAUSE_S
        self._journal.record_event("recent_state_failed", step=copy.step, reason=str(error))

    # The end -----------------------------------------------------------------------------------------

    def finish(self, parts: Parts) -> None:
        """Returns when the last state is in storage; tries once more where it is not.

        Raises:
            CheckpointError: Storage refuses it.
        """
        for last in (False, True):
            arrived = self._to_storage.wait(_FINISH_TIMEOUT_S, idle=True)
            if arrived and self._step_in_storage == parts.state.step:
                return
            if arrived and not last:
                self.save(parts, must=True)
        raise self._refused(f"the last checkpoint, of step {parts.state.step},")

    def _refused(self, what: str) -> CheckpointError:
        kept = self._store.steps()
        newest = f"The newest that is there is of step {kept[-1]}. " if kept else ""
        return CheckpointError(
            f"{what} could not be written to {self._store.folder.uri}{self._reason}",
            f"{newest}Make room or give access there, then type --resume.",
        )

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        """What is on its way may arrive; an error of its own would hide the one that ends the run."""
        with contextlib.suppress(Exception):
            self._to_storage.wait(_LEAVE_TIMEOUT_S, idle=True)
