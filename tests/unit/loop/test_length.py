"""The length of a run in steps and epochs."""

from __future__ import annotations

import pytest

from raydc.loop.length import Length


@pytest.mark.parametrize(("total_steps", "num_epochs"), [(21, 3), (22, 4), (20, 3), (7, 1), (1, 1)])
def test_length_with_partial_last_epoch_counts_it(total_steps: int, num_epochs: int) -> None:
    assert Length(total_steps, 7).num_epochs == num_epochs


def test_length_covers_each_step_of_the_run_once() -> None:
    length, seen, step = Length(17, 7), [], 0
    while step < length.total_steps:
        epoch, start, stop = length.rest_of_epoch(step)
        seen += [(epoch, number) for number in range(start, stop)]
        step += stop - start
        assert length.ends_epoch(step)
    assert seen == [divmod(number, 7) for number in range(17)]


def test_rest_of_epoch_from_the_middle_starts_there() -> None:
    length = Length(17, 7)
    assert length.rest_of_epoch(9) == (1, 2, 7)
    assert length.rest_of_epoch(15) == (2, 1, 3)


def test_ends_epoch_is_true_at_epochs_and_at_the_end_only() -> None:
    length = Length(17, 7)
    assert [step for step in range(1, 18) if length.ends_epoch(step)] == [7, 14, 17]
    assert [length.epochs_begun(step) for step in (1, 7, 8, 17)] == [1, 1, 2, 3]
