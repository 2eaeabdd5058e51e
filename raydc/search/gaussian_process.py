"""A Gaussian process of a metric over points of the unit cube (Rasmussen and Williams, 2006). Pure.

Its covariance is a Matern function of 5/2 with a length for each coordinate. The lengths are those
that are most probable. Small numbers of points only: a fit takes milliseconds for 30 of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Squares = Callable[[Floats, Floats], Floats]

# Medians and spreads of the priors, which are log-normal: of a length, and of the variance of the
# noise, which is small because training is exact.
_LENGTH, _LENGTH_SPREAD = math.log(0.5), 1.0
_NOISE, _NOISE_SPREAD = -6.0, 1.5
_LENGTHS, _NOISES = (-4.0, 4.0), (-12.0, 0.0)
_MOST_STEPS = 60


class GaussianProcess:
    """What is believed of a metric after some results.

    Args:
        points: Coordinates by point.
        metrics: Metric of each, higher is better, with a mean of 0 and a variance of 1.
        squares: Squared differences of points, by point, other point and coordinate; None for those
            of numbers.
    """

    def __init__(self, points: Floats, metrics: Floats, squares: Squares | None = None) -> None:
        import numpy as np
        from scipy import optimize

        self._squares = squares or _squares
        between = self._squares(points, points)
        start = np.append(np.full(points.shape[1], _LENGTH), _NOISE)
        found = optimize.minimize(
            lambda logs: _loss(logs, between, metrics),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[_LENGTHS] * points.shape[1] + [_NOISES],
            options={"maxiter": _MOST_STEPS},
        )
        self._lengths, self._noise = np.exp(found.x[:-1]), math.exp(found.x[-1])
        self._set(points, metrics)

    def _set(self, points: Floats, metrics: Floats) -> None:
        import numpy as np
        from scipy import linalg

        self._points, self._metrics = points, metrics
        covariance = self._covariance(points) + self._noise * np.eye(len(points))
        self._factor = linalg.cholesky(covariance, lower=True)
        self._weights = linalg.cho_solve((self._factor, True), metrics)

    @property
    def best(self) -> float:
        """The best metric so far, also of points whose results are only believed."""
        return float(self._metrics.max())

    def believe(self, points: Floats) -> None:
        """Takes what is expected of points for their results (Ginsbourger et al., 2010).

        So what is drawn next is not near them: they promise nothing more. What is expected of one
        is the same before and after others are believed, so all are taken at once.

        Args:
            points: Coordinates of points without a result.
        """
        import numpy as np

        mean, _ = self.predict(points)
        self._set(np.vstack([self._points, points]), np.append(self._metrics, mean))

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations of the metrics of some points."""
        import numpy as np
        from scipy import linalg

        covariance = self._covariance(points)
        solved = linalg.solve_triangular(self._factor, covariance.T, lower=True)
        variance = 1.0 - (solved**2).sum(axis=0)
        return covariance @ self._weights, np.sqrt(np.maximum(variance, 1e-10))

    def log_expected_improvement(self, points: Floats) -> Floats:
        """Logarithm of how much a point is expected to be better than the best one.

        In the logarithm, because far from the best points it is too small for a number (Ament et
        al., 2023).
        """
        import numpy as np
        from scipy import stats

        mean, deviation = self.predict(points)
        above = (mean - self.best) / deviation
        near = np.maximum(above, -5.0)
        exact = np.log(stats.norm.pdf(near) + near * stats.norm.cdf(near))
        # For large distances below the best, the first term of a series.
        far = np.minimum(above, -5.0)
        series = stats.norm.logpdf(far) - 2.0 * np.log(-far)
        found: Floats = np.log(deviation) + np.where(above > -5.0, exact, series)
        return found

    def _covariance(self, points: Floats) -> Floats:
        return _matern(self._squares(points, self._points), self._lengths)[0]


def _squares(points: Floats, others: Floats) -> Floats:
    found: Floats = (points[:, None] - others[None]) ** 2
    return found


def _matern(squares: Floats, lengths: Floats) -> tuple[Floats, Floats]:
    """Covariance, and a factor of its derivatives.

    Args:
        squares: Squared differences by point, point and coordinate.
        lengths: Length of each coordinate.
    """
    import numpy as np

    scaled = np.sqrt(5.0 * (squares / lengths**2).sum(axis=-1))
    decay = np.exp(-scaled)
    return (1.0 + scaled + scaled**2 / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay


def _loss(logs: Floats, squares: Floats, metrics: Floats) -> tuple[float, Any]:
    """Negative logarithm of how probable lengths and noise are, and its derivatives.

    Args:
        logs: Logarithms of the lengths and of the variance of the noise.
        squares: Squared differences by point, point and coordinate.
        metrics: Metric of each point.
    """
    import numpy as np
    from scipy import linalg

    lengths, noise = np.exp(logs[:-1]), math.exp(logs[-1])
    covariance, slope = _matern(squares, lengths)
    identity = np.eye(len(metrics))
    factor = linalg.cholesky(covariance + noise * identity, lower=True)
    inverse = linalg.cho_solve((factor, True), identity)
    weights = inverse @ metrics
    loss = 0.5 * float(metrics @ weights) + float(np.log(np.diag(factor)).sum())
    pull = np.outer(weights, weights) - inverse
    by_length = -0.5 * np.einsum("ij,ijd->d", pull * slope, squares / lengths**2)
    by_noise = -0.5 * noise * float(np.trace(pull))
    from_prior = np.append(
        (logs[:-1] - _LENGTH) / _LENGTH_SPREAD**2, (logs[-1] - _NOISE) / _NOISE_SPREAD**2
    )
    loss += 0.5 * float((((logs[:-1] - _LENGTH) / _LENGTH_SPREAD) ** 2).sum())
    loss += 0.5 * float(((logs[-1] - _NOISE) / _NOISE_SPREAD) ** 2)
    return loss, np.append(by_length, by_noise) + from_prior
