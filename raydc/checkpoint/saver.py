"""Keeps the state of a run safe: copies it, and has threads deliver it. Runs in rank 0.

A step waits for a copy to host memory (`raydc.checkpoint.snapshot`), and at its end for what is
left to copy. One thread brings the copy to storage, another one to peer memory if there is any.
Each of them has one copy at a time. If a state is due while the previous copy is on its way:

- by seconds or `auto`: it is taken once the previous copy has arrived;
- by steps, at the end of an epoch, and for memory: the step waits, so that a failure loses no more
  than was promised;
- while storage refuses writes: no step waits, and the newest copy replaces the one that is refused,
  unless that is the best state so far.

`raydc.checkpoint.policies` decides when a state is due.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch

from raydc.checkpoint.delivery_thread import DeliveryThread
from raydc.checkpoint.interval import CheckpointInterval, FailureHistory
from raydc.checkpoint.peer_checkpoints import PeerCheckpoints
from raydc.checkpoint.policies import MemoryPolicy, StoragePolicy, Urgency
from raydc.checkpoint.snapshot import HostCopy, Snapshots
from raydc.checkpoint.state import Constants, Parts, pack_state
from raydc.checkpoint.store import CheckpointStore
from raydc.checkpoint.timing import Timing
from raydc.errors import CheckpointError, os_error_hint
from raydc.spec import ResolvedSpec
from raydc.tracking.journal import Journal


class Saver:
    """Keeps the state of a run safe. A context manager: leaving it waits for the last copy.

    Args:
        store: The run's checkpoints in storage, which outlive the cluster.
        spec: The resolved spec; its section `checkpoint` sets the interval and the limits.
        constants: Files and values that all checkpoints of this attempt have in common.
        journal: Lines of metrics, which must be durable before a state that counts them.
        device: Device of the network; a GPU gets pinned host memory for its copies.
        peer_memory: Memory that outlives the workers; None means storage only.
        assert_still_owner: Raises RunError once another driver has taken over the run.
        timing: Pauses and timeouts; None means those of production. Tests give shorter ones.

    Attributes:
        waited_s: Seconds that steps have waited for copies.
    """

    def __init__(
        self,
        store: CheckpointStore,
        spec: ResolvedSpec,
        constants: Constants,
        journal: Journal,
        device: torch.device,
        *,
        peer_memory: PeerCheckpoints | None = None,
        assert_still_owner: Callable[[], None] = lambda: None,
        timing: Timing | None = None,
    ) -> None:
        self.waited_s = 0.0
        self._store, self._spec, self._constants = store, spec, constants
        self._journal, self._peer_memory = journal, peer_memory
        self._assert_still_owner = assert_still_owner
        self._timing = timing or Timing()
        self._snapshots = Snapshots(device)
        self._to_storage = DeliveryThread(
            "raydc-checkpoint",
            self._write,
            self._on_write_failed,
            self._timing.retry_pauses_s,
            keeps_best=True,
        )
        self._to_memory = DeliveryThread("raydc-recent", self._put, self._on_put_failed)
        self._copy: HostCopy | None = None
        self._is_for_storage = False
        # No state of this attempt is in storage yet.
        self._step_in_storage = -1
        self._refused: OSError | None = None
        self._storage_policy = self._new_policy(0, FailureHistory())
        self._memory_policy = MemoryPolicy(spec.fault_tolerance.max_recomputed_steps, self._timing)

    def _new_policy(self, step: int, failures: FailureHistory) -> StoragePolicy:
        section, now_s = self._spec.checkpoint, time.monotonic()
        least_s = self._timing.min_interval_s
        return StoragePolicy(CheckpointInterval(section, failures, step, now_s, least_s))

    def start(self, step: int, failures: FailureHistory) -> None:
        """Starts an attempt that continues after `step` steps, with the failures before it."""
        self._storage_policy = self._new_policy(step, failures)
        self._memory_policy.start(step)
        if self._peer_memory is not None:
            self._peer_memory.forget_after(step)

    def is_due(self, step: int) -> bool:
        """Whether `save` would do something after `step` steps."""
        if self._is_storage_due(step):
            return True
        # Asked before each step, which may take milliseconds.
        if self._peer_memory is None:
            return False
        return self._is_memory_due(step) or self._is_promise_at_risk(step)

    def _is_storage_due(self, step: int) -> bool:
        urgency = self._storage_policy.urgency(step, time.monotonic())
        return _is_taken(urgency, self._to_storage)

    def _is_memory_due(self, step: int) -> bool:
        if self._peer_memory is None:
            return False
        return _is_taken(self._memory_policy.urgency(step, time.monotonic()), self._to_memory)

    def _is_promise_at_risk(self, step: int) -> bool:
        """Whether a state is still on its way to memory that must be there before the next step."""
        if not self._memory_policy.must_have_arrived(step, time.monotonic()):
            return False
        return not self._to_memory.wait_until_idle(0.0)

    def save(self, parts: Parts, force: bool = False) -> None:
        """Copies the state and hands it to the threads for which it is due.

        Args:
            parts: The live state, which the next step changes. Its lines of metrics are flushed.
            force: Whether the state goes to storage even if none is due.

        Raises:
            CheckpointError: Storage has refused too many checkpoints in a row.
        """
        # Failures happen in a thread; only here can they end the run.
        if self._storage_policy.has_given_up:
            raise self._refusal(f"{self._storage_policy.num_failures} checkpoints in a row")
        started_s, step = time.monotonic(), parts.state.step
        to_storage = (force or self._is_storage_due(step)) and self._wait(self._to_storage, step)
        to_memory = self._is_memory_due(step) and self._wait(self._to_memory, step)
        if to_storage or to_memory:
            self._hand_over(parts, to_storage, to_memory).release()
        elif self._is_promise_at_risk(step):
            self._to_memory.wait_until_idle(self._timing.arrival_timeout_s)
        # The wait for the previous copy counts as well: it is what a checkpoint costs the steps.
        now_s = time.monotonic()
        self.waited_s += now_s - started_s
        if to_storage:
            self._storage_policy.record_copy(step, now_s, now_s - started_s)
            if change := self._storage_policy.explain_change(now_s):
                self._journal.record_event("checkpoint_interval", **change)

    def _wait(self, thread: DeliveryThread, step: int) -> bool:
        timeout_s = self._timing.arrival_timeout_s
        if thread.wait_until_accepting(timeout_s):
            return True
        reason = f"the previous one has been on its way for more than {timeout_s:.0f} s"
        self._journal.record_event("checkpoint_failed", step=step, reason=reason)
        return False

    def _hand_over(self, parts: Parts, to_storage: bool, to_memory: bool) -> HostCopy:
        """Copies the state and submits the copy; the caller must release it."""
        small_files = {**self._constants.files, "state.json": pack_state(parts.state)}
        # A state in memory is newer than what an object store has of the metrics.
        if to_memory and (unwritten := self._journal.unwritten_lines()):
            small_files["metrics.jsonl"] = unwritten
        # `finish_copy` completes the newest copy only, so nothing may be left of the previous one.
        if self._copy is not None:
            self._copy.complete()
        copy = self._copy = self._snapshots.take(parts, small_files, self._constants.meta)
        self._store.reached("copied")
        self._is_for_storage = to_storage
        if to_storage:
            self._to_storage.submit(copy)
        if to_memory:
            # Noted before it is submitted: the thread may note a refusal at once, which pauses
            # for longer.
            self._memory_policy.record_send(copy.step, time.monotonic())
            self._to_memory.submit(copy)
        return copy

    @property
    def is_copying(self) -> bool:
        """Whether something of the last state is left to copy."""
        return self._copy is not None

    def finish_copy(self) -> None:
        """Returns when nothing of the last state is left to copy: before the optimiser's update."""
        if self._copy is not None:
            started_s = time.monotonic()
            self._copy.complete()
            waited_s = time.monotonic() - started_s
            if self._is_for_storage:
                self._storage_policy.add_cost(waited_s)
            self._copy, self._is_for_storage = None, False
            self.waited_s += waited_s

    def save_now(self, parts: Parts, timeout_s: float) -> str:
        """Returns when the state is in storage or in the memory of another process.

        Args:
            parts: The live state, which the next step changes. Its lines of metrics are flushed.
            timeout_s: Maximum wait for either place, in total.

        Returns:
            Where the state is: storage or memory.

        Raises:
            CheckpointError: The state is in neither of them in time.
        """
        started_s = time.monotonic()
        to_storage, to_memory = self._to_storage.wait_until_accepting(timeout_s), False
        if self._peer_memory is not None:
            to_memory = self._to_memory.wait_until_accepting(timeout_s)
        copy = self._hand_over(parts, to_storage, to_memory)
        copy.is_safe.wait(max(0.0, started_s + timeout_s - time.monotonic()))
        place = copy.place
        copy.release()
        self.waited_s += time.monotonic() - started_s
        if place is None:
            raise CheckpointError(
                f"the state after step {copy.step} was not safe within {timeout_s:.0f} s"
                f"{self._reason()}",
                "The run continues from the previous checkpoint.",
            )
        self._journal.record_event("handed_over", step=copy.step, to=place)
        return place

    def finish(self, parts: Parts) -> None:
        """Returns when the last state is in storage, and ends the threads; tries once more.

        Raises:
            CheckpointError: Storage refuses it.
        """
        try:
            # Storage may have come back since it refused the last state, so that is sent again.
            for is_last in (False, True):
                arrived = self._to_storage.wait_until_idle(self._timing.finish_timeout_s)
                has_all = self._step_in_storage == parts.state.step
                if arrived and has_all and not self._to_storage.holds_refused:
                    return
                if arrived and not is_last:
                    self.save(parts, force=True)
            raise self._refusal(f"the last checkpoint, of step {parts.state.step},")
        finally:
            self._end_threads()

    def _refusal(self, what: str) -> CheckpointError:
        kept = self._store.steps()
        newest = f"The newest one in storage is of step {kept[-1]}. " if kept else ""
        hint = self._refused and os_error_hint(self._refused)
        return CheckpointError(
            f"{what} could not be written to {self._store.folder.uri}{self._reason()}",
            f"{newest}{hint or 'Does this storage answer?'} Then pass --resume.",
        )

    def _reason(self) -> str:
        return f": {self._refused}" if self._refused else ""

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        """Lets a copy arrive; an error here would hide the one that ends the run."""
        with contextlib.suppress(Exception):
            self._to_storage.wait_until_idle(self._timing.exit_timeout_s)
        if error[0] is not None:  # Otherwise `finish` ends them.
            self._end_threads()

    def _end_threads(self) -> None:
        for thread in (self._to_storage, self._to_memory):
            thread.end()

    # All that follows runs in the threads.

    def _write(self, copy: HostCopy) -> None:
        started_s = time.monotonic()
        copy.complete()
        # Another driver may have taken over the run while this process did not answer; two writers
        # would remove each other's checkpoints.
        self._assert_still_owner()
        # A checkpoint must never be newer than the lines of its steps.
        self._journal.sync()
        name = self._store.write(copy.step, copy.files, copy.meta, copy.best_step, copy.hashes())
        copy.mark_safe("storage")
        # The best state may come after newer ones.
        self._step_in_storage = max(self._step_in_storage, copy.step)
        write_s = time.monotonic() - started_s
        self._storage_policy.record_write(write_s)
        self._journal.record_event(
            "checkpoint", step=copy.step, checkpoint=name, write_s=round(write_s, 4)
        )

    def _on_write_failed(self, copy: HostCopy, error: OSError, is_last_attempt: bool) -> None:
        # Kept for the message, if the run fails for this reason later.
        self._refused = error
        if is_last_attempt:
            self._storage_policy.record_failure()
        kind = "checkpoint_failed" if is_last_attempt else "checkpoint_delayed"
        self._journal.record_event(kind, step=copy.step, reason=str(error))

    def _put(self, copy: HostCopy) -> None:
        copy.complete()
        if self._peer_memory is not None and self._peer_memory.put(copy):
            copy.mark_safe("memory")
            if self._memory_policy.record_arrival():
                self._journal.record_event("recent_state", step=copy.step)

    def _on_put_failed(self, copy: HostCopy, error: OSError, _is_last_attempt: bool) -> None:
        self._memory_policy.record_refusal(time.monotonic())
        self._journal.record_event("recent_state_failed", step=copy.step, reason=str(error))


def _is_taken(urgency: Urgency, thread: DeliveryThread) -> bool:
    """Whether a state of some urgency is taken now.

    If it is urgent, it is taken even while the thread is busy; `save` then waits.
    """
    if urgency is Urgency.IF_FREE:
        return thread.wait_until_accepting(0.0)
    return urgency is Urgency.NOW
