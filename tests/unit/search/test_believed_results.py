"""Draws while earlier samples run: rows of points, the Gaussian process, and where a draw goes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import optimize, special, stats

from raydc.search import believed_results, gaussian_process
from raydc.search.fractions import Fractions
from raydc.search.gaussian_process import GaussianProcess
from raydc.search.learned_points import LearnedPoints
from raydc.search.point import all_domains, make_point, random_point
from raydc.spec.space import Domain

SGD = {"name": "sgd", "momentum": {"uniform": [0.5, 0.95]}}
SPACE = {
    "optimizer": Domain(choice=["adamw", SGD, {"name": "lion", "beta": {"choice": [0.9, 0.99]}}]),
    "rate": Domain(loguniform=[1e-4, 1e-1]),
    "width": Domain(lograndint=[8, 257]),
    "depth": Domain(randint=[1, 6]),
    "batch": Domain(choice=[16, 32, 128]),
}
PLANE = {"x": Domain(uniform=[0, 1]), "y": Domain(uniform=[0, 1])}


def numbers_of(choice: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {}

    def choose(name: str, domain: Domain) -> Any:
        numbers[name] = choice(name, domain)
        return numbers[name]

    make_point(SPACE, choose)
    return numbers


def test_row_of_a_point_makes_the_same_point() -> None:
    fractions = Fractions(SPACE)
    generator = np.random.default_rng(0)
    for _ in range(200):
        numbers = numbers_of(fractions.choice(generator.random(fractions.num_domains).tolist()))
        again = numbers_of(fractions.choice(fractions.row(numbers)))
        rate = again.pop("rate")
        assert rate == pytest.approx(numbers.pop("rate"))
        if "optimizer[1].momentum" in numbers:
            momentum = again.pop("optimizer[1].momentum")
            assert momentum == pytest.approx(numbers.pop("optimizer[1].momentum"))
        assert again == numbers


def test_rows_of_the_same_point_have_the_same_coordinates() -> None:
    fractions, generator = Fractions(SPACE), np.random.default_rng(1)
    rows = generator.random((200, fractions.num_domains))
    snapped = [fractions.row(numbers_of(fractions.choice(row.tolist()))) for row in rows]
    coordinates = fractions.encode(rows)
    assert np.allclose(coordinates, fractions.encode(np.array(snapped)))
    assert coordinates.min() >= 0
    assert coordinates.max() <= 1


def test_range_of_one_number_tells_no_points_apart() -> None:
    for domain in (Domain(randint=[3, 4]), Domain(lograndint=[3, 4])):
        fractions = Fractions({"layers": domain})
        coordinates = fractions.encode(np.array([[0.1], [0.9], fractions.row({"layers": 3})]))
        assert np.ptp(coordinates) < 1e-9


def test_range_from_almost_nothing_has_fractions() -> None:
    fractions = Fractions({"rate": Domain(loguniform=[1e-310, 1e300])})
    found = [fractions.row({"rate": rate})[0] for rate in (1e-310, 1e-5, 1e300)]
    assert found == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)


def test_what_a_point_does_not_have_makes_no_difference() -> None:
    fractions = Fractions(SPACE)
    names = list(all_domains(SPACE))
    first = np.full((1, len(names)), 0.1)
    second = first.copy()
    second[0, names.index("optimizer[1].momentum")] = 0.9
    # The first value of three is adamw, which has no momentum.
    assert np.array_equal(fractions.encode(first), fractions.encode(second))
    first[0, names.index("optimizer")] = second[0, names.index("optimizer")] = 0.5
    assert not np.array_equal(fractions.encode(first), fractions.encode(second))


def test_derivatives_of_the_fit_are_those_of_its_loss() -> None:
    generator = np.random.default_rng(2)
    points, metrics = generator.random((9, 3)), generator.normal(size=9)
    squares = (points[:, None] - points[None]) ** 2
    logs = np.array([-1.0, 0.2, 0.7, -3.0])
    _, slopes = gaussian_process._loss(logs, squares, metrics)
    numeric = optimize.approx_fprime(
        logs, lambda at: gaussian_process._loss(at, squares, metrics)[0], 1e-6
    )
    assert np.allclose(slopes, numeric, rtol=1e-3, atol=1e-4)


def test_process_knows_its_results_and_little_far_from_them() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 5)] * 2), axis=-1).reshape(-1, 2)
    metrics = np.sin(4 * grid[:, 0])
    metrics = (metrics - metrics.mean()) / metrics.std()
    process = GaussianProcess(grid, metrics)
    mean, deviation = process.predict(grid)
    assert np.allclose(mean, metrics, atol=0.1)
    assert process.predict(np.array([[3.0, 3.0]]))[1][0] > 5 * deviation.max()
    # The second coordinate changes nothing, so its length is longer.
    assert process._lengths[1] > process._lengths[0]


def test_logarithm_of_the_improvement_is_right_near_and_far() -> None:
    process = GaussianProcess(np.array([[0.1], [0.9]]), np.array([1.0, -1.0]))
    points = np.linspace(0.1, 0.9, 200)[:, None]
    mean, deviation = process.predict(points)
    above = (mean - process.best) / deviation
    # exp(x^2) erfc(x) keeps what the difference of two small numbers would lose.
    away = np.maximum(-above, 0.0)
    mills = math.sqrt(math.pi / 2) * special.erfcx(away / math.sqrt(2))
    expected = np.log(deviation) + stats.norm.logpdf(above) + np.log1p(-away * mills)
    found = process.log_expected_improvement(points)
    is_near, is_far = (above > -5) & (above < 0), above < -5
    assert is_near.sum() > 20
    assert is_far.sum() > 3
    assert np.allclose(found[is_near], expected[is_near], atol=1e-6)
    # One term of a series.
    assert np.allclose(found[is_far], expected[is_far], atol=0.12)


def test_draws_that_see_the_same_results_are_far_from_each_other() -> None:
    fractions = Fractions(PLANE)
    generator = np.random.default_rng(3)
    seen = [
        ({"x": float(x), "y": float(y)}, math.sin(9 * x) * math.cos(7 * y))
        for x, y in generator.random((10, 2))
    ]
    running: list[dict[str, Any]] = []

    def draw(seed: int) -> dict[str, Any]:
        return make_point(PLANE, believed_results.draw_row(fractions, seen, running, seed))

    for number in range(6):
        drawn = draw(number)
        assert drawn == draw(number), "the same results and seed draw the same point"
        assert all(math.dist(drawn.values(), other.values()) > 0.1 for other in running)
        running.append(drawn)


def test_believed_points_leave_what_is_expected_of_others() -> None:
    generator = np.random.default_rng(4)
    points, others = generator.random((12, 3)), generator.random((9, 3))
    metrics = generator.normal(size=12)
    at_once, in_turn = GaussianProcess(points, metrics), GaussianProcess(points, metrics)
    at_once.believe(others)
    for one in others:
        in_turn.believe(one[None])
    candidates = generator.random((50, 3))
    for first, second in zip(at_once.predict(candidates), in_turn.predict(candidates), strict=True):
        assert np.allclose(first, second)


def test_process_is_solved_once_however_many_samples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    solve = GaussianProcess._set

    def note(process: GaussianProcess, points: Any, metrics: Any) -> None:
        sizes.append(len(points))
        solve(process, points, metrics)

    monkeypatch.setattr(GaussianProcess, "_set", note)
    seen = [({"x": 0.1 * place, "y": 0.5}, math.sin(place)) for place in range(6)]
    running = [{"x": 0.5, "y": 0.01 * place} for place in range(40)]
    believed_results.draw_row(Fractions(PLANE), seen, running, 1)
    assert sizes == [6, 46]


def test_draw_does_not_depend_on_how_numbers_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # All values that were never tried promise the same.
    space = {"kind": Domain(choice=list("abcdefgh"))}
    seen = [({"kind": 0}, 0.1), ({"kind": 1}, 0.2)]
    exact = GaussianProcess.log_expected_improvement
    drawn = set()
    for seed in range(8):
        generator = np.random.default_rng(seed)

        def rounded(process: GaussianProcess, points: Any, generator: Any = generator) -> Any:
            found = exact(process, points)
            return found + generator.normal(0.0, 1e-12, len(found))

        monkeypatch.setattr(GaussianProcess, "log_expected_improvement", rounded)
        drawn.add(believed_results.draw_row(Fractions(space), seen, [], 1)("kind", space["kind"]))
    assert len(drawn) == 1


LONG = {
    "kind": Domain(choice=[f"kind {number}" for number in range(5000)]),
    "model": Domain(choice=["linear", {"name": "mlp", "act": {"choice": list("abcdefgh") * 9}}]),
    "short": Domain(choice=["a", "b", "c"]),
    "rate": Domain(loguniform=[1e-4, 1e-1]),
}


def test_long_lists_have_one_coordinate_and_short_ones_one_for_each_value() -> None:
    fractions = Fractions(LONG)
    # The list inside a section is long, too; those of 2 and 3 values are not.
    assert fractions.is_code == [True, False, False, True, False, False, False, False]
    points = [
        {"kind": kind, "model": model, "short": 0, "rate": 1e-2, **act}
        for kind, model, act in (
            (7, 1, {"model[1].act": 3}),
            (7, 1, {"model[1].act": 3}),
            (4000, 1, {"model[1].act": 70}),
            (4000, 0, {}),
        )
    ]
    coordinates = fractions.encode(np.array([fractions.row(one) for one in points]))
    assert coordinates.shape == (4, len(fractions.is_code))
    between = fractions.squares(coordinates, coordinates)
    assert not between[0, 1].any()
    # Two values are as far from each other as with a coordinate each: 1/2 and 1/2.
    assert between[0, 2].sum() == pytest.approx(2.0)
    # What a point does not have is in the middle between all values.
    assert between[2, 3].tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 0, 0, 0, 0])
    assert np.array_equal(between, between.transpose(1, 0, 2))


def test_draw_from_a_long_list_takes_little_memory_and_learns_which_values_are_good() -> None:
    fractions, generator = Fractions(LONG), np.random.default_rng(0)
    good, seen = {3, 2500, 4711}, []
    for place in range(100):
        kind = sorted(good)[place % 3] if place % 4 == 0 else int(generator.integers(5000))
        numbers = {"kind": kind, "model": 0, "short": place % 3, "rate": 1e-2}
        seen.append((numbers, 1.0 if kind in good else 0.01 * float(generator.random())))
    tracemalloc.start()
    try:
        drawn = [believed_results.draw_row(fractions, seen, [], seed) for seed in range(3)]
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert {choose("kind", LONG["kind"]) for choose in drawn} <= good


def test_draw_does_not_depend_on_the_last_bits_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, processors and libraries add in other orders."""
    fractions, cases = Fractions(SPACE), []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        seen = []
        for _ in range(20):
            numbers = numbers_of(fractions.choice(generator.random(fractions.num_domains).tolist()))
            seen.append((numbers, math.sin(5 * float(np.sum(fractions.row(numbers))))))
        cases.append((seen[:15], [one for one, _ in seen[15:]], seed))

    def draws() -> list[dict[str, Any]]:
        return [numbers_of(believed_results.draw_row(fractions, *case)) for case in cases]

    expected, exact, noise = draws(), gaussian_process._matern, np.random.default_rng(1)

    def rounded(squares: Any, lengths: Any) -> Any:
        covariance, slope = exact(squares, lengths)
        factor = 1.0 + noise.normal(0.0, 1e-15, covariance.shape)
        return covariance * factor, slope * factor

    monkeypatch.setattr(gaussian_process, "_matern", rounded)
    for _ in range(3):
        assert draws() == expected


