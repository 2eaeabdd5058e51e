"""How many trials run at a time, compared with all ways to place them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from placed_cases import cases, place

from raydc import plan, spec
from raydc.errors import ClusterError


@pytest.mark.parametrize(("nodes", "needs", "workers", "trials"), cases())
def test_trials_that_are_counted_can_be_placed_and_one_more_cannot(
    nodes: list[dict[str, float]], needs: dict[str, float], workers: int, trials: int
) -> None:
    found = plan.count_placeable(needs, nodes, workers)

    def can_place(number: int) -> bool:
        return place(needs, [dict(node) for node in nodes], number * workers)

    assert can_place(found)
    assert not can_place(found + 1)
    assert (found >= trials) == can_place(trials)


def test_cases_have_both_outcomes() -> None:
    outcomes = {
        plan.count_placeable(needs, nodes, workers) >= trials
        for nodes, needs, workers, trials in cases()
    }
    assert outcomes == {True, False}


BASE = "name: p\ndata: {source: a.csv}\nmodel: {name: linear}\n"
SWEEP = "sweep={space: {train.learning_rate: {uniform: [0.1, 1]}}}"


def made(nodes: Sequence[dict[str, float]], *overrides: str) -> plan.Plan:
    totals = {
        name: sum(node.get(name, 0.0) for node in nodes) for name in set(itertools.chain(*nodes))
    }
    resolved = spec.resolve(spec.loads(BASE, overrides=[SWEEP, *overrides]))
    return plan.make(resolved, totals, nodes=nodes)


def test_sweep_counts_trials_node_by_node() -> None:
    wide = "scaling.resources_per_worker={CPU: 2}"
    assert made([{"CPU": 3}, {"CPU": 3}], wide).num_concurrent_trials == 2
    assert made([{"CPU": 6}], wide).num_concurrent_trials == 3
    assert made([{"CPU": 6}], wide, "sweep.max_concurrent_trials=2").num_concurrent_trials == 2
    assert " samples by tpe over " in made([{"CPU": 6}], "sweep.search_alg=tpe").lines[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_trial_that_fits_no_node_is_refused_with_the_numbers(workers: int) -> None:
    nodes = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0}, {"CPU": 3.0}]
    each = r"sweep: 1 trial of 4 CPU each do not fit into 3 nodes, 2 of 2 CPU; 1 of 3 CPU"
    with pytest.raises(ClusterError, match=each):
        made(
            nodes,
            f"scaling.num_workers={workers}",
            "scaling.resources_per_worker={CPU: 4}",
            "scaling.use_gpu=false",
        )


def test_trials_of_several_workers_are_counted_as_a_whole_and_refused_with_the_numbers() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 2.0}]
    two = made(nodes, "scaling.num_workers=2")
    assert two.num_concurrent_trials == 2
    assert two.lines[2] == "          a trial has 2 workers of 1 CPU"
    some = made(nodes, "scaling.num_workers={min: 1, max: 4}")
    assert some.num_concurrent_trials == 5
    text = "a trial begins with 1 worker of 1 CPU, and up to 4 train it where others are idle"
    assert some.lines[2].strip() == text
    message = r"sweep: 6 workers of 1 trial, of 1 CPU each do not fit into 2 nodes, .*: 5 fit"
    with pytest.raises(ClusterError, match=message):
        made(nodes, "scaling.num_workers=6")
