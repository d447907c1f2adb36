"""TAVT's evolutionary search by ask and tell: the official algorithm with its very numbers, and the same idea mended.

The official one keeps its oddities, because old results hang on them: a candidate of equal cost is never replaced by a
better one; the costliest stays on the front even if it is dominated; children join the population at once; what costs
less than the lower bound is forgotten, what costs more than the upper one is kept but never bred from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from tavt_kit.core.configuration import Choice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError, ScheduleError
from tavt_kit.search.algorithms.base import Algorithm, Outcome, Sampler
from tavt_kit.search.proposals import redraw, taper
from tavt_kit.search.space import Levels, Space

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
        lower: Least cost that is kept; 0 is the same as none.
        upper: Highest cost that is bred from.
        draws: Generator of members and lengths: as officially the global stream, or a ``random.Random``.
        numpy_draws: The same of positions: as officially NumPy's global stream, or a ``numpy.random.RandomState``.
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
        steps = pairwise(self.store[gene] for gene in self.population)
        return sum((right.macs - left.macs) * left.score for left, right in steps) / (self.upper - self.lower)

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
        for index, length in enumerate(parent):
            if self.numpy_draws.uniform() < probability:
                most = child[-1] if child else self.max_length
                least = parent[index + 1] if index + 1 < len(parent) else 2
                child.append(self.draws.randint(least, most))
            else:
                child.append(length)
        return self.add(tuple(child), method=1, parents=(parent,))

    def cross(self) -> bool:
        """The mean of two of the population, rounded up; whether it was new and allowed."""
        first, second = self.draws.sample(self.population, 2)
        child = tuple((mine + yours + 1) // 2 for mine, yours in zip(first, second, strict=True))
        return self.add(child, method=2, parents=(first, second))

    def as_text(self) -> str:
        """The official store file: tab-separated, one gene a line."""
        return "".join(f"{gene}\t{s.macs}\t{s.score}\t{s.method}\t{s.parents}\r\n" for gene, s in self.store.items())

    def read(self, text: str) -> None:
        """Add what a store file holds; as officially, how a gene came is not restored. Raises RecordError."""
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                gene, macs, score, *_ = line.split("\t")
                self.add(tuple(int(length) for length in gene.strip("()").split(",")), int(macs), float(score))
            except ValueError:
                raise RecordError(f"line {number} of the store is no gene with its costs and score: {line!r}") from None


def approx_ratio(drop: float, layers: int = 12, length: int = 384) -> float:
    """Share of tokens left over all layers where each drops ``drop``; officially of 12 and 384, whatever the model."""
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


_MOST_TRIES = 20_000
"""Draws for 30 children: officially without end, which a space that is used up would make come true."""


class OfficialTavt(Algorithm):
    """The official search with its own sizes: 22 genes, then 30 iterations of 30 mutations and 30 crossovers.

    It goes by cost and score alone: a budget is held against what it found, not against what it proposes. Genes
    that differ only where the head cannot see it are one schedule here, and are evaluated once.

    Args:
        macs: Multiply-adds of a schedule, by TAVT's own formula where it is known.
        seed: Seed of its two generators, as officially of the global ones.

    Raises:
        ScheduleError: A model with more than one prefix token, or a space with a minimum.
    """

    first, mutations, crossings, iterations = 20, 30, 30, 30
    probability = 0.5
    bound = 0.2
    """The share that the strongest first taper drops in every layer; nothing cheaper is ever kept."""

    def __init__(self, space: Space, *, macs: Callable[[Any], int], seed: int) -> None:
        if space.layout.prefix > 1 or space.minimum not in (None, space.layout.least):
            raise ScheduleError(
                "the official algorithm knows models with at most one prefix token, and every count, but got "
                f"{space.layout.prefix} prefix tokens and the minimum {space.minimum}; use tavt"
            )
        self.space, self.stopped_because = space, ""
        self._evolution = OfficialEvolution(
            space.layout.tokens,
            macs=lambda gene: macs(TokenSchedule(gene)),
            score=lambda gene: self._scores.get(self._schedule(gene), math.nan),
            draws=random.Random(seed),
            numpy_draws=np.random.RandomState(seed),
        )
        self._scores: dict[Choice, float] = {}
        self._asked: list[Choice] = []
        self._steps = self._run()

    def ask(self) -> list[Choice]:
        """What the next iteration would evaluate; see ``Algorithm``."""
        if self._asked:
            raise RuntimeError("tell the outcomes of the last generation before asking for the next")
        while not self._asked and not self.done():
            next(self._steps, None)
            store = self._evolution.store
            unknown = (self._schedule(gene) for gene, seen in store.items() if math.isnan(seen.score))
            self._asked = list(dict.fromkeys(unknown))
        return list(self._asked)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The scores; a failed evaluation scores nothing."""
        if not self._asked or len(outcomes) != len(self._asked):
            raise RuntimeError(f"{len(self._asked)} schedules were asked, but {len(outcomes)} outcomes told")
        scores = (0.0 if outcome.failed else outcome.metric for outcome in outcomes)
        self._scores |= dict(zip(self._asked, scores, strict=True))
        for gene, seen in self._evolution.store.items():
            if math.isnan(seen.score):
                self._evolution.store[gene] = replace(seen, score=self._scores[self._schedule(gene)])
        self._asked = []

    def origin(self, schedule: Choice) -> str:
        """``dense`` or the algorithm's name."""
        return "dense" if schedule == self.space.dense else "tavt-official"

    def _schedule(self, gene: Gene) -> Choice:
        schedule = TokenSchedule(gene)
        return schedule.canonical() if self.space.layout.token_pooled else schedule

    def _run(self) -> Iterator[None]:
        """The official loop, paused wherever scores are needed: they are read at the next front only."""
        evolution, layout = self._evolution, self.space.layout
        ends = TokenSchedule.taper(layout, self.bound).counts, self.space.dense.counts
        for gene in ends:
            evolution.add(gene)
        evolution.lower, evolution.upper = (evolution.store[gene].macs for gene in ends)
        for ratio in first_ratios(self.bound, self.first):
            evolution.add(TokenSchedule.taper(layout, ratio).counts)
        yield
        for _ in range(self.iterations):
            evolution.frontier()
            enough = self._children(lambda: evolution.mutate(self.probability), self.mutations)
            if len(evolution.population) > 1:  # officially an error
                enough = self._children(evolution.cross, self.crossings) and enough
            yield
            if not enough:
                self.stopped_because = "the official algorithm finds no new schedule, and would go on trying for ever"
                return
        self.stopped_because = f"the official algorithm's {self.iterations} iterations are done"

    def _children(self, make: Callable[[], bool], number: int) -> bool:
        """Draw until ``number`` are new and allowed; whether that was reached."""
        made = 0
        for _ in range(_MOST_TRIES):
            made += make()
            if made == number:
                return True
        return False


