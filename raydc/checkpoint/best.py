"""The best checkpoint of a run, and what stands in for a lost one. Runs in workers and drivers.

A state names the step that was the best so far. Its checkpoint may be damaged or deleted, or it may
have been lost on its way to storage together with its process.
"""

from __future__ import annotations

import math

from raydc.checkpoint.state import State, unpack_state
from raydc.checkpoint.store import CheckpointStore, Found, Skipped
from raydc.errors import CheckpointError, FormatError
from raydc.spec.resolved import ResolvedTrain


def find_lost(store: CheckpointStore, found: Found) -> Skipped | None:
    """The best checkpoint that a state names, if it is not whole by the sizes of its files.

    Args:
        store: The checkpoints of the run.
        found: The state; one that is the best itself has lost nothing.
    """
    best_step = unpack_state(found).best_step
    if best_step is None or best_step == found.step:
        return None
    reason = store.why_incomplete(best_step)
    return None if reason is None else Skipped(best_step, reason)


def newest_before(store: CheckpointStore, step: int) -> Found | None:
    """The newest checkpoint before a step that verifies and whose best is whole, or None.

    From there the run computes the checkpoint of that step once more, with the same bits.
    """
    for earlier in reversed([known for known in store.steps() if known < step]):
        try:
            found = store.read(earlier)
        except FormatError:
            raise
        except CheckpointError:
            continue
        if find_lost(store, found) is None:
            return found
    return None


def keep_model(store: CheckpointStore, found: Found) -> None:
    """Removes the checkpoints of a run that has ended, but for those that its model needs.

    Args:
        store: The checkpoints of the run. The newest one that verifies remains, and the best one,
            which it names.
        found: The checkpoint that became the model, which remains. It differs from the best one if
            that one is lost.
    """
    newest = store.require_newest()
    store.keep_only({newest.step, unpack_state(newest).best_step, found.step})


def choose(
    store: CheckpointStore, newest: Found, train: ResolvedTrain
) -> tuple[Found, Skipped | None]:
    """Chooses the checkpoint that becomes the model.

    Args:
        store: The checkpoints of the run.
        newest: The newest one that verifies, which names the best one.
        train: Section `train` of the resolved spec, with the metric.

    Returns:
        The best checkpoint; without validation, the newest. If the best does not verify, the best
        of those that do, and what is wrong with the best.
    """
    best_step = unpack_state(newest).best_step
    if best_step in (None, newest.step):
        return newest, None
    try:
        return store.read(best_step or 0), None
    except FormatError:
        raise
    except CheckpointError as error:
        return _best_of_rest(store, newest, train), Skipped(best_step or 0, error.message)


def _best_of_rest(store: CheckpointStore, newest: Found, train: ResolvedTrain) -> Found:
    chosen, rank = newest, _rank(unpack_state(newest), train)
    for step in reversed([known for known in store.steps() if known < newest.step]):
        try:
            found = store.read(step)
        except CheckpointError:
            continue
        if (here := _rank(unpack_state(found), train)) > rank:
            chosen, rank = found, here
    return chosen


def _rank(state: State, train: ResolvedTrain) -> tuple[float, float]:
    """Metric and loss of a state, more is better; those of no epoch's end are the least."""
    metrics = state.metrics or {}
    metric = metrics.get(train.metric)
    # In the middle of an epoch the metrics are those of weights that have changed since.
    if state.loss_rows or metric is None:
        return -math.inf, -math.inf
    loss = metrics.get("loss")
    return metric if train.mode == "max" else -metric, -math.inf if loss is None else -loss
