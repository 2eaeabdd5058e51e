"""Decisions of a sweep: one journal, whatever order its results come in."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from fold_walks import SPACE, Curves, new_fold, sequential
from hypothesis import given, settings
from hypothesis import strategies as st

from raydc.errors import UsageError
from raydc.search import DecisionFold, Method, decide, rung_epochs

PROMOTION = Method("promotion", (1, 3, 9), 3, "max", (9,))


def records(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def entries(fold: DecisionFold, rung: int) -> list[int]:
    return [
        record["trial"]
        for record in records(fold.lines)
        if record.get("rung", -1) == rung and record["kind"] == "entry"
    ]


def table(*metrics: float | None, rungs: int = 3) -> Curves:
    """Curves on which a trial has the same metric at each rung."""
    return [[metric] * rungs for metric in metrics]


def test_best_third_of_each_prefix_is_promoted_in_order() -> None:
    fold = sequential(PROMOTION, table(0.1, 0.5, 0.2, 0.6, 0.3, 0.7, 0.0, 0.4, 0.8))
    # 1 is the best of three and 3 of four; of six two go on, 5 and 3, and of nine 8, 5 and 3.
    assert entries(fold, 0) == list(range(9))
    assert entries(fold, 1) == [1, 3, 5, 8]
    # 5 is the best of the first three of them, and 8 of all four.
    assert entries(fold, 2) == [5, 8]
    assert records(fold.lines)[-1] == {
        "kind": "end",
        "samples": 9,
        "winner": 8,
        "number": len(fold.lines),
        "before": records(fold.lines)[-1]["before"],
    }


def test_entry_of_stopping_goes_on_among_the_best_of_those_before_it() -> None:
    method = Method("stopping", (1, 3), 3, "min", (6,))
    fold = sequential(method, table(0.5, 0.6, 0.4, 0.45, 0.7, 0.1, rungs=2))
    # 0 is the first; 2 is the best of three; 3 is second of four, of which two go on.
    assert entries(fold, 1) == [0, 2, 3, 5]
    assert fold.stopped_after(1) == 0
    assert fold.describe_stop(1) == "place 2 of 2 after 1 epoch, 1 go on"


def test_equal_metrics_go_to_the_lower_number() -> None:
    fold = sequential(PROMOTION, table(*[0.5] * 9))
    assert entries(fold, 1) == [0, 1, 2]
    assert records(fold.lines)[-1]["winner"] == 0


@pytest.mark.parametrize("worst", [None, math.nan, math.inf, -math.inf])
def test_failed_and_diverged_trials_are_entries_that_never_go_on(worst: float | None) -> None:
    fold = sequential(PROMOTION, table(worst, worst, worst, 0.3, worst, worst, 0.2, 0.1, worst))
    assert entries(fold, 1) == [3, 6, 7]
    assert fold.stopped_after(0) == 0
    assert fold.describe_stop(0) == "no metric after 1 epoch"
    assert fold.describe_stop(7) == "place 3 of 3 after 3 epochs, 1 go on"
    assert records(fold.lines)[1]["metric"] is None


def test_sweep_of_which_all_trials_fail_ends_without_a_winner() -> None:
    fold = sequential(PROMOTION, table(*[None] * 9))
    assert fold.is_complete
    assert records(fold.lines)[-1]["winner"] is None


def test_rung_that_lets_nobody_go_on_sends_its_best_at_its_end() -> None:
    method = Method("promotion", (1, 3, 9), 3, "max", (4,))
    fold = sequential(method, table(0.1, 0.5, 0.2, 0.6))
    closings = [record for record in records(fold.lines) if record["kind"] == "closing"]
    assert [(line["rung"], line["goes_on"]) for line in closings] == [(1, [3])]
    # Of two entries none goes on.
    assert entries(fold, 1) == [1, 3]
    assert entries(fold, 2) == [3]


def test_certain_promotions_do_not_wait_for_what_is_missing() -> None:
    fold = new_fold(PROMOTION)
    for trial in (1, 2, 3, 4, 5):
        fold.add((trial, 0), 0.1 * trial)
    # Of six entries two go on. Whatever trial 0 brings, 5 is one of them; 4 may be or not.
    assert [result for result in fold.runnable() if result[1] == 1] == [(5, 1)]
    assert len(fold.lines) == 1
    fold.add((5, 1), 0.5)
    fold.add((0, 0), 0.0)
    assert [result for result in fold.runnable() if result[1] == 1] == [(2, 1), (3, 1), (4, 1)]
    # The journal has the order of a single worker, which would run trial 2 next.
    assert entries(fold, 0) == [0, 1, 2]
    assert records(fold.lines)[-1]["goes_on"] == [2]


def test_certain_decisions_of_stopping_do_not_wait() -> None:
    method = Method("stopping", (1, 3), 2, "max", (6,))
    fold = new_fold(method)
    for trial in (1, 2, 3):
        fold.add((trial, 0), 0.1 * trial)
    # Of the first three two go on, and one is missing.
    assert {result for result in fold.runnable() if result[1] == 1} == {(2, 1), (3, 1)}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_certain_trials_are_those_that_go_on_in_every_completion(data: st.DataObject) -> None:
    method = Method(data.draw(st.sampled_from(["promotion", "stopping"])), (1, 2), 2, "max", (5,))
    values = [0.0, 1.0, 2.0, None]
    known = data.draw(
        st.dictionaries(st.integers(0, 4), st.sampled_from(values), min_size=1, max_size=5)
    )
    fold = new_fold(method)
    for trial in data.draw(st.permutations(sorted(known))):
        fold.add((trial, 0), known[trial])
    certain = {trial for trial, rung in fold.runnable() if rung == 1}
    missing = [trial for trial in range(5) if trial not in known]
    # Beyond all known ones on both sides; a tie goes to the lower number.
    outcomes = []
    for code in range(5 ** len(missing)):
        full = dict(known)
        for trial in missing:
            code, digit = divmod(code, 5)
            full[trial] = (-1.0, 0.0, 1.5, 3.0, None)[digit]
        whole = new_fold(method)
        for trial in range(5):
            whole.add((trial, 0), full[trial])
        outcomes.append({trial for trial, rung in whole.runnable() if rung == 1})
    always = set.intersection(*outcomes)
    # A trial that is best at the end of a rung without any goes on too, which is certain late.
    assert certain <= always
    assert {trial for trial in always if trial in known} - certain <= closing_only(method, known)


def closing_only(method: Method, known: dict[int, float | None]) -> set[int]:
    return set(known) if sum(value is not None for value in known.values()) <= 1 else set()


def test_result_that_changes_is_refused() -> None:
    fold = new_fold(PROMOTION)
    fold.add((0, 0), 0.5)
    fold.add((0, 0), 0.5)
    with pytest.raises(ValueError, match=r"trial 0 .* 0\.6 after 1 epochs, and had 0\.5"):
        fold.add((0, 0), 0.6)


def test_lines_are_a_chain_and_a_prefix_of_what_comes() -> None:
    curves = table(0.1, 0.5, 0.2, 0.6, 0.3, 0.7, 0.0, 0.4, 0.8)
    whole = sequential(PROMOTION, curves).lines
    fold = new_fold(PROMOTION)
    results = [(trial, rung) for rung in range(3) for trial in range(9)]
    random.Random(3).shuffle(results)
    for result in results:
        fold.add(result, curves[result[0]][result[1]])
        assert fold.lines == whole[: len(fold.lines)]
    assert fold.lines == whole
    given = {result: curves[result[0]][result[1]] for result in results}
    assert decide(5, SPACE, PROMOTION, given) == whole
    assert decide(6, SPACE, PROMOTION, given)[1:] != whole[1:]


def test_widened_sweep_keeps_the_decisions_of_its_first_end() -> None:
    curves = table(0.1, 0.2, 0.9, 0.8, 0.3, 0.7, 0.0, 0.4, 0.5)
    narrow = sequential(Method("promotion", (1, 3, 9), 3, "max", (2,)), curves)
    wide = sequential(Method("promotion", (1, 3, 9), 3, "max", (2, 9)), curves)
    assert wide.lines[: len(narrow.lines)] == narrow.lines
    # The best of two went to the end, which a sweep of nine alone would not have done.
    assert entries(narrow, 2) == [1]
    assert entries(wide, 2)[0] == 1
    assert 1 not in entries(sequential(PROMOTION, curves), 2)


def test_stopped_trials_say_why() -> None:
    fold = sequential(PROMOTION, table(0.1, 0.5, 0.2, 0.6, 0.3, 0.7, 0.0, 0.4, 0.8))
    assert fold.describe_stop(7) == "place 5 of 9 after 1 epoch, 4 go on"
    assert fold.stopped_after(5) == 2
    assert fold.stopped_after(3) == 1
    assert fold.describe_stop(3) == "place 3 of 4 after 3 epochs, 2 go on"


def test_rungs_grow_by_the_factor_up_to_the_longest() -> None:
    assert rung_epochs(27, 1, 3) == (1, 3, 9, 27)
    assert rung_epochs(20, 2, 3) == (2, 6, 18, 20)
    assert rung_epochs(1, 1, 3) == (1,)
    assert rung_epochs(2, 5, 3) == (2,)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "median"},
        {"mode": "most"},
        {"epochs": (3, 1)},
        {"epochs": ()},
        {"samples": (4, 4)},
        {"samples": (0,)},
        {"factor": 1},
    ],
    ids=str,
)
def test_method_without_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Method(**{**vars(PROMOTION), **fields})


def test_first_line_names_what_chooses_the_points_unless_they_are_random() -> None:
    method = Method("stopping", (1, 3), 3, "max", (2,))
    old = (
        b'{"before":"","format":1,"kind":"sweep","method":{"epochs":[1,3],"factor":3,"mode":"max",'
        b'"type":"stopping"},"number":1,"seed":5,"space":{"a":{"choice":[1]}}}'
    )
    space = {"a": {"choice": [1]}}
    assert DecisionFold(5, space, method).lines == [old]
    given = DecisionFold(5, space, method, {"search_alg": "tpe", "lag": 8}).lines
    assert records(given)[0]["draws"] == {"search_alg": "tpe", "lag": 8}


@pytest.mark.parametrize("kind", ["stopping", "promotion"])
def test_epochs_that_are_left_fall_to_none_and_are_expected_about_right(kind: str) -> None:
    epochs, num_trials = (1, 3, 9), 27
    expected, ran = [], []
    for seed in range(30):
        metrics = random.Random(seed).sample(range(1000), num_trials)
        fold = DecisionFold(0, {}, Method(kind, epochs, 3, "max", (num_trials,)))
        before = fold.count_epochs()
        assert before[0] == 0
        expected.append(before[1])
        while runnable := fold.runnable():
            fold.add(runnable[0], float(metrics[runnable[0][0]]))
            trial, rung = runnable[0]
            assert fold.last_result(trial) == (rung, float(metrics[trial]))
        done, left = fold.count_epochs()
        assert left == pytest.approx(0.0)
        ran.append(done)
    assert sum(ran) / len(ran) == pytest.approx(expected[0], rel=0.15)
