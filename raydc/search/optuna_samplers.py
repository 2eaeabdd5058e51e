"""Samplers of Optuna, each made anew for one draw of a sweep. Pure; used by the driver."""

from __future__ import annotations

from typing import Any

from raydc.search.point import derive_seed

# With fewer samples or results than these, points are spread evenly. Optuna has 10 random points
# for TPE, which is for more trials than most sweeps have: `python -m bench.sweep --samplers`.
FEWEST_SAMPLES = {"tpe": 4, "gp": 4, "cmaes": 1, "nsga2": 1}
FEWEST_RESULTS = {"tpe": 2, "gp": 4, "cmaes": 1, "nsga2": 1}
# Points of a generation of NSGA-II; Optuna has 50, for more trials than most sweeps have. The first
# generation is spread evenly.
POPULATION = 16


def make(name: str, seed: int, number: int, has_lag: bool, has_objectives: bool) -> Any:
    """Makes the sampler of Optuna for one draw.

    Args:
        name: `tpe`, `gp`, `cmaes` or `nsga2`.
        seed: Seed of the draw.
        number: Number of the sample.
        has_lag: Whether other samples of whom nothing is known are drawn with the same results.
        has_objectives: Whether costs are made small beside the metric.
    """
    from optuna import samplers

    if name == "tpe":
        # Draws that see the same results would all be near the same best points. Those that are
        # made domain by domain lead further away: every other one, or with several objectives all.
        # Without a lag that would learn more slowly: docs/benchmarks.md has the figures.
        if has_lag and has_objectives:
            # As Optuna has it: after 10 random points, each domain by itself.
            return samplers.TPESampler(seed=seed)
        return _make_tpe(seed, not (has_lag and number % 2), has_lag)
    first = samplers.RandomSampler(seed=derive_seed(seed, "random"))
    if name == "gp":
        # Training is exact: the same point has the same metric.
        return samplers.GPSampler(
            seed=seed,
            n_startup_trials=FEWEST_RESULTS[name],
            deterministic_objective=True,
            independent_sampler=first,
            warn_independent_sampling=False,
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    return samplers.CmaEsSampler(
        seed=seed,
        n_startup_trials=FEWEST_RESULTS[name],
        independent_sampler=first,
        warn_independent_sampling=False,
    )


def _make_tpe(seed: int, is_joint: bool, has_lag: bool) -> Any:
    from optuna import samplers

    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=FEWEST_RESULTS["tpe"],
        # The value of docs/benchmarks.md; 24 to 192 differ by less than a hundred runs show.
        n_ei_candidates=96,
        # Samples that still run differ by their seeds, and are no bad results.
        constant_liar=False,
        # Groups, because domains inside sections are not drawn for all points.
        multivariate=is_joint,
        group=is_joint,
        # With few results, draws hardly come near the ends of a range otherwise.
        consider_endpoints=has_lag,
    )
