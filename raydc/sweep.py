"""The search over spec paths: a fold decides, Ray Tune runs, raydc's own loop trains.

Runs in the driver; `raydc.elastic.trial_worker` in Tune's actors. A trial begins with the fewest
workers that `scaling` allows, because many small trials use a cluster better than few wide ones.
Workers without a trial of their own join those that run: logical shards make the same model on any
number of them. A trial's folder is named by its resolved spec, so a trial that has ended is read
instead of trained, and an interrupted one continues from its checkpoint. The winner's bundle goes
to the registry as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raydc import plan, train
from raydc import spec as specs
from raydc.checkpoint import run_files
from raydc.checksummed_folder import read_manifest
from raydc.data.prepared import Prepared
from raydc.elastic import mailbox, trial_worker, tune_settings
from raydc.elastic.slot_queue import SlotQueue
from raydc.elastic.standing_file import StandingFile
from raydc.elastic.sweep_table import SweepTable
from raydc.elastic.trial_costs import TrialCosts
from raydc.elastic.trial_draws import make_draws
from raydc.elastic.trial_ends import TrialEnds
from raydc.elastic.trial_queue import TrialQueue
from raydc.elastic.trial_slots import CrewMailbox, Slots, trial_resources
from raydc.elastic.trial_worker import SweepPlace
from raydc.engine import interruption
from raydc.errors import Say
from raydc.loop import planned_stop
from raydc.search.goals import Goals, pareto_front
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events, lease, trial_table, trials, winner_spec
from raydc.tracking.lease import Claim
from raydc.tracking.trials import Trial

_FRONT = "front"
_TUNE_FOLDER = re.compile(r"tune-\d+")


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        trials: All trials in the order of sampling.
        winner: Trial with the best validation metric.
        bundle_folder: Bundle of the winner's model.
    """

    trials: tuple[Trial, ...]
    winner: Trial
    bundle_folder: Storage


def run(spec: ResolvedSpec, data: Prepared, run_folder: Storage, report: Say) -> SweepResult:
    """Searches the space of `spec.sweep`, and continues a sweep that stopped in this folder.

    Args:
        spec: A resolved spec with a sweep.
        data: The prepared data set, the same for all trials.
        run_folder: Folder of the run; everything of the sweep is below `sweep/`.
        report: Shows a line of progress.

    Raises:
        TrainError: No trial produced a model.
        RunError: Another process drives this run, or another version of raydc has begun trials
            that this one does not know.
        TakenOverError: Another process continues the sweep, while this one did not respond.
    """
    folder, bundle_folder = run_folder / "sweep", run_folder / "model"
    with (
        interruption.resumable(),
        lease.hold(run_folder) as claim,
        claim.explain_errors(),
    ):
        recorded = run_files.read_resolved(run_folder) or specs.to_dict(spec)
        costs = TrialCosts(spec, data, folder)
        draws = make_draws(spec, recorded, folder, report, costs.of)
        with SweepTable(spec.train.metric, spec.train.mode, report) as table:
            ends = TrialEnds(spec, folder, draws, report, table.say_end)
            queue = TrialQueue(spec, folder, draws, ends, costs, claim.check)
            if not queue.is_over:
                standing_file = StandingFile(folder, draws, ends, claim.check)
                _fit(spec, data, folder, queue, table, claim, standing_file)
        queue.raise_failed()
        claim.check()
        ended = tuple(replace(one, costs=costs.of(one.values)) for one in ends.all())
        folder.write_json("trials.json", [asdict(trial) for trial in ended])
        folder.delete(trials.STANDING_FILE)
        winner = trials.pick_winner(ended, spec.train.mode)
        front = _write_front(spec, ended, costs.goals, folder)
        for line in trial_table.format_table(ended, winner, spec.train.metric, front):
            report(f"sweep     {line}")
        own = trials.trial_spec(spec, winner.values)
        place = folder / "trials" / winner.key
        found = train.export(own, data, place, bundle_folder, report)
        ends.drop_checkpoints(winner, found)
        digest = read_manifest(bundle_folder)[1]["model.safetensors"]["sha256"]
        text = winner_spec.write_text(spec, winner, ended.index(winner), digest)
        folder.write_bytes(winner_spec.FILE, text.encode())
        if front:
            report(
                f"sweep     + {len(front)} trials of the Pareto front, for raydc train: "
                f"{folder.uri}/{_FRONT}"
            )
        report(f"sweep     its spec, for raydc train: {folder.uri}/{winner_spec.FILE}")
        events.EventLog(run_folder, "events").write(
            kind="sweep_finished", trials=len(ended), winner=winner.key
        )
    return SweepResult(ended, winner, bundle_folder)


def _write_front(
    spec: ResolvedSpec, ended: Sequence[Trial], goals: Goals, folder: Storage
) -> list[int]:
    """Writes a spec for each trial of the Pareto front, and returns their numbers."""
    if not goals.objectives:
        return []
    # A sweep that gets more samples has another front, and what was on it may be no more.
    (folder / _FRONT).delete()
    metrics, costs = [trial.metric for trial in ended], [trial.costs for trial in ended]
    front = pareto_front(metrics, costs, goals, spec.train.mode)
    for number in front:
        text = winner_spec.write_member(spec, ended[number], number)
        (folder / _FRONT).write_bytes(f"trial-{number}.yaml", text.encode())
    return front


