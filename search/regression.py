"""A small Gaussian process: what the metric of a schedule may be, from the schedules that were evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["GaussianProcess"]

Real = NDArray[np.float64]

_LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Length scales tried, for features scaled to a spread of 1, per root of their number."""

_NOISES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Variances of the noise tried, as shares of the signal's: an accuracy on few pictures has steps."""

_LINEAR = 1.0
"""Weight of the straight part beside the curved one: more tokens are better, nearly everywhere."""


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A fitted process with a straight and a squared-exponential part.

    The length scale and the noise are those of the greatest marginal likelihood on a grid, so the same data give the
    same predictions; no start is drawn. Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 5.4.1.

    Args:
        features: (n, d) as fitted, scaled.
        centre: (d,) of the features.
        spread: (d,) of the features.
        length: The length scale.
        weights: (n,) of the kernel's columns.
        root: (n, n), a root of the inverse of the kernel matrix with its noise.
        mean: Of the values.
        scale: Of the values.
        variance: Of the signal, as a share of the scale's square.

    Example:
        >>> x = np.linspace(0, 1, 20)[:, None]
        >>> model = GaussianProcess.fit(x, x[:, 0] ** 2)
        >>> mean, deviation = model.predict(np.array([[0.5]]))
        >>> round(float(mean[0]), 2), bool(deviation[0] < 0.05)
        (0.25, True)
    """

    features: Real
    centre: Real
    spread: Real
    length: float
    weights: Real
    root: Real
    mean: float
    scale: float
    variance: float

    @classmethod
    def fit(cls, features: Real, values: Real) -> GaussianProcess:
        """Fit (n, d) features to (n,) values, n at least 1."""
        centre, spread = features.mean(0), features.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        x = (features - centre) / spread
        mean, scale = float(values.mean()), float(values.std()) or 1.0
        if not values.any():  # no floor was ever missed: nothing to learn
            return cls(x[:0], centre, spread, 1.0, x[:0, 0], x[:0, :0], 0.0, 0.0, 0.0)
        y = (values - mean) / scale
        best: tuple[float, float, Real, Real, float] | None = None
        for length in _LENGTHS:
            eigenvalues, vectors = np.linalg.eigh(_kernel(x, x, length))
            turned = vectors.T @ y
            for noise in _NOISES:
                kept = np.maximum(eigenvalues, 0.0) + noise
                # The signal's variance has its best value in closed form, so only two numbers are searched.
                variance = max(float((turned**2 / kept).mean()), 1e-12)
                likelihood = -float(len(y) * np.log(variance) + np.log(kept).sum())
                if best is None or likelihood > best[0]:
                    best = likelihood, length, vectors @ (turned / kept), vectors / np.sqrt(kept), variance
        assert best is not None  # the grid is not empty
        _, length, weights, root, variance = best
        return cls(x, centre, spread, length, weights, root, mean, scale, variance)

    def predict(self, features: Real) -> tuple[Real, Real]:
        """(m, d) -> means (m,) and standard deviations (m,), without the noise of an answer."""
        x = (features - self.centre) / self.spread
        across = _kernel(x, self.features, self.length)
        own = 1.0 + _LINEAR * (x**2).mean(1)
        left = np.maximum(own - ((across @ self.root) ** 2).sum(1), 0.0)
        return self.mean + self.scale * (across @ self.weights), self.scale * np.sqrt(self.variance * left)


def _kernel(a: Real, b: Real, length: float) -> Real:
    """(n, d), (m, d) -> (n, m)"""
    product = a @ b.T / a.shape[1]
    distance = (a**2).mean(1)[:, None] + (b**2).mean(1)[None, :] - 2 * product
    return np.asarray(np.exp(-0.5 * np.maximum(distance, 0.0) / length**2) + _LINEAR * product)
