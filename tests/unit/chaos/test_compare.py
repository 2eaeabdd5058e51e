"""The comparison of two runs."""

from __future__ import annotations

from pathlib import Path

from small_runs import run_to_end

from raydc.chaos import compare
from raydc.data import prepared


def test_differences_of_equal_runs_are_none(tmp_path: Path, data: prepared.Prepared) -> None:
    one, other = run_to_end(tmp_path, data, "one"), run_to_end(tmp_path, data, "other")
    assert one.weights == other.weights
    assert (compare.differences(one, other), one.row_violations) == ([], [])


def test_differences_name_the_first_step_and_tensors(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    one, other = (
        run_to_end(tmp_path, data, "one"),
        run_to_end(tmp_path, data, "other", learning_rate=2e-2),
    )
    found = compare.differences(one, other)
    assert found[0].startswith("the loss differs from step 2 on: ")
    assert "tensors of model.safetensors differ, the first is" in found[1]
    assert "of optimizer.safetensors differ" in found[2]