def _fit(
    spec: ResolvedSpec,
    data: Prepared,
    folder: Storage,
    trial_queue: TrialQueue,
    table: SweepTable,
    claim: Claim,
    standing_file: StandingFile,
) -> None:
    import ray

    tune_settings.set_environment()
    from ray import tune

    assert spec.sweep is not None
    needs = plan.worker_resources(spec, ray.cluster_resources())
    # Tune's own state is never resumed: it gets a new folder for each driver, removed at the end.
    # This driver holds the run, so those of others are of drivers that were killed.
    for left in filter(_TUNE_FOLDER.fullmatch, folder.names()):
        folder.delete(left)
    name = f"tune-{time.time_ns()}"
    handle = mailbox.create()
    size, slots = plan.crew_size(spec), Slots(needs)
    queue = SlotQueue(
        trial_queue,
        size,
        slots.count,
        CrewMailbox(handle),
        spec.sweep.max_concurrent_trials,
        table.report,
    )

    def show() -> None:
        table.show(queue.standing)
        standing_file.write_if_due(queue.standing)

    trainable = tune.with_parameters(
        trial_worker.run_trial,
        place=SweepPlace(specs.to_dict(spec), data.folder.uri, folder.uri, os.getcwd(), claim),
        handle=handle,
    )
    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable, trial_resources(needs, size.least)),
            tune_config=tune.TuneConfig(
                metric="metric",
                mode=spec.train.mode,
                search_alg=_searcher(queue, show),
                # As many as the searcher has.
                num_samples=-1,
                # The next trial gets a warm process: to import torch takes longer than to train it.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=folder.uri,
                verbose=0,
                callbacks=[_callback(queue, show)],
                stop=_stopper(queue, claim),
                failure_config=tune.FailureConfig(max_failures=spec.fault_tolerance.max_failures),
            ),
        )
        with tune_settings.silenced(), tune_settings.losses_named():
            tuner.fit()
        interruption.raise_received()
    except KeyboardInterrupt:
        _keep_states(handle)
        raise
    finally:
        standing_file.write(queue.standing())
        ray.kill(handle)
        with contextlib.suppress(OSError):
            (folder / name).delete()


def _keep_states(handle: Any) -> None:
    """Lets the trials of a driver that ends stop between two steps, with a checkpoint."""
    deadline_s = time.monotonic() + interruption.KEEP_TIMEOUT_S
    # Whatever fails now, a trial continues from an older checkpoint.
    with contextlib.suppress(Exception):
        mailbox.get_reply(handle.request_stop.remote(planned_stop.INTERRUPT))
        while time.monotonic() < deadline_s and mailbox.get_reply(handle.num_training.remote()):
            time.sleep(0.1)


def _searcher(queue: SlotQueue, show: Callable[[], None]) -> Any:
    from ray.tune.search import Searcher

    class QueueSearcher(Searcher):  # type: ignore[misc]
        """Gives Tune what may run now."""

        def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
            if (segment := queue.next_segment()) is not None:
                show()
                return {"segment": segment}
            # Without a word Tune asks again when something has ended.
            return Searcher.FINISHED if queue.is_over else None

        def on_trial_complete(self, trial_id: str, **info: Any) -> None:
            """The callback does it, which knows the error of a trial."""

        def save(self, checkpoint_path: str) -> None:
            """Nothing is kept: Tune's own state is never resumed."""

        def restore(self, checkpoint_path: str) -> None:
            """As `save`."""

    return QueueSearcher()


def _callback(queue: SlotQueue, show: Callable[[], None]) -> Any:
    from ray import tune

    class TrialCallback(tune.Callback):  # type: ignore[misc]
        """Passes on what Tune tells about a trial."""

        def on_trial_start(self, *, trial: Any, **info: Any) -> None:  # noqa: ARG002
            queue.start(trial.config["segment"])

        def on_trial_complete(self, *, trial: Any, **info: Any) -> None:  # noqa: ARG002
            queue.end(trial.config["segment"])
            show()

        def on_trial_recover(self, *, trial: Any, **info: Any) -> None:  # noqa: ARG002
            queue.retry(trial.config["segment"], _read_error(trial))
            show()

        def on_trial_error(self, *, trial: Any, **info: Any) -> None:  # noqa: ARG002
            queue.lose(trial.config["segment"], _read_error(trial))
            show()

    return TrialCallback()


def _stopper(queue: SlotQueue, claim: Claim) -> Any:
    from ray import tune

    class QueueStopper(tune.Stopper):  # type: ignore[misc]
        """Ends what hangs when nothing is left to do, and all if another driver has the sweep."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            return claim.is_lost or queue.is_held_up()

    return QueueStopper()


def _read_error(trial: Any) -> str:
    """The errors of a trial so far, as Tune writes them on this machine."""
    with contextlib.suppress(OSError):
        return Path(trial.error_file).read_text(errors="replace")
    return ""
