"""Draws that depend on results: the same however the results come, and after any restart."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raydc.errors import RunError
from raydc.search.draws import LearnedDraws
from raydc.search.learned_points import LearnedPoints, Observation
from raydc.spec.space import Domain
from raydc.storage import Storage

RATE = "train.learning_rate"
SPACE = {
    "model": Domain(
        choice=[
            {"name": "mlp", "depth": {"choice": [1, 2]}, "width": {"lograndint": [8, 65]}},
            {"name": "cnn", "batch_norm": {"choice": [True, False]}},
        ]
    ),
    RATE: Domain(loguniform=[1e-4, 1e-1]),
}
SMALL = {"model.depth": Domain(choice=[1, 2]), "model.width": Domain(choice=[8, 16])}
LAG = 3


def metric_of(point: Mapping[str, Any]) -> float | None:
    """A metric that is best for a rate of 0.01 and a wide network; every seventh trial fails."""
    model = point["model"]
    width = model.get("width", 20) if isinstance(model, dict) else 8
    value = -abs(math.log10(point[RATE]) + 2) + 0.01 * width
    return None if int(1e6 * point[RATE]) % 7 == 0 else value


class Sampling:
    """Draws in a folder, by a driver that may be killed."""

    def __init__(self, folder: Path, name: str = "tpe", space: Any = SPACE, **given: Any) -> None:
        self.folder, self.name, self.space = Storage(str(folder / "draws")), name, space
        self.lag, self.known = given.get("lag", LAG), given.get("known", ())
        self.num_reads = 0

    def begin(self, num_samples: int, seed: int = 5) -> LearnedDraws:
        def read_known() -> tuple[Observation, ...]:
            self.num_reads += 1
            return self.known

        return LearnedDraws(
            self.folder,
            self.name,
            self.lag,
            self.space,
            seed,
            "max",
            num_samples,
            lambda point: json.dumps(point, sort_keys=True),
            read_known,
        )

    def lines(self) -> list[bytes]:
        return [self.folder.read_bytes(name) for name in self.folder.names()]

    def run(self, num_samples: int, kills: int = 0, order: int | None = None) -> LearnedDraws:
        """Runs all trials, which end in some order, with a driver that is killed now and then."""
        generator = random.Random(order)
        draws, metrics = self.begin(num_samples), {}
        draws.extend(metrics)
        while open_trials := [n for n in range(len(draws.trials)) if n not in metrics]:
            number = generator.choice(open_trials) if order is not None else open_trials[0]
            metrics[number] = metric_of(draws.trials[number]["all_values"])
            if generator.random() < kills / num_samples:
                draws = self.begin(num_samples)
            draws.extend(metrics)
        return draws


@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp"])
def test_study_in_memory_draws_what_a_rebuilt_one_draws(tmp_path: Path, name: str) -> None:
    # A Gaussian process takes its time; its first draw is that of sample 6.
    num_samples = 8 if name == "gp" else 24
    in_memory = Sampling(tmp_path / "memory", name)
    in_memory.run(num_samples)
    rebuilt = Sampling(tmp_path / "rebuilt", name)
    # A driver for each sample.
    metrics: dict[int, float | None] = {}
    for number in range(num_samples):
        draws = rebuilt.begin(num_samples)
        draws.extend(metrics)
        metrics[number] = metric_of(draws.trials[number]["all_values"])
    assert rebuilt.lines() == in_memory.lines()
    assert len(in_memory.lines()) == 1 + num_samples


def test_draws_do_not_depend_on_the_order_of_results_or_on_kills(tmp_path: Path) -> None:
    undisturbed = Sampling(tmp_path / "undisturbed")
    undisturbed.run(20)
    for seed in range(3):
        disturbed = Sampling(tmp_path / str(seed))
        disturbed.run(20, kills=4, order=seed)
        assert disturbed.lines() == undisturbed.lines()


def test_sample_sees_the_results_up_to_its_lag_and_no_more(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path)
    draws = sampling.begin(12)
    assert draws.extend({}) == LAG
    # What is known beyond does not help.
    assert draws.extend({1: 0.5, 2: 0.5}) == 0
    assert draws.extend({0: 0.5, 1: 0.5, 2: None}) == 3
    records = [json.loads(line) for line in sampling.lines()][1:]
    saw = [record["saw"] for record in records]
    assert saw == [None] * 3 + [
        {"trial": 0, "metric": 0.5},
        {"trial": 1, "metric": 0.5},
        {"trial": 2, "metric": None},
    ]
    assert [record["sample"] for record in records] == list(range(6))
    assert draws.known_metrics() == {0: 0.5, 1: 0.5, 2: None}


def test_results_change_what_is_drawn(tmp_path: Path) -> None:
    drawn = []
    for folder, sign in (("a", 1), ("b", -1)):
        draws = Sampling(tmp_path / folder, lag=1).begin(12)
        metrics: dict[int, float | None] = {}
        while draws.extend(metrics):
            metrics = {
                number: sign * math.log(trial["all_values"][RATE])
                for number, trial in enumerate(draws.trials)
            }
        drawn.append([trial["all_values"] for trial in draws.trials])
    first = next(n for n, pair in enumerate(zip(*drawn, strict=True)) if pair[0] != pair[1])
    assert first == 4
    high, low = ([one[RATE] for one in points[6:]] for points in drawn)
    assert min(sorted(high)[3:]) > max(sorted(low)[:3])


def test_wider_sweep_keeps_its_first_draws(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path)
    sampling.run(10)
    before = sampling.lines()
    sampling.run(20)
    assert sampling.lines()[: len(before)] == before
    whole = Sampling(tmp_path / "whole")
    whole.run(20)
    assert whole.lines() == sampling.lines()
    with pytest.raises(RunError, match="has 20 samples, and the spec 10"):
        sampling.begin(10)


def test_point_that_is_drawn_again_has_the_key_of_its_twin(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path, space=SMALL, lag=2)
    draws = sampling.begin(9)
    metrics: dict[int, float | None] = {}
    while draws.extend(metrics):
        metrics = {n: 1.0 * one["all_values"]["model.width"] for n, one in enumerate(draws.trials)}
    keys = [trial["key"] for trial in draws.trials]
    assert len(set(keys)) <= 4 < len(keys)
    twins = [json.loads(line)["twin"] for line in sampling.lines()[1:]]
    assert twins == [
        None if keys.index(key) == n else keys.index(key) for n, key in enumerate(keys)
    ]
    assert twins == [sampling.begin(9).twin(number) for number in range(9)]


def test_result_that_a_draw_has_not_seen_so_is_refused(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path)
    draws = sampling.begin(12)
    draws.extend({})
    draws.extend({0: 0.5})
    again = sampling.begin(12)
    with pytest.raises(RunError, match=r"trial 0 has a first result of 0\.25, .* seen 0\.5"):
        again.extend({0: 0.25})
    assert sampling.begin(12).extend({0: 0.5, 1: 0.5}) == 1


@pytest.mark.parametrize("field", ["lag", "seed", "space", "name"])
def test_draws_of_other_settings_are_refused(tmp_path: Path, field: str) -> None:
    Sampling(tmp_path).begin(4).extend({})
    other = Sampling(tmp_path)
    given = {"lag": 4, "space": SMALL, "name": "cmaes"}
    if field in given:
        setattr(other, field, given[field])
    with pytest.raises(RunError, match=r"draws/00000001\.json has another decision"):
        other.begin(4, 6 if field == "seed" else 5)


def test_results_of_other_sweeps_come_first_and_are_kept(tmp_path: Path) -> None:
    known = tuple(
        Observation({"model": 1, "model[1].batch_norm": 0, RATE: rate}, -abs(math.log10(rate) + 2))
        for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 5e-2, 1e-1)
    )
    warm = Sampling(tmp_path / "warm", known=known)
    draws = warm.run(6)
    assert warm.num_reads == 1
    # The other sweep may be gone.
    warm.known = ()
    warm.run(8)
    assert warm.num_reads == 1
    head = json.loads(warm.lines()[0])
    assert head["known"][4] == [{"model": 1, "model[1].batch_norm": 0, RATE: 1e-2}, 0.0]
    assert set(draws.head() or {}) == {"search_alg", "lag", "known"}
    cold = Sampling(tmp_path / "cold").run(6)
    assert cold.trials[0] != draws.trials[0]
    assert set(cold.head() or {}) == {"search_alg", "lag"}


def test_failed_trials_are_the_worst(tmp_path: Path) -> None:
    """Draws go away from where all trials fail."""
    space = {RATE: Domain(loguniform=[1e-4, 1e-1])}
    points = LearnedPoints("tpe", space, 5, "max")
    for number in range(16):
        rate = points.draw().point[RATE]
        points.tell(number, None if rate > 1e-3 else -0.5)
    later = [points.draw().point[RATE] for _ in range(8)]
    assert sum(rate <= 1e-3 for rate in later) >= 6
