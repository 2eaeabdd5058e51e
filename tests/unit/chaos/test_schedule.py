"""Schedules of faults."""

from __future__ import annotations

import pytest

from raydc.chaos import schedule
from raydc.errors import UsageError
from raydc.loop import fault_injection


@pytest.mark.parametrize("seed", range(20))
def test_draw_depends_on_the_seed_alone_and_fits_the_run(seed: int) -> None:
    choices = (
        schedule.WORKER,
        schedule.CHECKPOINT,
        schedule.RESTORE,
        schedule.DRIVER,
        schedule.RESIZE,
    )
    drawn = schedule.draw(seed, 5, 24, choices, 4)
    assert drawn == schedule.draw(seed, 5, 24, choices, 4)
    kills = [fault for fault in drawn if fault.place != fault_injection.RESTORED]
    steps = [fault.step for fault in kills]
    assert steps == sorted(set(steps))
    assert min(steps) >= 2
    assert 12 <= max(steps) < 24
    assert len(kills) == 5
    assert sorted(fault.kind for fault in drawn) == [
        "driver",
        "resize",
        "worker",
        "worker",
        "worker",
        "worker",
    ]
    assert all(1 <= (fault.workers or 1) <= 4 and 0 <= fault.rank < 4 for fault in drawn)


def test_draw_differs_by_seed_and_refuses_too_many_faults() -> None:
    drawn = {tuple(schedule.draw(seed, 4, 24, schedule.CHOICES[:5], 4)) for seed in range(20)}
    assert len(drawn) == 20
    with pytest.raises(UsageError, match="13 kills do not fit into 24 steps"):
        schedule.draw(0, 13, 24, [schedule.WORKER], 1)
