"""The page of a worker's failure, and its key."""

from __future__ import annotations

import pickle

import pytest
from worker_failures import make_failure

from raydc.elastic import worker_failure
from raydc.elastic.worker_failure import WorkerFailure
from raydc.engine.interruption import Interruption
from raydc.errors import DataError, with_notes
from raydc.loop.lost_peer import PeerLostError
from raydc.loop.planned_stop import PlannedStopError


def test_failure_is_one_page_and_survives_pickling() -> None:
    failure = make_failure(step=12, rank=3)
    page = str(pickle.loads(pickle.dumps(failure)))  # noqa: S301 - own bytes.
    assert page.startswith("rank 3 on ")
    assert "after step 12, its 2 training rows there: 3, 7\n  ValueError: cat\n    at " in page
    assert "worker_failures.py" in page


def test_key_ignores_addresses_of_objects() -> None:
    same, other = make_failure("<Cat at 0x7f01>"), make_failure("<Cat at 0x8ee2>")
    assert same.key == other.key != make_failure("<Dog at 0x7f01>").key


@pytest.mark.parametrize(
    "error", [DataError("no"), PlannedStopError("grow", 4), PeerLostError("lost")]
)
def test_guard_passes_deliberate_errors_on(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        worker_failure.guard(1, work)
    assert caught.value is error


def test_guard_wraps_other_errors() -> None:
    with pytest.raises(WorkerFailure, match=r"rank 1 on .* failed\n  ZeroDivisionError"):
        worker_failure.guard(1, lambda: 1 / 0)


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()])
def test_exit_of_user_code_is_a_failure_with_its_step(error: BaseException) -> None:
    def work() -> None:
        with with_notes(lambda: ["after step 3"]):
            raise error

    with pytest.raises(WorkerFailure) as caught:
        worker_failure.guard(0, work)
    assert type(error).__name__ in caught.value.page
    # A KeyboardInterrupt may be a signal's, which needs no notes.
    assert ("after step 3" in caught.value.page) == isinstance(error, SystemExit)


def test_signal_of_the_own_process_passes() -> None:
    def work() -> None:
        raise Interruption(15)

    with pytest.raises(Interruption):
        worker_failure.guard(0, work)
