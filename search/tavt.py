"""The evolutionary search of TAVT's (and LAT's) official code, for those who want its very numbers.

Ours is ``search``: under a latency budget, on NSGA-II, without the oddities that this one keeps on purpose because old
results hang on them. A candidate of equal cost is never replaced by a better one; the costliest stays on the front even
if it is dominated; children join the population at once; what costs less than the lower bound is forgotten, what costs
more than the upper one is kept but never bred from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tavt_kit.errors import RecordError, ScheduleError

__all__ = ["Gene", "OfficialEvolution", "Seen", "approx_ratio", "first_ratios", "inverse_ratio"]

Gene = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a gene: costs, score, how it came (0 given, 1 mutated, 2 crossed), and from whom."""

    macs: int
    score: float
    method: int = 0
    parents: tuple[Gene, ...] | None = None


@dataclass
class OfficialEvolution:
    """The population and its operators.

    Args:
        max_length: Tokens of an image.
        macs: Cost of a gene.
        score: Its accuracy.
        lower: Least cost that is kept; 0 is the same as none.
        upper: Highest cost that is bred from.
        draws: Of members and lengths: as officially the global stream, or a ``random.Random``.
        numpy_draws: Of places: as officially NumPy's global stream, or a ``numpy.random.RandomState``.
    """

    max_length: int
    macs: Callable[[Gene], int]
    score: Callable[[Gene], float]
    lower: int = 0
    upper: int = 0
    draws: Any = random
    numpy_draws: Any = np.random
    store: dict[Gene, Seen] = field(default_factory=dict)
    population: list[Gene] = field(default_factory=list)

    def add(
        self,
        gene: Gene,
        macs: int | None = None,
        score: float | None = None,
        method: int = 0,
        parents: tuple[Gene, ...] | None = None,
    ) -> bool:
        """Evaluate a gene if it is new, and take it into the population if its cost is within the bounds."""
        if gene not in self.store:
            cost = macs or self.macs(gene)
            if self.lower and cost < self.lower:
                return False
            self.store[gene] = Seen(cost, score or self.score(gene), method, parents)
        cost = self.store[gene].macs
        if (self.lower and cost < self.lower) or (self.upper and cost > self.upper) or gene in self.population:
            return False
        self.population.append(gene)
        return True

    def frontier(self) -> list[Gene]:
        """Reduce the population to its front, by rising cost; the last stays even where it is dominated."""
        ordered = sorted(self.population, key=lambda gene: (self.store[gene].macs, self.store[gene].score))
        front = [ordered[0]]
        for gene in ordered[1:-1]:
            if self.store[gene].score > self.store[front[-1]].score:
                front.append(gene)
        self.population = [*front, ordered[-1]]
        return self.population

    @property
    def area(self) -> float:
        """Below the front, from the left, as a share of the allowed costs."""
        if not self.upper:
            raise ScheduleError("the area below a front needs an upper bound of its costs, but there is none")
        seen = [self.store[gene] for gene in self.population]
        steps = ((right.macs - left.macs) * left.score for left, right in zip(seen, seen[1:], strict=False))
        return sum(steps) / (self.upper - self.lower)

    def hull(self) -> list[Gene]:
        """The population's upper convex hull."""
        hull = self.population[:2]
        for gene in self.population[2:]:
            if self.store[gene].score <= self.store[hull[-1]].score:
                continue
            while len(hull) >= 2 and self.turn(hull[-2], hull[-1], gene) >= 0:
                hull.pop()
            hull.append(gene)
        return hull

    def turn(self, *genes: Gene) -> float:
        """Twice the signed area of the triangle of three genes in cost and score; above 0 it turns left."""
        (xa, ya), (xb, yb), (xc, yc) = ((self.store[gene].macs, self.store[gene].score) for gene in genes)
        return (xa * yb + xb * yc + xc * ya) - (xa * yc + xb * ya + xc * yb)

    def mutate(self, probability: float) -> bool:
        """Redraw some lengths of one of the population between their neighbours; whether it was new and allowed."""
        parent = self.draws.choice(self.population)
        child: list[int] = []
        for place, length in enumerate(parent):
            if self.numpy_draws.uniform() < probability:
                most = child[-1] if child else self.max_length
                least = parent[place + 1] if place + 1 < len(parent) else 2
                child.append(self.draws.randint(least, most))
            else:
                child.append(length)
        return self.add(tuple(child), method=1, parents=(parent,))

    def cross(self) -> bool:
        """The mean of two of the population, rounded up; whether it was new and allowed."""
        first, second = self.draws.sample(self.population, 2)
        child = tuple((one + other + 1) // 2 for one, other in zip(first, second, strict=True))
        return self.add(child, method=2, parents=(first, second))

    def rows(self) -> Iterable[tuple[Gene, Seen]]:
        """Everything evaluated, in the order in which it came."""
        return self.store.items()

    def as_text(self) -> str:
        """The official store file: tab-separated, one gene a line."""
        return "".join(f"{gene}\t{s.macs}\t{s.score}\t{s.method}\t{s.parents}\r\n" for gene, s in self.rows())

    def read(self, text: str) -> None:
        """Add what a store file holds; as officially, how a gene came and from whom is not restored.

        Raises:
            RecordError: A line is no row of a store file.
        """
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                gene, macs, score, *_ = line.split("\t")
                self.add(tuple(int(length) for length in gene.strip("()").split(",")), int(macs), float(score))
            except ValueError:
                raise RecordError(f"line {number} of the store is no gene with its costs and score: {line!r}") from None


def approx_ratio(drop: float, layers: int = 12, length: int = 384) -> float:
    """Tokens left over all layers, as a share, where every layer drops the share ``drop``.

    The official search asks it for 12 layers and 384 tokens, whatever the model.
    """
    left, total = length, 0
    for _ in range(layers):
        left = math.ceil(left * (1 - drop))
        total += left
    return total / (layers * length)


def inverse_ratio(share: float, layers: int = 12, length: int = 384) -> float:
    """The largest drop that leaves at least ``share`` of the tokens, by bisection to 1e-12."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if approx_ratio(middle, layers, length) >= share else (low, middle)
    return low


def first_ratios(bound: float, size: int) -> list[float]:
    """The drops of the first population: evenly spaced in tokens left between the bound and nothing dropped."""
    return [inverse_ratio(share) for share in np.linspace(approx_ratio(bound), 1, size + 2)[1:-1]]
