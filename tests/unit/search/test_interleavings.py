"""Random orders, lost workers and killed drivers on LCBench curves: one journal."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from fold_walks import Curves, RandomSweep, by_arrival, sequential
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.lcbench import Surrogate, draw
from raydc.search import Method

NUM_TRIALS = 64
RUNGS = (1, 3, 9, 27)
METHODS = {kind: Method(kind, RUNGS, 3, "max", (NUM_TRIALS,)) for kind in ("promotion", "stopping")}


@pytest.fixture(scope="module")
def curves(shared_data: Path) -> Curves:
    """Validation accuracy of 64 trials of a task; six of them fail or diverge on the way."""
    accuracy, _ = Surrogate(shared_data / "lcbench").curves("3945", draw(7, NUM_TRIALS), RUNGS[-1])
    found: list[list[float | None]] = [[float(row[e - 1]) for e in RUNGS] for row in accuracy]
    for trial, rung in ((3, 0), (10, 1), (17, 0), (31, 2), (40, 0), (55, 1)):
        found[trial][rung:] = [None] * (len(RUNGS) - rung)
    return found


def num_examples(request: pytest.FixtureRequest) -> int:
    return 10_000 if request.config.getoption("--soak") else 150


@pytest.mark.parametrize("kind", list(METHODS))
def test_every_interleaving_gives_one_journal(
    curves: Curves, kind: str, request: pytest.FixtureRequest
) -> None:
    method = METHODS[kind]
    whole = sequential(method, curves).lines
    one_by_one = by_arrival(method, in_order(whole), curves)
    journals = set()
    counts = {"lost": 0, "killed": 0, "other by arrival": 0}

    # The seeds are drawn anew only where there are many of them.
    @settings(
        max_examples=num_examples(request),
        deadline=None,
        database=None,
        derandomize=not request.config.getoption("--soak"),
    )
    @given(
        seed=st.integers(0, 2**64 - 1),
        workers=st.sampled_from([1, 2, 3, 4, 8, 16, 64]),
        troubles=st.integers(0, 2),
    )
    def interleave(seed: int, workers: int, troubles: int) -> None:
        sweep = RandomSweep(method, curves, random.Random(seed), workers, troubles)
        fold = sweep.run()
        assert fold.is_complete
        assert fold.lines == whole
        # What is executed is what the journal has: nothing is run that nobody asked for.
        assert len(sweep.executed) == len(set(sweep.executed)) == num_entries(fold.lines)
        counts["lost"] += sweep.num_lost
        counts["killed"] += sweep.num_killed
        journals.add(hashlib.sha256(b"\n".join(fold.lines)).hexdigest())
        arrived = by_arrival(method, sweep.executed, curves)
        counts["other by arrival"] += arrived != one_by_one

    interleave()
    assert len(journals) == 1
    assert min(counts.values()) > 100
    # The control: by arrival, the same results often give other decisions, or the same with luck.
    assert counts["other by arrival"] > num_examples(request) // 3


def in_order(lines: list[bytes]) -> list[tuple[int, int]]:
    """The results in the order of the journal."""
    entries = [json.loads(line) for line in lines if b'"kind":"entry"' in line]
    return [(entry["trial"], entry["rung"]) for entry in entries]


def num_entries(lines: list[bytes]) -> int:
    return sum(b'"kind":"entry"' in line for line in lines)