# Three draws, as a sweep on another machine would make them.
DRAWS = """
import json, math
import numpy as np
from raydc.search import believed_results
from raydc.search.fractions import Fractions
from raydc.spec.space import Domain
space = {f"x{number}": Domain(uniform=[0, 1]) for number in range(4)}
fractions, found = Fractions(space), []
for size in (5, 30, 100):
    rows = np.random.default_rng(size).random((size + 7, 4)).tolist()
    points = [dict(zip(space, row)) for row in rows]
    seen = [(point, math.sin(5 * sum(point.values()))) for point in points[:size]]
    choose = believed_results.draw_row(fractions, seen, points[size:], size)
    found.append([choose(name, domain) for name, domain in space.items()])
print(json.dumps(found))
"""


def test_draws_are_the_same_with_other_threads_and_kernels_of_other_processors() -> None:
    machines = [
        {"OPENBLAS_NUM_THREADS": "1"},
        {"OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3"},
    ]
    drawn = set()
    for machine in machines:
        command = [sys.executable, "-W", "ignore", "-c", DRAWS]
        run = subprocess.run(
            command, env={**os.environ, **machine}, capture_output=True, text=True, check=True
        )
        drawn.add(run.stdout)
    assert len(drawn) == 1


@pytest.mark.parametrize(
    "metrics",
    [
        [-math.inf] * 5,
        [0.5] * 5,
        [-math.inf, 0.1, 0.2, -1e12, 0.3],
        [-math.inf, 1.0, 1.0, 1.0, 0.5],
        [1.7e308] * 5,
        [-1.7e308, 1.7e308, 0.0, -1e307, -math.inf],
        [-0.5, -1e200, -1e300, -1e301, -1e302],
        [1e-320, 2e-320, 0.0, 0.0, 0.0],
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_and_equal_results_are_no_error(metrics: list[float]) -> None:
    found = believed_results._normalise(metrics)
    assert np.isfinite(found).all()
    assert found.mean() == pytest.approx(0.0, abs=1e-9)
    rows = [({"x": 0.2 * place, "y": 0.5}, metric) for place, metric in enumerate(metrics)]
    make_point(PLANE, believed_results.draw_row(Fractions(PLANE), rows, [{"x": 0.5, "y": 0.5}], 1))


def test_two_results_are_told_apart_however_large_they_are() -> None:
    for worse in (-1.0, -1e200, -1.7e308):
        assert believed_results._normalise([1.0, worse]) == pytest.approx([1.0, -1.0])


def test_diverged_trials_do_not_hide_how_good_ones_differ() -> None:
    found = believed_results._normalise([-1e12, -math.inf, 0.80, 0.81, 0.82])
    assert found[4] - found[2] > 0.3
    assert found[0] == found[1] == found.min()


def test_points_of_a_small_space_are_not_drawn_again() -> None:
    space = {"a": Domain(choice=[1, 2, 3]), "b": Domain(choice=["x", "y", "z"])}
    fractions = Fractions(space)
    seen = [({"a": a, "b": b}, float(a - b)) for a in range(3) for b in range(3)]
    for left in ({"a": 0, "b": 2}, {"a": 1, "b": 0}):
        others = [one for one in seen if one[0] != left]
        drawn = believed_results.draw_row(fractions, others[:5], [one for one, _ in others[5:]], 3)
        assert {name: drawn(name, domain) for name, domain in space.items()} == left
    # All are known: then one of them is drawn.
    make_point(space, believed_results.draw_row(fractions, seen, [], 3))


def test_every_other_draw_with_a_lag_believes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    draw_row = believed_results.draw_row

    def note(fractions: Any, results: Any, running: Any, seed: int) -> Any:
        seen.append((len(results), len(running)))
        return draw_row(fractions, results, running, seed)

    monkeypatch.setattr(believed_results, "draw_row", note)
    monkeypatch.setattr(believed_results, "MOST_RESULTS", 8)
    for lag in (1, 4):
        points = LearnedPoints("tpe", SPACE, 5, "min", lag=lag)
        for number in range(20):
            if number >= lag:
                points.tell(number - lag, None if number % 5 == 0 else 0.1 * (number % 3))
            points.draw()
    # Sample 6 sees 3 results, up to sample 10, which sees 7; then there are too many.
    assert seen == [(3, 3), (5, 3), (7, 3)]


def test_draws_of_a_mixed_space_are_points_of_it() -> None:
    points = LearnedPoints("tpe", SPACE, 5, "max", lag=4)
    for number in range(40):
        if number >= 4:
            points.tell(number - 4, math.sin(number))
        point = points.draw().point
        assert json.dumps(point)
        assert list(point) == list(random_point(SPACE, 5, 0))
