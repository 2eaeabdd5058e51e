"""One trial of a sweep: trains it, tells Ray Tune its epochs, and records how it ended.

Runs in Tune's actors.
"""

from __future__ import annotations

import sys
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
    """Trains one trial, from where an earlier sweep left it.

    Args:
        config: The trial as it was drawn, with its key and values, as Tune passes it.
        spec: Resolved spec of the sweep, as plain values.
        data_uri: URI of the folder of the prepared data set.
        folder_uri: URI of the folder of the sweep.
        handle: Mailbox, which says when to stop.

    Raises:
        WorkerFailure: An error that may pass; Tune tries the trial again.
        SystemExit: Tune has ended the trial.
    """
    key, values = config["trial"]["key"], config["trial"]["all_values"]
    own = trials.trial_spec(specs.resolve(specs.from_dict(spec)), values)
    folder = Storage(folder_uri) / "trials" / key
    told = _Told(own)
    try:
        # The scheduler starts anew with each driver and has to see the epochs that are done.
        if trials.has_ended(folder):
            told.tell_all(folder)
            return
        # Tune ends a trial with its last epoch, whose checkpoint may be missing after a crash.
        told.tell_all(folder, below=own.train.epochs)
        # A trial that has failed gets another chance with each driver: its code may be another one.
        folder.delete(trials.FAILED_FILE)
        _keep_failure(
            lambda: _train(own, folder, Storage(data_uri), key, handle, told.tell), folder, values
        )
        if trials.is_failed(folder):
            told.tell_anything()
        else:
            # Before the last epoch is told, because Tune ends the trial with it.
            trials.mark_ended(folder, own, values, trials.FINISHED_FILE)
            told.tell_all(folder)
    except PlannedStopError as stop:
        # Tune's way again: after a return it would report once more, and wait for ever.
        if stop.reason == planned_stop.PRUNE:
            sys.exit(0)
        # Otherwise the driver ends, and the next one continues from the checkpoint.


class _Told:
    """The epochs of a trial that Tune knows in this process.

    Args:
        own: Resolved spec of the trial, with its metric.
    """

    def __init__(self, own: ResolvedSpec) -> None:
        self._own = own
        self._epoch = 0

    def tell_all(self, folder: Storage, below: int | None = None) -> None:
        """Tells the epochs that are recorded and that Tune does not know yet.

        Args:
            folder: Folder of the trial.
            below: The first epoch that is not told; None tells all.
        """
        for record in trials.read_epochs(folder):
            if below is None or record["epoch"] < below:
                self.tell(record)

    def tell_anything(self) -> None:
        """Tells the worst metric if Tune knows no epoch: it refuses trials that end without any."""
        from ray import tune

        if self._epoch == 0:
            tune.report({"epoch": 0, "metric": trials.tune_metric(self._own, {})})

    def tell(self, record: dict[str, Any]) -> None:
        """Tells an epoch, and waits until Tune has decided whether the trial goes on.

        Raises:
            PlannedStopError: Tune has ended the trial.
        """
        from ray import tune

        if record["epoch"] <= self._epoch:
            return
        self._epoch = record["epoch"]
        metric = trials.tune_metric(self._own, record)
        try:
            tune.report({"epoch": record["epoch"], "metric": metric})
        # This is how Tune ends the thread of a trial. In the loop it would count as a failure.
        except SystemExit:
            raise PlannedStopError(planned_stop.PRUNE, record["step"]) from None


def _train(
    own: ResolvedSpec,
    folder: Storage,
    data_folder: Storage,
    key: str,
    handle: Any,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    def tell_epoch(record: dict[str, Any]) -> None:
        # The state is copied, and a thread writes it. A driver that ends answers no more, and need
        # not wait: a checkpoint that is cut off costs its steps, not a bit of the model.
        handle.leave.remote(key)
        tell(record)
        mailbox.get_reply(handle.enter.remote(key))

    data = load(data_folder)
    # The values of a trial may build a different network from the one that the driver tried.
    prove_state(own, data)
    mailbox.get_reply(handle.enter.remote(key))
    hooks = Hooks(
        on_epoch=tell_epoch,
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

    passing = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, ray.exceptions.RayError)
    seen: list[BaseException] = []
    # An error of storage is often the cause of one that says more.
    while error is not None and error not in seen:
        if isinstance(error, passing):
            return True
        if isinstance(error, OSError) and not isinstance(error, _LASTING):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
