"""The loop of a worker, from the newest checkpoint that verifies to the last epoch.

It does not use Ray: a Ray Train worker, a Ray Tune trial and the calling process run the same loop.
Position and weights advance together: a checkpoint holds the network, the optimiser, the schedule
and the number of completed steps, and that number decides which rows come next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from raydc import plan
from raydc.checkpoint import resume, run_files
from raydc.checkpoint.interval import read_failures
from raydc.checkpoint.resume import Source
from raydc.checkpoint.saver import Saver
from raydc.checkpoint.state import (
    Parts,
    State,
    constants_of,
    unpack_state,
    unpack_step,
    unpack_weights,
)
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.checkpoint.timing import Timing
from raydc.data import prepared
from raydc.errors import CheckpointError, with_notes
from raydc.loop.assembly import assemble, read_and_keep
from raydc.loop.early_stop import judge_epoch
from raydc.loop.fault_injection import FaultInjector
from raydc.loop.feed import Batch
from raydc.loop.group import Alone, Group
from raydc.loop.hooks import Hooks
from raydc.loop.micro_batch import settle
from raydc.loop.planned_stop import PlannedStopError, StopAgreement
from raydc.loop.restart import agree_on_state
from raydc.loop.step_memory import StepMemory
from raydc.loop.validation import compute_scores
from raydc.models import device as devices
from raydc.models import user_models
from raydc.models.allocator import begin_work
from raydc.models.computed_with import describe_libraries
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.attempt_fence import AttemptFence
from raydc.tracking.journal import Journal
from raydc.tracking.phase_timer import PhaseTimer
from raydc.tracking.standstill import StandstillWatch
from raydc.tracking.time_account import CHECKPOINT, VALIDATION


def fit(
    spec: ResolvedSpec,
    run_folder: Storage,
    data_folder: Storage,
    group: Group | None = None,
    hooks: Hooks | None = None,
    timing: Timing | None = None,
) -> State:
    """Trains, or continues to train from what `run_folder` holds.

    Args:
        spec: The resolved spec of the run.
        run_folder: Folder of the run, in which checkpoints, metrics and events are written.
        data_folder: Folder of the prepared data set, which every worker must reach.
        group: The process group; None means this process alone, on the device of the spec.
        hooks: Connections with the process around the loop; None means none.
        timing: Pauses and timeouts around checkpoints; None means those of `Timing`.

    Returns:
        How the run ended; the same on every rank.

    Raises:
        CheckpointError: There are checkpoints but none verifies, or none can be written.
        RunError: The checkpoint is of a different spec or data set.
        TrainError: The loss is no longer a number, or an operation of the network is not
            deterministic.
        PlannedStopError: The workers stopped as requested, with a checkpoint of the step on which
            they agreed.
    """
    begin_work()
    group = group or Alone(devices.choose(spec.scaling.use_gpu))
    with devices.settings(plan.num_threads(spec), group.world.device, spec.train.exact):
        run = _Run(spec, run_folder, data_folder, group, hooks or Hooks(), timing or Timing())
        with run.journal, run.watch:
            with run.clock, run.saver or contextlib.nullcontext(), with_notes(run.describe_place):
                run.start()
                while run.state.reason is None:
                    for batch in run.clock.time_waiting(run.rest_of_epoch()):
                        run.stop_if_agreed()
                        run.do_step(batch)
                        run.checkpoint_if_due()
                    run.end_epoch()
                # All that is left is to wait until the last checkpoint is written.
                run.clock.switch(CHECKPOINT)
            run.finish()
    return run.state


class _Run:
    """A run in one worker."""

    def __init__(
        self,
        spec: ResolvedSpec,
        run_folder: Storage,
        data_folder: Storage,
        group: Group,
        hooks: Hooks,
        timing: Timing,
    ) -> None:
        self.folder, self.group, self.hooks, self.timing = run_folder, group, hooks, timing
        self.data = prepared.load(data_folder)
        self.state = State()
        self.parts = parts = assemble(spec, self.data, group)
        room, pauses_s = hooks.available_bytes, self.timing.retry_pauses_s
        self.spec = spec = settle(spec, parts, run_folder, group, room, pauses_s, hooks.num_copies)
        self.feed, self.validation_rows = parts.feed, parts.validation_rows
        self.network, self.step, self.length = parts.network, parts.step, parts.length
        rank, world_size, stop = group.world.rank, group.world.world_size, hooks.stop_request
        self.agreement = StopAgreement(group, stop)
        self.faults = hooks.faults or FaultInjector(run_folder, rank, world_size, stop)
        self.store = CheckpointStore(run_folder / "checkpoints", spec.checkpoint.num_to_keep)
        self.store.reached = self._reached
        self.fence = AttemptFence(run_folder, hooks.claim)
        self.journal = Journal(run_folder, rank == 0, hooks.publish, self.fence.check)
        self.clock = PhaseTimer(run_folder, rank == 0, self.journal.record_event)
        record_event = self.journal.record_event if rank == 0 else hooks.post_event
        self.memory = StepMemory(self.step, group.world.device.type == "cpu", self.clock)
        self.watch = StandstillWatch(rank, record_event)
        self.constants = constants_of(spec, self.data, world_size=world_size)
        # All ranks hold the same state, so one of them saves it.
        self.saver: Saver | None = None
        if rank == 0:
            self.saver = Saver(
                self.store,
                spec,
                self.constants,
                self.journal,
                group.world.device,
                peer_memory=hooks.peer_memory,
                assert_still_owner=self.fence.check,
                timing=timing,
            )
            self.step.before_update = self._finish_copy

    def start(self) -> None:
        """Restores the newest state that verifies, and records how this attempt starts."""
        # Before it reads: an attempt that is replaced must not write beside this one.
        if self.saver:
            number = self.hooks.next_attempt and self.hooks.next_attempt()
            resume.retry_reads(
                lambda: self.fence.claim(number), self.folder, self.timing.retry_pauses_s
            )
        found, source = agree_on_state(
            self.group, self.store, self.hooks.peer_memory, self.journal, self.timing.retry_pauses_s
        )
        if found is not None:
            self._restore(found)
            self.faults.restored(self.state.step)
        hosts, pids = zip(*self.group.members(), strict=True)
        if self.saver:
            self.saver.start(self.state.step, read_failures(events.read(self.folder, "events")))
        self.clock.start_attempt(self.state.step)
        self.journal.record_event(
            "attempt_started",
            step=self.state.step,
            source=source.name.lower(),
            world_size=self.group.world.world_size,
            hosts=list(hosts),
            pids=list(pids),
        )
        if self.saver:
            hashes = {name: self.constants.meta[name] for name in ("data_hash", "spec_hash")}
            environment = devices.environment(self.group.world.device, plan.num_threads(self.spec))
            computed = describe_libraries(self.spec, self.parts.network)
            now = {**environment, **hashes, **computed, **user_models.hash_functions(self.spec)}
            run_files.lock_environment(self.folder, now, self.journal)
        # A state in memory brings the lines that its attempt could no longer write.
        lines = found.files.get("metrics.jsonl", b"") if found else b""
        self.journal.record_start(self.state.step, lines)
        # Memory forgets it once newer states come, and no later checkpoint stands in for the best.
        if self.saver and source is Source.MEMORY and self.state.best_step == self.state.step:
            self.saver.save(self._parts(), force=True)
        parts, step = self.parts, self.state.step
        for _ in read_and_keep(parts, self.spec, self.data, self.group, self.journal, step):
            self.stop_if_agreed()
        self.journal.restart_rate()

    def _restore(self, found: Found) -> None:
        resume.refuse_changes(self.spec, self.data.data_hash, found)
        self.network.load_state_dict(unpack_weights(found))
        # The first checkpoint of a fork holds weights alone.
        if found.step:
            self.step.load_state(unpack_step(found))
        self.state = unpack_state(found)

    def rest_of_epoch(self) -> Iterator[Batch]:
        """Batches from the position to the end of the epoch, or of the run."""
        return self.feed.batches(*self.length.rest_of_epoch(self.state.step))

    def stop_if_agreed(self) -> None:
        """Ends this attempt on all ranks if rank 0 was requested to stop.

        The run continues if its state cannot be kept safe.

        Raises:
            PlannedStopError: This attempt has ended.
        """
        reason = self.agreement.agreed_reason()
        if reason is None:
            return
        is_safe = True
        if self.saver:
            self._flush()
            try:
                with self.clock.phase(CHECKPOINT):
                    self.saver.save_now(self._parts(), self.timing.stop_timeout_s)
            except CheckpointError as error:
                is_safe = False
                self.journal.record_event("stayed", step=self.state.step, reason=error.message)
        # Only rank 0 knows whether the state is safe; all ranks must do the same.
        (is_agreed,) = self.group.broadcast([int(is_safe)])
        if is_agreed:
            self.journal.record_event("resize", step=self.state.step, reason=reason)
            raise PlannedStopError(reason, self.state.step)

    def do_step(self, batch: Batch) -> None:
        """Computes one step and records it."""
        self.faults.before_step(self.state.step + 1)
        # Read before the step, which may begin the next epoch and changes the learning rate.
        epoch, rate = self.length.epoch_of(self.state.step) + 1, self.step.learning_rate
        num_rows = len(batch.ids_G)
        loss = self.step(self.state.step, num_rows, batch.x, batch.y_B, batch.shards)
        self.state = self.state.after_step(num_rows)
        done = self.state.step
        self.journal.record_step(done, epoch, loss, rate, batch.ids_G)
        self.clock.count_step(done, num_rows)
        self.memory.count_step()
        if done % self.spec.train.log_every_steps == 0:
            self._flush(may_wait=True)

    def _flush(self, may_wait: bool = False) -> None:
        """Reads the losses since the last flush, which waits for the device, and records them."""
        self.state = replace(self.state, loss_sum=self.journal.flush(self.state.loss_sum, may_wait))
        self.journal.publish_progress(
            self.state.mean_loss,
            step=self.state.step,
            epoch=self.length.epochs_begun(self.state.step),
            total_steps=self.length.total_steps,
            epochs=self.length.num_epochs,
            world_size=self.group.world.world_size,
        )
        self.clock.record_if_due()

    def checkpoint_if_due(self) -> None:
        """Saves the state in the middle of an epoch if that is due."""
        # The end of an epoch always saves the state, after validation.
        if self.length.ends_epoch(self.state.step):
            return
        if self.saver and self.saver.is_due(self.state.step):
            self._flush()
            with self.clock.phase(CHECKPOINT):
                self.saver.save(self._parts())

    def _reached(self, phase: str) -> None:
        self.faults.reached(phase)
        # Files may take seconds to write; the last look is between the manifest and the commit.
        if phase.startswith("wrote"):
            self.fence.check()

    def _finish_copy(self) -> None:
        if self.saver and self.saver.is_copying:
            with self.clock.phase(CHECKPOINT):
                self.saver.finish_copy()

    def _parts(self) -> Parts:
        return Parts(self.state, self.network.state_dict(), self.step.state())

    def end_epoch(self) -> None:
        """Validates, decides whether the run continues, and writes a checkpoint."""
        self._flush()
        with self.clock.phase(VALIDATION):
            record = self._validate()
        self.state = judge_epoch(self.state, record, self.spec.train, self.length.total_steps)
        self.journal.record_epoch({"kind": "epoch", **record})
        self.journal.record_event("epoch", **record)
        if self.saver:
            with self.clock.phase(CHECKPOINT):
                self.saver.save(self._parts(), force=True)
        # Last, because whoever is told may end this process. The end of a run is its own news.
        if self.hooks.on_epoch is not None and self.state.reason is None:
            self.hooks.on_epoch(record)
        self.journal.restart_rate()

    def _validate(self) -> dict[str, Any]:
        loss, rows, train = self.state.mean_loss, self.validation_rows, self.spec.train
        scores = {"split": "train", "loss": loss}
        if len(rows):
            scores = compute_scores(self.step, rows, self.data.features, self.group, train)
        epoch = self.length.epochs_begun(self.state.step)
        return {"step": self.state.step, "epoch": epoch, "train_loss": loss, **scores}

    def describe_place(self) -> list[str]:
        """Notes for an unexpected error: the step, and the rows that this worker had to compute."""
        step, notes = self.state.step, [f"after step {self.state.step}"]
        if step < self.length.total_steps:
            notes.append(self.feed.describe_rows(*divmod(step, self.length.steps_per_epoch)))
        return notes

    def finish(self) -> None:
        """Waits until the last state is in storage, and records the end of the run."""
        if self.saver:
            self.saver.finish(self._parts())
        self.journal.record_event("run_finished", step=self.state.step, reason=self.state.reason)
