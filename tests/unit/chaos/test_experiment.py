"""The steps again in one process, and the faults that a spec can have."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import spec_of

from raydc.chaos import shrink
from raydc.chaos.experiment import check_again, choices_of
from raydc.data import prepared
from raydc.errors import ChaosError, UsageError
from raydc.storage import Storage
from raydc.tracking import events


def test_check_again_passes_a_network_without_hidden_state(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    little = shrink.shrink_spec(spec_of(tmp_path, "good", train={"logical_shards": 3}), 12, 1)
    folder = check_again(little, data, Storage(str(tmp_path / "chaos")))
    assert events.surviving(events.read(folder, "metrics"))[-1]["step"] == 12


@pytest.mark.parametrize(
    ("kind", "culprit", "reason"),
    [
        (
            "counting",
            "body.2 (Counting, hidden.py:",
            r"body.2.num_calls is \d+ the first time and \d+ the second",
        ),
        (
            "forgetting",
            "body.2 (Forgetting, hidden.py:",
            "its buffer body.2.mean differs, which is in no checkpoint",
        ),
        ("random", "body.2 (Drawing, hidden.py:", "it draws from Python's `random`"),
        ("numpy", "body.2 (Drawing, hidden.py:", "it draws from `numpy.random`"),
        (
            "builder",
            "body.1 (Linear",
            "starts with a different bias when built again with the same seed",
        ),
        ("odd", "body.1 (Linear", "the gradient of body.1.weight in"),
        (
            "unrestored",
            "body.2 (Unrestored, hidden.py:",
            "has a different gain after its weights were restored",
        ),
    ],
)
def test_check_again_names_the_module_with_hidden_state(
    tmp_path: Path, data: prepared.Prepared, kind: str, culprit: str, reason: str
) -> None:
    little = shrink.shrink_spec(spec_of(tmp_path, kind, train={"logical_shards": 3}), 12, 1)
    with pytest.raises(ChaosError, match=reason) as caught:
        check_again(little, data, Storage(str(tmp_path / "chaos")))
    assert culprit in caught.value.message
    assert caught.value.hint


def test_check_again_names_the_first_step_that_differs(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    # The 31st pass of three a step is the first of step 11; the resumed run has done 6 steps less.
    little = shrink.shrink_spec(spec_of(tmp_path, "counting", train={"logical_shards": 3}), 12, 1)
    with pytest.raises(ChaosError, match="step 11 differs when it is done after a resume"):
        check_again(little, data, Storage(str(tmp_path / "chaos")))


def test_choices_of_depend_on_workers_and_exactness(tmp_path: Path) -> None:
    alone, workers = (
        spec_of(tmp_path, "good"),
        spec_of(tmp_path, "good", scaling={"num_workers": 2}),
    )
    assert choices_of(alone, 0, ()) == ["worker", "checkpoint", "restore"]
    assert choices_of(workers, 2, ()) == ["worker", "checkpoint", "restore", "driver", "resize"]
    assert choices_of(workers, 2, ("resize", "worker")) == ["worker", "resize"]
    assert "resize" not in choices_of(spec_of(tmp_path, "good", train={"exact": False}), 2, ())
    with pytest.raises(UsageError, match="--only driver: this fault does not fit"):
        choices_of(alone, 0, ("driver",))
