"""What was told so far, as arrays: for algorithms that learn from all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tavt_kit.search.algorithm import Outcome
from tavt_kit.search.space import Levels

__all__ = ["Told", "non_dominated"]


class Told:
    """Genes with their outcomes, in the order in which they came."""

    def __init__(self) -> None:
        self._genes: list[Levels] = []
        self._outcomes: list[Outcome] = []

    def add(self, genes: Sequence[Levels], outcomes: Sequence[Outcome]) -> None:
        """Outcomes in the order of their genes."""
        self._genes += genes
        self._outcomes += outcomes

    def __len__(self) -> int:
        return len(self._genes)

    @property
    def genes(self) -> Levels:
        """(n, G)"""
        return np.stack(self._genes)

    @property
    def losses(self) -> NDArray[np.float64]:
        """(n, objectives), all to be minimised; see ``Outcome.losses``."""
        return np.array([one.losses for one in self._outcomes], dtype=float)

    @property
    def missed(self) -> NDArray[np.float64]:
        """(n,) how far floors are missed; NaN where the evaluation failed."""
        return np.array([np.nan if one.failed else one.shortfall for one in self._outcomes])

    def front(self) -> Levels:
        """(m, G): of what keeps to the floors (else of what is nearest to them) that which nothing dominates."""
        missed = self.missed
        if np.isnan(missed).all():
            return self.genes[:0]
        kept = missed == np.nanmin(missed)
        free: Levels = self.genes[kept][non_dominated(self.losses[kept])]
        return free


def non_dominated(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n, objectives), all to be minimised -> (n,) which are dominated by no other; equals both stay."""
    nowhere_worse = (losses[:, None, :] <= losses[None, :, :]).all(-1)
    somewhere_better = (losses[:, None, :] < losses[None, :, :]).any(-1)
    return np.asarray(~(nowhere_worse & somewhere_better).any(0))
