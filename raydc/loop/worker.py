"""The loop that a worker runs, from the newest checkpoint that verifies to the last epoch.

It knows no Ray: a Ray Train worker, a Ray Tune trial and the calling process run the same loop. Position and weights
advance together: a checkpoint holds the network, the optimiser, the schedule and the number of steps done, and the
number of steps says which rows come next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from raydc import models, plan
from raydc.checkpoint import resume
from raydc.checkpoint.interval import observed
from raydc.checkpoint.saver import PeerCheckpoints, Saver
from raydc.checkpoint.state import (
    Parts,
    State,
    judge,
    spec_hash,
    state_of,
    unpack_step,
    unpack_weights,
)
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.errors import CheckpointError, with_notes
from raydc.loop import augment, validation
from raydc.loop.fault_injection import FaultInjector
from raydc.loop.feed import Batch, Feed
from raydc.loop.group import Alone, Group, members
from raydc.loop.planned_stop import Pending, PlannedStopError, StopAgreement
from raydc.loop.step import Step
from raydc.models import device as devices
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events, lease
from raydc.tracking.journal import Journal, Publish
from raydc.tracking.phase_timer import PhaseTimer
from raydc.tracking.time_account import CHECKPOINT, VALIDATION

OnEpoch = Callable[[dict[str, Any]], bool]
_SHOWN_ROWS = 64
# Less than the other ranks wait for one.
_LEAVE_TIMEOUT_S = 60.0


def fit(
    spec: ResolvedSpec,
    run_folder: Storage,
    data_folder: Storage,
    group: Group | None = None,
    on_epoch: OnEpoch | None = None,
    publish: Publish | None = None,
    device: torch.device | None = None,
    recent: PeerCheckpoints | None = None,
    pending: Pending | None = None,
) -> State:
    """Trains, or goes on training: what `run_folder` holds decides.

    Args:
        spec: A resolved spec.
        run_folder: Takes checkpoints, metrics and events.
        data_folder: A prepared data set.
        group: The workers. Default: this process alone.
        on_epoch: Called by rank 0 at the end of each epoch with its record and `metric`; False stops the run.
        publish: Called by rank 0 with events and progress.
        device: Default: a GPU where there is one and the spec does not refuse it.
        recent: Memory that outlives the workers, which rank 0 keeps recent states in. Default: there is none.
        pending: Says why the workers should end, where somebody asked rank 0 for it.

    Returns:
        How the run ended; the same on every rank.

    Raises:
        CheckpointError: There are checkpoints, but none verifies, or none can be written.
        RunError: The checkpoint is of another spec or data set.
        TrainError: The loss is no longer a number, or the network has an operation whose bits vary.
        LeftError: The workers were asked to end, and have, with a checkpoint of the step where they agreed to.
    """
    device = device or devices.choose(spec.scaling.use_gpu)
    with devices.settings(plan.num_threads(spec), device, spec.train.exact):
        run = _Run(
            spec,
            run_folder,
            data_folder,
            group or Alone(),
            publish,
            device,
            recent,
            pending or (lambda: None),
        )
        with run.journal:
            with run.clock, run.saver or contextlib.nullcontext(), with_notes(run.where):
                run.begin()
                while run.state.reason is None:
                    for batch in run.clock.time_waiting(run.rest_of_epoch()):
                        run.leave_if_asked()
                        run.do_step(batch)
                        run.checkpoint_if_due()
                    run.end_epoch(on_epoch)
                run.clock.switch(
                    CHECKPOINT
                )  # What is left is to wait until the last one is written.
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
        publish: Publish | None,
        device: torch.device,
        recent: PeerCheckpoints | None,
        pending: Pending,
    ) -> None:
        data = prepared.load(data_folder)
        train = spec.train
        self.spec = spec
        self.group = group
        self.device = device
        self.features = data.features
        self.folder = run_folder
        self.validation = open_rows(data_folder, "validation")
        rows = open_rows(data_folder, "train")
        num_shards = train.logical_shards
        world = (group.rank, group.world_size, device)
        augmenter = augment.make(spec.data.augment, data.features.signature, spec.seed)
        self.feed = Feed(rows, spec.seed, train.global_batch_size, num_shards, *world, augmenter)
        self.total_steps = train.total_steps(self.feed.steps_per_epoch)
        self.network = (
            models.build(spec.model, data.features.signature, spec.seed).to(device).train()
        )
        task, lengths = data.features.signature.task, (self.total_steps, self.feed.steps_per_epoch)
        self.step = Step(self.network, task, train, spec.seed, *lengths, group, device)
        self.store = CheckpointStore(run_folder / "checkpoints", spec.checkpoint.num_to_keep)
        self.faults = FaultInjector(run_folder, group.rank, group.world_size, pending)
        if self.faults.planned:
            self.store.reached = self.faults.reached
        self.journal = Journal(run_folder, group.rank == 0, publish)
        self.clock = PhaseTimer(run_folder, group.rank == 0, self.journal.record_event)
        self.state = State()
        self.agreement = StopAgreement(group, pending)
        self.meta = {
            "data_hash": data.data_hash,
            "spec_hash": spec_hash(spec),
            "world_size": group.world_size,
        }
        self.recent = recent
        self.saver: Saver | None = None
        if group.rank == 0:
            features = data.features.to_dict()
            self.saver = Saver(
                self.store,
                spec,
                features,
                self.meta,
                self.journal,
                device,
                recent,
                lease.owner_check(run_folder),
            )
            self.step.before_update = self._end_copy

    # Begin -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Restores the newest state that verifies; rank 0 says which one that is."""
        found, place = (
            resume.newest(self.store, self.recent, self.journal) if self.saver else (None, 0)
        )
        step, place = (
            self.group.broadcast(number) for number in (-1 if found is None else found.step, place)
        )
        if step >= 0:
            self._restore(found or resume.read(self.store, self.recent, step, place))
            self.faults.restored(step)
        hosts, pids = zip(*members(self.group, self.device), strict=True)
        if self.saver:
            self.saver.begin(self.state.step, observed(events.read(self.folder, "events")))
        world = {"world_size": self.group.world_size, "hosts": list(hosts), "pids": list(pids)}
        source = ("storage", "memory")[place]
        self.clock.start_attempt(self.state.step)
        self.journal.record_event("attempt_started", step=self.state.step, source=source, **world)
        if self.saver:
            hashes = {name: self.meta[name] for name in ("data_hash", "spec_hash")}
            now = {**devices.environment(self.device, plan.num_threads(self.spec)), **hashes}
            resume.lock_environment(self.folder, now, self.journal)
        self.journal.record_start(
            self.state.step, found.files.get("metrics.jsonl", b"") if found else b""
        )
        self.journal.restart_rate()

    def _restore(self, found: Found) -> None:
        resume.refuse_changes(self.spec, str(self.meta["data_hash"]), found)
        self.network.load_state_dict(unpack_weights(found))
        if found.step:  # A fork starts with weights alone.
            self.step.load_state(unpack_step(found))
        self.state = state_of(found)

    # Steps -------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.state.step // self.feed.steps_per_epoch

    def rest_of_epoch(self) -> Iterator[Batch]:
        """Batches from the position to the end of the epoch, or of the run."""
        start = self.epoch * self.feed.steps_per_epoch
        stop = min(self.feed.steps_per_epoch, self.total_steps - start)
        return self.feed.batches(self.epoch, self.state.step - start, stop)

    def do_step(self, batch: Batch) -> None:
        """One step, and its record."""
        self.faults.before_step(self.state.step + 1)
        epoch, rate = self.epoch + 1, self.step.learning_rate
        loss = self.step(self.state.step, len(batch.ids_G), batch.x, batch.y_B, batch.shards)
        done = self.state.step + 1
        self.state = replace(
            self.state, step=done, loss_rows=self.state.loss_rows + len(batch.ids_G)
        )
        self.journal.record_step(done, epoch, loss, rate, batch.ids_G)
        self.clock.count_step(done, len(batch.ids_G))
        if done % self.spec.train.log_every_steps == 0:
            self._flush(epoch)

    def _flush(self, epoch: int) -> None:
        self.state = replace(self.state, loss_sum=self.journal.flush(self.state.loss_sum))
        loss = self.state.loss_sum / max(1, self.state.loss_rows)
        size = {
            "total_steps": self.total_steps,
            "epochs": self.num_epochs,
            "world_size": self.group.world_size,
        }
        self.journal.publish_progress(loss, step=self.state.step, epoch=epoch, **size)
        self.clock.record_if_due()

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, a last partial one included."""
        return -(-self.total_steps // self.feed.steps_per_epoch)

    # Checkpoints -------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> None:
        """Writes a checkpoint in the middle of an epoch where it is due."""
        if self._is_epoch_done:
            return  # The epoch is about to end, and ends with one.
        if self.saver and self.saver.is_due(self.state.step):
            self._flush(self.epoch + 1)
            with self.clock.phase(CHECKPOINT):
                self.saver.save(self._parts())

    def leave_if_asked(self) -> None:
        """Ends this attempt where rank 0 was asked to: on all ranks, and with a state that survives them.

        Goes on where that state cannot be kept safe.

        Raises:
            LeftError: This attempt has ended.
        """
        reason = self.agreement.reached()
        if reason is None:
            return
        is_safe = True
        if self.saver:
            self._flush(self.epoch + 1)
            try:
                with self.clock.phase(CHECKPOINT):
                    self.saver.save_now(self._parts(), _LEAVE_TIMEOUT_S)
            except CheckpointError as error:
                is_safe = False
                self.journal.record_event("stayed", step=self.state.step, reason=error.message)
        if not self.group.broadcast(int(is_safe)):
            return
        self.journal.record_event("resize", step=self.state.step, reason=reason)
        raise PlannedStopError(reason, self.state.step)

    @property
    def _is_epoch_done(self) -> bool:
        return (
            self.state.step % self.feed.steps_per_epoch == 0 or self.state.step == self.total_steps
        )

    def _end_copy(self) -> None:
        if self.saver:
            with self.clock.phase(CHECKPOINT):
                self.saver.complete()

    def _parts(self) -> Parts:
        return Parts(self.state, self.network.state_dict(), self.step.state())

    # Epochs ------------------------------------------------------------------------------------------

    def end_epoch(self, on_epoch: OnEpoch | None) -> None:
        """Validates, decides whether the run goes on, and writes a checkpoint."""
        epoch = -(-self.state.step // self.feed.steps_per_epoch)
        self._flush(epoch)
        with self.clock.phase(VALIDATION):
            record = self._validate(epoch)
        self.state = judge(self.state, record, self.spec.train, self.total_steps)
        self.journal.record_epoch(record)
        self.journal.record_event(
            "epoch", **{key: value for key, value in record.items() if key != "kind"}
        )
        if on_epoch is not None and self.state.reason is None:
            metric = record.get(self.spec.train.metric)
            goes_on = self.group.rank != 0 or on_epoch({**record, "metric": metric})
            if not self.group.broadcast(int(goes_on)):
                self.state = replace(self.state, reason="stopped")
        if self.saver:
            with self.clock.phase(CHECKPOINT):
                self.saver.save(self._parts(), must=True)
        self.journal.restart_rate()

    def _validate(self, epoch: int) -> dict[str, Any]:
        train_loss = self.state.loss_sum / max(1, self.state.loss_rows)
        record = {
            "kind": "epoch",
            "step": self.state.step,
            "epoch": epoch,
            "train_loss": train_loss,
        }
        if not len(self.validation):
            return {**record, "split": "train", "loss": train_loss}
        scores = validation.scores(
            self.step, self.validation, self.features, self.group, self.device
        )
        return {**record, "split": "validation", **scores}

    def where(self) -> list[str]:
        """Notes for an unexpected error: the step, and the rows that this worker had to do there."""
        notes = [f"after step {self.state.step}"]
        if self.state.step < self.total_steps:
            ids_B = self.feed.ids_of(*divmod(self.state.step, self.feed.steps_per_epoch))
            more = ", ..." if len(ids_B) > _SHOWN_ROWS else ""
            notes.append(
                f"its {len(ids_B)} training rows there: {', '.join(map(str, ids_B[:_SHOWN_ROWS]))}{more}"
            )
        return notes

    def finish(self) -> None:
        """The run has ended: all is in storage."""
        if self.saver:
            self.saver.finish(self._parts())
        self.journal.record_event("run_finished", step=self.state.step, reason=self.state.reason)