class Tavt(Sampler):
    """TAVT's search, mended: tapers first, then half mutations and half means of two of the front.

    A better schedule of equal cost replaces a worse one, no dominated one is bred from, children wait for their own
    answer, costs may be latencies, ceilings are kept to, and it ends.
    """

    name, first_name = "tavt", "taper"

    bound = 0.6
    """The share that the strongest first taper drops in every layer."""

    def _first(self) -> list[Levels]:
        """The seeds and tapers evenly spaced in tokens left, from dense to the bound."""
        given = self._pool.random(0, self._seeds)
        sizes = {"layers": self.space.layout.layers, "length": self.space.layout.tokens}
        shares = np.linspace(1, approx_ratio(self.bound, **sizes), max(1, self.population - len(given)))
        tapers = (self.space.encode(taper(self.space, inverse_ratio(share, **sizes))) for share in shares)
        return self._pool.new((*given, *tapers), max(self.population, len(given)))

    def _bred(self) -> list[Levels]:
        """Mutations and means in turn, a bounded number of them."""
        parents, top = self._front(), len(self.space.values) - 1

        def children() -> Iterator[Levels]:
            for turn in range(40 * self.population):
                first, second = parents[self._rng.integers(len(parents), size=2)]
                if turn % 2 and len(parents) > 1:
                    yield (first + second + 1) // 2
                else:
                    yield self.space.mend(redraw(first.astype(float), top, self._rng))

        return self._pool.new(children(), self.population) if len(parents) else []
