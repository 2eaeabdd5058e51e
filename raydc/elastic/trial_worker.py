"""One trial of a sweep: trains it up to a rung, and records how it ended.

Runs in Tune's actors, and in those of `trial_gang`. Workers that are idle train with the one that
began a trial: the same function, in other actors.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raydc import spec as specs
from raydc.checkpoint.resume import retry_reads
from raydc.checkpoint.timing import Timing
from raydc.data.prepared import load
from raydc.elastic import mailbox, worker_failure
from raydc.elastic.builder_import import add_import_folder
from raydc.elastic.claim_watch import watch_claim
from raydc.elastic.crew_group import Leader, help_trial
from raydc.elastic.crews import LEAVE
from raydc.elastic.lasting_error import GangError, LastingError, describe_lasting, may_pass
from raydc.elastic.own_memory import OwnMemory
from raydc.elastic.worker_failure import WorkerFailure
from raydc.errors import RaydcError
from raydc.loop import planned_stop, worker
from raydc.loop.group import Group
from raydc.loop.hooks import Hooks, OnEpoch
from raydc.loop.lost_peer import PeerLostError
from raydc.loop.planned_stop import PlannedStopError
from raydc.loop.state_proof import prove_state
from raydc.models import device as devices
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import trials
from raydc.tracking.attempt_fence import AttemptFence, ReplacedError
from raydc.tracking.lease import Claim, TakenOverError

_ASK_EVERY_S = 0.1
_RESULT_TIMEOUT_S = 2.0
# Other workers wait for the leader no longer than a minute, and no stop for them is urgent.
_TIMING = Timing(arrival_timeout_s=30.0, stop_timeout_s=15.0)


@dataclass(frozen=True)
class SweepPlace:
    """What all trials of a sweep have in common, for the processes that train them.

    Attributes:
        spec: Resolved spec of the sweep, as plain values.
        data_uri: URI of the folder of the prepared data set.
        folder_uri: URI of the folder of the sweep.
        import_from: Folder in which the driver was started: a user's own builder is usually there.
        claim: Claim of the driver on the run. A trial that Tune starts after its loss would take
            the trial back from the driver that continues the sweep.
    """

    spec: dict[str, Any]
    data_uri: str
    folder_uri: str
    import_from: str
    claim: Claim

    def open(self, segment: dict[str, Any]) -> tuple[ResolvedSpec, Storage]:
        """The resolved spec and the folder of a trial; its builder can be imported from now on."""
        add_import_folder(self.import_from)
        sweep = specs.resolve(specs.from_dict(self.spec))
        own = trials.trial_spec(sweep, segment["all_values"])
        return own, Storage(self.folder_uri) / "trials" / segment["key"]


def run_trial(config: dict[str, Any], place: SweepPlace, handle: Any) -> None:
    """Trains one trial up to a rung, from where an earlier rung or sweep left it.

    Args:
        config: What to run, as `slot_queue` gives it to Tune: `key` and `all_values` of the trial,
            and `epochs` after which it stops; None trains it to its end. `most` is the number of
            workers that it may get, `least` that of those that it always has. A `helper` trains
            with the processes that run trials, beginning with `task`.
        place: The sweep.
        handle: Mailbox, which says when to stop, and who trains with whom.

    Raises:
        WorkerFailure: An error that may pass; Tune tries the trial again.
        PeerLostError: A worker was lost without which it does not train; Tune tries it again.
    """
    segment = config["segment"]
    if "helper" in segment:
        _help_trials(segment, place, handle)
        return
    own, folder = place.open(segment)
    # The driver has noticed it, or will; another one trains this trial now.
    with contextlib.suppress(TakenOverError):
        if not _run_segment(own, folder, segment, place, handle):
            return
    _tell_tune(own, folder)


def _run_segment(
    own: ResolvedSpec, folder: Storage, segment: dict[str, Any], place: SweepPlace, handle: Any
) -> bool:
    """Trains up to a rung; returns False if the trial has stopped before, because the driver ends.

    Raises:
        TakenOverError: Another driver continues the sweep.
    """
    values = segment["all_values"]
    place.claim.check()
    # A sweep that is widened may let a trial go on that did not before.
    folder.delete(trials.PRUNED_FILE)
    if not trials.is_failed(folder) and not folder.exists(trials.FINISHED_FILE):
        try:
            work = partial(_train, own, folder, segment, place, handle)
            _keep_failure(work, folder, values, place.claim)
            if not trials.is_failed(folder):
                place.claim.check()
                trials.mark_ended(folder, own, values, trials.FINISHED_FILE)
        except PlannedStopError as stop:
            # The driver ends, and the next one continues from the checkpoint.
            return stop.reason == planned_stop.RUNG
    return True


def _help_trials(segment: dict[str, Any], place: SweepPlace, handle: Any) -> None:
    """Helps one trial after the other, until the sweep needs the slot for something else."""
    from ray import tune

    task = segment["task"]
    while task != LEAVE:
        if task is None:
            time.sleep(_ASK_EVERY_S)
        else:
            help_train({**task, "helper": segment["helper"]}, place, handle)
        task = mailbox.get_reply(handle.take_task.remote(segment["helper"]))
    # Tune refuses trials without any metric.
    tune.report({"epoch": 0, "metric": 0.0})


def help_train(task: dict[str, Any], place: SweepPlace, handle: Any) -> LastingError | None:
    """Trains with the worker that runs a trial, until the trial needs this one no more.

    Args:
        task: `key`, `all_values` and `epochs` of the trial as `run_trial` takes them, `helper`, the
            name of this worker, and `size`, the number of workers that the trial is to have.
        place: The sweep.
        handle: Mailbox, which says where the workers of the trial meet.

    Returns:
        An error that a worker alone would meet as well; None without one.

    Raises:
        WorkerFailure: An error that the trial itself does not meet.
        PeerLostError: The other worker cannot be reached.
    """
    own, folder = place.open(task)
    hooks = Hooks(on_epoch=_stop_at(task["epochs"]))
    device = devices.choose(own.scaling.use_gpu)

    def fit(group: Group) -> None:
        worker.fit(own, folder, Storage(place.data_uri), group=group, hooks=hooks)

    def work() -> None:
        help_trial(handle, task["key"], task["helper"], task["size"], device, fit)

    try:
        worker_failure.guard(1, work)
    except RaydcError as error:
        # The leader refuses the same, or goes on without this worker.
        return None if may_pass(error) else describe_lasting(error)
    except WorkerFailure as error:
        # The leader meets an error of the model itself, at the latest when it has these rows.
        if may_pass(error):
            raise
        return describe_lasting(error)
    return None


def _start_gang(segment: dict[str, Any], place: SweepPlace, handle: Any) -> dict[str, Any]:
    """Starts the other workers that the trial always has; returns their results by their names."""
    number = segment.get("least", 1) - 1
    if not number:
        return {}
    from raydc.elastic import trial_gang

    # A trial that is tried again has others.
    found = {}
    for actor in trial_gang.start(number):
        name = f"gang-{uuid.uuid4().hex}"
        task = {**segment, "helper": name, "size": 1 + number}
        found[name] = actor.run.remote(help_train, task, place, handle)
    return found


def _raise_lasting(results: list[Any]) -> None:
    """Raises GangError if one of the other workers has met an error that would come again.

    Args:
        results: What they return.
    """
    import ray

    for result in ray.wait(results, num_returns=len(results), timeout=_RESULT_TIMEOUT_S)[0]:
        # One that was killed has none.
        with contextlib.suppress(ray.exceptions.RayError):
            if (found := ray.get(result)) is not None:
                raise GangError(found)


def _tell_tune(own: ResolvedSpec, folder: Storage) -> None:
    """Tells a metric, because Tune refuses trials without any; the driver reads the records."""
    from ray import tune

    records = trials.read_epochs(folder)
    metric = trials.tune_metric(own, records[-1] if records else {})
    tune.report({"epoch": len(records), "metric": metric})


def _stop_at(until: int | None) -> OnEpoch:
    """Stops a trial at a rung, after some epochs."""

    def stop_at_rung(record: dict[str, Any]) -> None:
        # The state is copied, and it is written before the worker ends.
        if record["epoch"] == until:
            raise PlannedStopError(planned_stop.RUNG, record["step"])

    return stop_at_rung


def _train(
    own: ResolvedSpec, folder: Storage, segment: dict[str, Any], place: SweepPlace, handle: Any
) -> None:
    key, until = segment["key"], segment["epochs"]
    data = load(Storage(place.data_uri))
    # The values of a trial may build a different network from the one that the driver tried.
    prove_state(own, data)
    mailbox.get_reply(handle.enter.remote(key))
    hooks = Hooks(
        on_epoch=_stop_at(until),
        stop_request=watch_claim(
            lambda: mailbox.get_reply(handle.stop_reason.remote(key)), place.claim
        ),
        claim=place.claim,
    )
    try:
        # Another way of a single worker would be the same, and ask the mailbox more often.
        if segment.get("most", 1) == 1:
            worker.fit(own, folder, data.folder, hooks=hooks)
            return
        gang = _start_gang(segment, place, handle)
        device = devices.choose(own.scaling.use_gpu)
        is_wanted = own.fault_tolerance.max_recomputed_steps > 0
        keeps_states = is_wanted and segment["most"] > segment["least"]
        leader = Leader(
            handle, key, folder, device, [*gang], own.scaling.start_timeout_s, keeps_states
        )
        # The same each time: if the trial was begun again elsewhere, this one must not go on.
        next_number = AttemptFence(folder).next_number
        attempt = retry_reads(next_number, folder, _TIMING.retry_pauses_s)

        def publish(record: dict[str, Any]) -> None:
            if record["kind"] == "progress" and record["rows_per_s"]:
                leader.tell_left(_left_s(record, until, own.train.global_batch_size))

        def fit(group: Group, memory: OwnMemory | None) -> None:
            own_hooks = replace(
                hooks,
                stop_request=watch_claim(leader.stop_reason, place.claim),
                publish=publish,
                peer_memory=memory,
                next_attempt=lambda: attempt,
            )
            worker.fit(own, folder, data.folder, group, own_hooks, _TIMING)

        lost: PeerLostError | None = None
        try:
            leader.fit(fit)
        except PeerLostError as error:
            lost = error
        if lost is not None:
            _raise_lasting([*gang.values()])
            raise lost
    finally:
        handle.leave.remote(key)


def _left_s(record: dict[str, Any], until: int | None, batch_size: int) -> float:
    """Seconds of steps until a trial stops at a rung, or ends, by a record of its progress."""
    steps = record["total_steps"]
    if until is not None:
        steps = min(steps, until * -(-steps // record["epochs"]))
    return float(max(0, steps - record["step"]) * batch_size / record["rows_per_s"])


def _keep_failure(
    train: Callable[[], None], folder: Storage, values: dict[str, Any], claim: Claim
) -> None:
    """Trains, and records an error that another attempt would meet again."""
    try:
        worker_failure.guard(0, train)
    except (RaydcError, WorkerFailure) as error:
        # Who was replaced knows nothing of the trial, which goes on elsewhere.
        if isinstance(error, (ReplacedError, TakenOverError)) or may_pass(error):
            raise
        found = describe_lasting(error)
        # Another driver may have moved the files of the trial, which is no failure of it.
        claim.check()
        trials.mark_failed(folder, values, found.line, found.page)
