"""How much the metric of a sweep depends on each searched field, by Optuna. Pure.

Method: PED-ANOVA (Watanabe et al., 2023, arXiv:2304.10255; for domains inside sections its
extension, arXiv:2601.20800). It compares the values of the best trials with those of all.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from raydc.search.learned_points import Observation, distribution
from raydc.search.point import Space, all_domains

# Optuna advises at least 5 of the best trials, and a quarter of all is as many as is the best.
FEWEST_TRIALS = 20
_FEWEST_BEST = 5
_BEST_FRACTION = 0.1


@dataclass(frozen=True)
class Importances:
    """The importances of the fields of a sweep.

    Attributes:
        shares: Part of all importance by the name of a domain, the largest first; they add up to 1
            unless all are 0.
        num_trials: Number of trials that were compared.
        num_best: How many of them count as the best; more if several have the same metric.
    """

    shares: dict[str, float]
    num_trials: int
    num_best: int


def find_importances(space: Space, results: Sequence[Observation], mode: str) -> Importances | None:
    """Computes importances from results that all come from equally long training.

    Args:
        space: Domains by spec path.
        results: One for each different point. No metric counts as the worst of the others.
        mode: Whether the largest or the smallest metric is the best: `max` or `min`.

    Returns:
        None for fewer than `FEWEST_TRIALS` results, or if all metrics are the same.
    """
    metrics = [one.metric for one in results if one.metric is not None]
    if len(results) < FEWEST_TRIALS or len(set(metrics)) < 2:
        return None
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    logging.getLogger("optuna").setLevel(logging.ERROR)
    worst = min(metrics) if mode == "max" else max(metrics)
    domains = all_domains(space)
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    for one in results:
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(one.numbers),
                distributions={name: distribution(domains[name]) for name in one.numbers},
                value=worst if one.metric is None else one.metric,
            )
        )
    fraction = max(_BEST_FRACTION, _FEWEST_BEST / len(results))
    with warnings.catch_warnings():
        # Of options that Optuna calls experimental, and of domains that few trials have.
        warnings.simplefilter("ignore")
        found = PedAnovaImportanceEvaluator(target_quantile=fraction).evaluate(study)
    total = sum(found.values()) or 1.0
    ordered = sorted(found, key=lambda name: (-found[name], name))
    shares = {name: found[name] / total for name in ordered}
    return Importances(shares, len(results), round(fraction * len(results)))
