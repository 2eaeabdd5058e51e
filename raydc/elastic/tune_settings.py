"""How Ray Tune runs inside a sweep: quiet, and without what nothing reads. Runs in the driver."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from raydc.errors import TrainError, first_line

# Longer than any sweep.
_NEVER_S = 10**9


def set_environment() -> None:
    """Sets what Tune reads from the environment when it is imported."""
    # Tune's new console output prints tables whatever `verbose` says.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Nothing reads the tables that Tune keeps of each trial, and its own state: the records of the
    # trials and the journal have all, and to write the state takes longer with each trial.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_NEVER_S)
    # Tune's handler would end the sweep as if it were complete, with the trials that there are.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # The queue knows how many trials may wait for a slot, and that a helper waits for none.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000"


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silences Tune's log, which has a traceback for each attempt: raydc shows a line for each."""
    logger = logging.getLogger("ray.tune")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Says in one line that Ray has ended a process for its memory, of which Tune knows nothing.

    Raises:
        TrainError: A process was ended in a way that Tune takes for an error of its own.
    """
    import ray

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error.__cause__, ray.exceptions.RayError):
            raise
        said = first_line(error.__cause__)
        raise TrainError(
            f"the processes of the sweep were lost: {said}",
            "--resume continues all trials; fewer at a time need less memory: "
            "sweep.max_concurrent_trials.",
        ) from error
