"""A draw while earlier samples still run: by a Gaussian process that believes their results. Pure.

Draws of TPE that see the same results are near the same points, and nothing keeps them apart. This
one takes what is expected of the samples that run as their results, so that it goes where they are
not. Method: expected improvement (Jones et al., 1998) with the kriging believer (Ginsbourger et
al., 2010), among random points and changes of the best ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydc.search.fractions import Fractions
from raydc.search.gaussian_process import GaussianProcess
from raydc.search.point import Choose

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# More results make a draw slow, and samples that run matter less beside them.
MOST_RESULTS = 100
# Points are the same whose coordinates differ by no more.
_SAME = 1e-9
# Logarithms of two improvements that differ by no more are equal: threads and processors add in
# another order, and values of a choice that were never tried promise the same.
_EQUAL = 1e-6
# Metrics that differ by no more are the same: what is divided by it is no infinity.
_SMALLEST = 1e-300
# How far below the median metrics differ, by the distance from there to the best.
_MOST_BELOW = 2.0
# Candidates: random ones, and changes of the best points. A change is a normal number for each
# coordinate of a random part of all.
_NUM_RANDOM = 256
_NUM_BEST, _NUM_CHANGES = 4, 32
_SIZES, _PARTS = (0.05, 0.15, 0.3), (0.3, 0.6, 1.0)


def draw_row(
    fractions: Fractions,
    results: Sequence[tuple[Mapping[str, Any], float]],
    running: Sequence[Mapping[str, Any]],
    seed: int,
) -> Choose:
    """What draws the next point, for `make_point`.

    Args:
        fractions: Rows of the space.
        results: What was drawn for each sample that has a result, by the names of the domains, and
            its metric: higher is better, and minus infinity is the worst. Two at least.
        running: What was drawn for samples without a result.
        seed: Seed of the draw.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    rows = np.array([fractions.row(numbers) for numbers, _ in results])
    metrics = _normalise([metric for _, metric in results])
    known = fractions.encode(rows)
    process = GaussianProcess(known, metrics, fractions.squares)
    if running:
        others = fractions.encode(np.array([fractions.row(numbers) for numbers in running]))
        process.believe(others)
        known = np.vstack([known, others])
    best = rows[np.argsort(-metrics, kind="stable")[:_NUM_BEST]]
    candidates = _candidates(best, fractions.num_domains, generator)
    coordinates = fractions.encode(candidates)
    values = process.log_expected_improvement(coordinates)
    # A point that is drawn again brings nothing new; of a small space all may be known.
    is_new = [bool(np.abs(known - one).max(axis=1).min() > _SAME) for one in coordinates]
    values[~np.array(is_new)] = -np.inf
    first = int(np.argmax(values >= values.max() - _EQUAL))
    return fractions.choice(candidates[first].tolist())


def _normalise(metrics: Sequence[float]) -> Floats:
    """Metrics with a mean of 0 and a variance of 1.

    What is bad is not told from what is worse: diverged trials would hide how the good ones differ.
    """
    import numpy as np

    known = [metric for metric in metrics if math.isfinite(metric)]
    if not known:
        return np.zeros(len(metrics))
    best, middle, least = max(known), statistics.median(known), min(known)
    if best > middle:
        least = max(least, middle - _MOST_BELOW * (best - middle))
    # Halves, because the whole range of floats is wider than the largest of them. Between 0 and 1,
    # no square and no sum is too large for a float.
    found = np.maximum(metrics, least) / 2 - least / 2
    found /= max(float(found.max()), _SMALLEST)
    return np.asarray((found - found.mean()) / max(float(found.std()), 1e-9))


def _candidates(best: Floats, size: int, generator: np.random.Generator) -> Floats:
    import numpy as np

    found = [generator.random((_NUM_RANDOM, size))]
    for row in best:
        for change in _SIZES:
            steps = generator.normal(0.0, change, (_NUM_CHANGES, size))
            parts = generator.choice(_PARTS, (_NUM_CHANGES, 1))
            steps *= generator.random((_NUM_CHANGES, size)) < parts
            found.append(np.clip(row + steps, 0.0, 1.0 - 2.0**-53))
    return np.vstack(found)
