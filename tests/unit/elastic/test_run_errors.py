"""Messages of a driver whose workers cannot start or have failed too often."""

from __future__ import annotations

import pytest
from training import training_spec
from worker_failures import make_failure

from raydc.elastic import run_errors
from raydc.loop.lost_peer import PeerLostError

SPEC = training_spec("/store", scaling={"num_workers": {"min": 2, "max": 4}})


def test_describe_lack_names_free_amounts_only_if_too_few_fit() -> None:
    total = {"CPU": 4.0}
    assert run_errors.describe_lack(SPEC, total, {"CPU": 2.0}) == ""
    lack = run_errors.describe_lack(SPEC, total, {"CPU": 1.0})
    assert lack == "2 worker(s) of {'CPU': 1.0} each, but only 1 of 4 CPU free"


def test_training_error_shows_pages_instead_of_what_followed() -> None:
    error = run_errors.training_error(SPEC, {0: PeerLostError("lost"), 1: make_failure(rank=1)})
    assert error.message.startswith("rank 1 on ")
    assert "lost" not in error.message
    assert "num_workers=0" in (error.hint or "")


def test_training_error_without_a_page_names_first_hand_causes() -> None:
    died = OSError("outer")
    died.__cause__ = MemoryError("\nout of memory\nmore")
    error = run_errors.training_error(SPEC, {1: PeerLostError("lost a peer"), 0: died})
    lines = error.message.splitlines()
    assert lines[1:] == ["    rank 0: MemoryError: out of memory"]
    alone = run_errors.training_error(SPEC, {1: PeerLostError("lost a peer")})
    assert "rank 1: PeerLostError: lost a peer" in alone.message


def test_training_error_unwraps_what_ray_names_differently() -> None:
    unhealthy = RuntimeError("unhealthy")
    unhealthy.health_check_failure = ValueError("no pulse")  # type: ignore[attr-defined]
    error = run_errors.training_error(SPEC, {0: unhealthy})
    assert "rank 0: ValueError: no pulse" in error.message


def test_start_error_names_needs_free_amounts_and_ray() -> None:
    error = run_errors.start_error(SPEC, {"CPU": 4.0}, {}, TimeoutError("slow\nvery"))
    assert (
        "at least 2 of {'CPU': 1.0} each; free now: {'CPU': 0.0}; Ray says: slow" in error.message
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead "
            "because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
            "detail: Worker unexpectedly exits with a connection error code 2. End of file. There "
            "are some potential root causes. (1) The process is killed by SIGKILL by OOM killer",
            "rank 1: its process is gone without a word: killed, crashed, or ended by os._exit "
            "(SYSTEM_ERROR)",
        ),
        (
            "The actor died.\nWorker exit type: INTENDED_SYSTEM_EXIT Worker exit detail: Worker "
            "exits by a signal.",
            "rank 1: Worker exits by a signal. (INTENDED_SYSTEM_EXIT)",
        ),
        ("Task was killed due to OOM\nmore", "killed by Ray, because its node ran out of memory"),
    ],
)
def test_training_error_says_what_a_dead_process_ended_with(text: str, shown: str) -> None:
    error = run_errors.training_error(SPEC, {0: PeerLostError("x"), 1: RuntimeError(text)}, 41)
    assert "training failed after step 41" in error.message
    assert shown in error.message
    assert "session_latest/logs" in (error.hint or "")
