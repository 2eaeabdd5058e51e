"""One trial of a sweep: trains it up to a rung, and records how it ended.

Runs in Tune's actors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydc import spec as specs
from raydc.data.prepared import load
from raydc.elastic import mailbox, worker_failure
from raydc.elastic.worker_failure import WorkerFailure
from raydc.errors import RaydcError, describe
from raydc.loop import planned_stop, worker
from raydc.loop.hooks import Hooks
from raydc.loop.planned_stop import PlannedStopError
from raydc.loop.state_proof import prove_state
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import trials

# Errors of the operating system that another attempt meets again: a path is wrong.
_LASTING = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def run_trial(
    config: dict[str, Any], spec: dict[str, Any], data_uri: str, folder_uri: str, handle: Any
) -> None:
    """Trains one trial up to a rung, from where an earlier rung or sweep left it.

    Args:
        config: What to run, as `trial_queue` gives it to Tune: `key` and `all_values` of the trial,
            and `epochs` after which it stops; None trains it to its end.
        spec: Resolved spec of the sweep, as plain values.
        data_uri: URI of the folder of the prepared data set.
        folder_uri: URI of the folder of the sweep.
        handle: Mailbox, which says when to stop.

    Raises:
        WorkerFailure: An error that may pass; Tune tries the trial again.
    """
    segment = config["segment"]
    key, values, until = segment["key"], segment["all_values"], segment["epochs"]
    own = trials.trial_spec(specs.resolve(specs.from_dict(spec)), values)
    folder = Storage(folder_uri) / "trials" / key
    # A sweep that is widened may let a trial go on that did not before.
    folder.delete(trials.PRUNED_FILE)
    if not trials.is_failed(folder) and not folder.exists(trials.FINISHED_FILE):
        try:
            _keep_failure(
                lambda: _train(own, folder, Storage(data_uri), key, handle, until), folder, values
            )
            if not trials.is_failed(folder):
                trials.mark_ended(folder, own, values, trials.FINISHED_FILE)
        except PlannedStopError as stop:
            # The driver ends, and the next one continues from the checkpoint.
            if stop.reason != planned_stop.RUNG:
                return
    _tell_tune(own, folder)


def _tell_tune(own: ResolvedSpec, folder: Storage) -> None:
    """Tells a metric, because Tune refuses trials without any; the driver reads the records."""
    from ray import tune

    records = trials.read_epochs(folder)
    metric = trials.tune_metric(own, records[-1] if records else {})
    tune.report({"epoch": len(records), "metric": metric})


def _train(
    own: ResolvedSpec,
    folder: Storage,
    data_folder: Storage,
    key: str,
    handle: Any,
    until: int | None,
) -> None:
    def stop_at_rung(record: dict[str, Any]) -> None:
        # The state is copied, and it is written before the worker ends.
        if record["epoch"] == until:
            raise PlannedStopError(planned_stop.RUNG, record["step"])

    data = load(data_folder)
    # The values of a trial may build a different network from the one that the driver tried.
    prove_state(own, data)
    mailbox.get_reply(handle.enter.remote(key))
    hooks = Hooks(
        on_epoch=stop_at_rung,
        stop_request=lambda: mailbox.get_reply(handle.stop_reason.remote()),
    )
    try:
        worker.fit(own, folder, data.folder, hooks=hooks)
    finally:
        handle.leave.remote(key)


def _keep_failure(train: Callable[[], None], folder: Storage, values: dict[str, Any]) -> None:
    """Trains, and records an error that another attempt would meet again."""
    try:
        worker_failure.guard(0, train)
    except (RaydcError, WorkerFailure) as error:
        if _may_pass(error):
            raise
        cause = error.__cause__ if isinstance(error, WorkerFailure) else error
        trials.mark_failed(folder, values, describe(cause or error), str(error))


def _may_pass(error: BaseException | None) -> bool:
    """Whether the same trial may do better in another process: its machine was at fault."""
    import ray
    import torch

    from raydc.models.device import is_out_of_memory

    passing = (torch.AcceleratorError, ray.exceptions.RayError)
    seen: list[BaseException] = []
    # An error of storage is often the cause of one that says more.
    while error is not None and error not in seen:
        if isinstance(error, passing) or is_out_of_memory(error):
            return True
        if isinstance(error, OSError) and not isinstance(error, _LASTING):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
