"""The fence of an attempt: an older one writes nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc.errors import RunError
from raydc.storage import Storage
from raydc.tracking import attempt_fence, events, lease
from raydc.tracking.attempt_fence import AttemptFence, ReplacedError


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def test_older_attempt_is_refused_and_the_newer_one_is_not(run: Storage) -> None:
    old, new = AttemptFence(run), AttemptFence(run)
    old.check()  # Before any claim there is nothing to compare.
    old.claim()
    old.check()
    new.claim()
    with pytest.raises(RunError, match="a newer attempt of the run at") as caught:
        old.check()
    assert "writes nothing more" in (caught.value.hint or "")
    new.check()


def test_attempts_that_claim_at_once_are_told_apart(run: Storage) -> None:
    first, second = AttemptFence(run), AttemptFence(run)
    first.claim(7)
    second.claim(7)
    second.check()
    with pytest.raises(RunError):
        first.check()


def test_late_claim_does_not_end_the_attempt_that_replaced_it(run: Storage) -> None:
    late, new = AttemptFence(run), AttemptFence(run)
    new.claim(8)
    with pytest.raises(RunError, match="newer attempt"):
        late.claim(7)
    new.check()


def test_worker_that_claims_with_its_own_number_does_not_take_back_what_was_begun_elsewhere(
    run: Storage,
) -> None:
    number = AttemptFence(run).next_number()
    for _ in range(2):
        AttemptFence(run).claim(number)
    new = AttemptFence(run)
    new.claim(AttemptFence(run).next_number())
    with pytest.raises(ReplacedError):
        AttemptFence(run).claim(number)
    new.check()


def test_numbers_of_another_driver_do_not_count(run: Storage) -> None:
    with lease.hold(run):
        AttemptFence(run).claim(2**70)
    with lease.hold(run):
        fence = AttemptFence(run)
        fence.claim(3)
        fence.check()


def test_attempt_of_a_driver_that_lost_the_run_does_not_take_it_back(run: Storage) -> None:
    trial = run / "sweep/trials/a"
    with lease.hold(run) as lost:
        early = AttemptFence(trial, lost)
        early.claim()
    with lease.hold(run) as owner:
        new = AttemptFence(trial, owner)
        new.claim()
        before = trial.read_bytes(attempt_fence.FILE)
        # One that goes on, and one that the old driver starts only now.
        with pytest.raises(lease.TakenOverError, match="was taken over by process"):
            early.check()
        with pytest.raises(lease.TakenOverError):
            AttemptFence(trial, lost).claim()
        assert trial.read_bytes(attempt_fence.FILE) == before
        new.check()
    # The other driver has ended since; that makes the run no more its own.
    with pytest.raises(lease.TakenOverError, match="its new driver has ended"):
        AttemptFence(trial, lost).claim()


def test_claim_that_a_lost_driver_writes_too_late_does_not_end_the_attempt_of_the_owner(
    run: Storage,
) -> None:
    with lease.hold(run) as owner:
        new = AttemptFence(run, owner)
        new.claim(3)
        # It has looked at the lease before, and was suspended right before it wrote.
        late = {"number": 2**70, "token": "late", "driver": "lost"}
        run.write_json(attempt_fence.FILE, late)
        new.check()
        assert run.read_json(attempt_fence.FILE)["number"] == 3
        # A newer attempt of the same driver still replaces it.
        AttemptFence(run, owner).claim(4)
        with pytest.raises(ReplacedError):
            new.check()


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"number": "x"}', None])
def test_damaged_claim_is_nobodys(run: Storage, damaged: bytes | None) -> None:
    fence = AttemptFence(run)
    fence.claim()
    if damaged is None:
        run.delete(attempt_fence.FILE)
    else:
        run.write_bytes(attempt_fence.FILE, damaged)
    fence.check()
    AttemptFence(run).claim()
    with pytest.raises(RunError):
        fence.check()


def test_log_of_an_older_attempt_gets_no_more_lines(run: Storage) -> None:
    old = AttemptFence(run)
    old.claim()
    log = events.EventLog(run, "metrics", True, old.check)
    log.write(kind="step", step=1)
    AttemptFence(run).claim()
    with pytest.raises(RunError):
        log.write(kind="step", step=2)
    with pytest.raises(RunError):
        log.flush()
    assert [record["step"] for record in events.read(run, "metrics")] == [1]
