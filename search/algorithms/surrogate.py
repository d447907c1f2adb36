"""Surrogate-assisted search: many children are ranked by a regression on all answers, few are evaluated.

The idea is LINAS's (A. Sarah, D. Cummings and others, "LINAS: Lightweight Iterative Neural Architecture Search", 2022):
an inner evolution goes on by predicted metrics, and only the best of what it finds is looked at. Predictions rank, and
never leave this module; every schedule's cost is known.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.configuration import Choice
from tavt_kit.core.front import hypervolume
from tavt_kit.search.algorithms.base import Outcome, Sampler
from tavt_kit.search.algorithms.nsga2 import Evolution
from tavt_kit.search.proposals import non_dominated
from tavt_kit.search.space import Levels

Real = NDArray[np.float64]

# Length scales tried, for features scaled to a spread of 1, per root of their number.
_LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
# Variances of the noise tried, as shares of the signal's: an accuracy on few images has steps.
_NOISES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_LINEAR = 1.0  # weight of the straight part beside the curved one: more tokens are better, nearly everywhere


Predict = Callable[[Real], tuple[Real, Real]]
"""(m, d) features -> means (m,) and standard deviations (m,), without the noise of an answer."""


def fit_process(features: Real, values: Real) -> Predict:
    """Fit a Gaussian process with a straight and a squared-exponential part to (n, d) features and (n,) values.

    The length scale and the noise are those of the greatest marginal likelihood on a grid, so the same data give the
    same predictions; no start is drawn. Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 5.4.1.

    Example:
        >>> x = np.linspace(0, 1, 20)[:, None]
        >>> mean, deviation = fit_process(x, x[:, 0] ** 2)(np.array([[0.5]]))
        >>> round(float(mean[0]), 2), bool(deviation[0] < 0.05)
        (0.25, True)
    """
    if not values.any():  # no floor was ever missed: nothing to learn
        return lambda asked: (np.zeros(len(asked)), np.zeros(len(asked)))
    centre, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    x = (features - centre) / spread
    mean, scale = float(values.mean()), float(values.std()) or 1.0
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
    # (n,) weights of the kernel's columns, and (n, n) the root of the inverse of its matrix with the noise.
    _, length, weights, root, variance = best

    def predict(asked: Real) -> tuple[Real, Real]:
        scaled = (asked - centre) / spread
        across = _kernel(scaled, x, length)
        own = 1.0 + _LINEAR * (scaled**2).mean(1)
        left = np.maximum(own - ((across @ root) ** 2).sum(1), 0.0)
        return mean + scale * (across @ weights), scale * np.sqrt(variance * left)

    return predict


def _kernel(a: Real, b: Real, length: float) -> Real:
    """(n, d), (m, d) -> (n, m)"""
    product = a @ b.T / a.shape[1]
    distance = (a**2).mean(1)[:, None] + (b**2).mean(1)[None, :] - 2 * product
    return np.asarray(np.exp(-0.5 * np.maximum(distance, 0.0) / length**2) + _LINEAR * product)


_LEARNT = 400  # answers learnt from, the newest: the work of a fit grows with their cube

_CHILDREN, _GENERATIONS = 48, 10
"""Of the inner evolution; 480 predictions take about as long as one evaluation of a small model."""

_OPTIMISM = 0.5  # standard deviations by which a prediction is believed better than its mean: what is unknown is tried
_NEARLY = 0.005  # predicted shortfall that is still looked at: half a point of the images


class Surrogate(Sampler):
    """Proposes what a regression on all answers expects to be best; it has to be given the ``cost``."""

    name = "surrogate"

    def _first(self) -> list[Levels]:
        return self._pool.first(self.population, self._seeds)

    def _bred(self) -> list[Levels]:
        """Of many children, those that are predicted to add most to the front."""
        missed = self._missed
        if np.isnan(missed).all():  # nothing was answered
            return []
        features = self._features(np.stack(self._told))[-_LEARNT:]
        values = self._losses[:, 1], np.nan_to_num(missed, nan=1.0)
        models = [fit_process(features, value[-_LEARNT:]) for value in values]
        rows = self._children(models)
        rows = rows[[row.tobytes() not in self._pool.asked for row in rows]]
        if not len(rows):
            return []
        losses, missed = self._predicted(models, [self.space.decode(row) for row in rows], rows)
        near = missed <= max(_NEARLY, float(missed.min()))
        return list(rows[near][self._most_added(losses[near])])

    def _most_added(self, losses: Real) -> list[int]:
        """The indices of up to ``population`` of (n, 2) losses whose hypervolume, added one by one, is most.

        What a point adds shrinks as others are taken, so one whose last addition is not the greatest can wait.
        """
        dense = float(self._costs([self.space.dense])[0])
        known = self._losses
        held = [(cost / dense, 1 - loss) for cost, loss in known[non_dominated(known)].tolist()]
        points = [(cost / dense, 1 - loss) for cost, loss in losses.tolist()]
        volume, taken = hypervolume(held), list[int]()
        heap = [(-math.inf, index, -1) for index in np.flatnonzero(non_dominated(losses)).tolist()]
        while heap and len(taken) < self.population:
            _, index, seen = heapq.heappop(heap)
            if seen == len(taken):
                taken.append(index)
                held.append(points[index])
                volume = hypervolume(held)
                continue
            heapq.heappush(heap, (volume - hypervolume([*held, points[index]]), index, len(taken)))
        return taken

    def _children(self, models: Sequence[Predict]) -> Levels:
        """(n, G): a small space in full, else all that an evolution on predictions asks for, begun with the front."""
        if self.space.size <= _CHILDREN * _GENERATIONS:
            return np.stack([row for row in self.space.every() if self._pool.fits(self.space.decode(row))])
        inner = Evolution(
            self.space, seed=int(self._rng.integers(2**31)), population=_CHILDREN,
            seeds=[self.space.decode(row) for row in self._front()],
            fits=self._pool.fits,
        )  # fmt: skip
        genes = []
        for _ in range(_GENERATIONS):
            proposals = inner.ask()
            if not proposals:
                break
            genes += (rows := [self.space.encode(schedule) for schedule in proposals])
            losses, missed = self._predicted(models, proposals, np.stack(rows))
            inner.tell([
                Outcome(cost, 1.0 - loss, short)
                for (cost, loss), short in zip(losses.tolist(), missed.tolist(), strict=True)
            ])  # fmt: skip
        return np.stack(genes)

    def _predicted(self, models: Sequence[Predict], schedules: Sequence[Choice], rows: Levels) -> tuple[Real, Real]:
        """(n, 2) losses, the first of them known, and (n,) shortfalls."""
        features = self._features(rows)
        expected = [predict(features) for predict in models]
        loss, missed = (mean - _OPTIMISM * deviation for mean, deviation in expected)  # a little better than expected
        return np.stack([self._costs(schedules), loss], axis=1), np.maximum(missed, 0.0)

    def _costs(self, schedules: Sequence[Choice]) -> Real:
        assert self._cost is not None  # see the class
        return np.array([self._cost(schedule) for schedule in schedules])

    def _features(self, rows: Levels) -> Real:
        """(n, G) genes -> (n, 2 G): shares of the tokens and their logarithms; the last tokens are worth most."""
        shares = self.space.values[rows] / self.space.layout.tokens
        return np.concatenate([shares, np.log(shares)], axis=1)
