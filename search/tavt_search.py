"""TAVT's evolutionary search by ask and tell: the official algorithm, and the same idea mended.

The official one (``search/tavt.py``) keeps its sizes, its bound and its oddities. Mended are: a better schedule of
equal cost replaces a worse one, no dominated schedule is bred from, children wait for their own answer before they
breed, the first tapers are spaced by the model's own tokens, costs may be latencies, ceilings are kept to, and it ends.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tavt_kit.core.configuration import Choice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError
from tavt_kit.search.algorithm import Outcome
from tavt_kit.search.operators import redraw
from tavt_kit.search.proposer import Learner
from tavt_kit.search.seeds import taper
from tavt_kit.search.space import Levels, Space
from tavt_kit.search.tavt import Gene, OfficialEvolution, Seen, approx_ratio, first_ratios, inverse_ratio

__all__ = ["OfficialTavt", "Tavt"]

_MOST_TRIES = 20_000
"""Draws for 30 children: officially without end, which a space that is used up would make come true."""


class OfficialTavt:
    """The official search with its own sizes: 22 genes, then 30 iterations of 30 mutations and 30 crossovers.

    It goes by cost and score alone: a budget is held against what it found, not against what it proposes. Genes
    that differ only where the head cannot see it are one schedule here, and are evaluated once.

    Args:
        space: The model's tokens and layers; a finer choice is not the official algorithm's.
        macs: Multiply-adds of a schedule, by TAVT's own formula where it is known.
        seed: Of its two generators, as officially of the global ones.
        bound: The share that the strongest first taper drops in every layer; nothing cheaper is ever kept.

    Raises:
        ScheduleError: A model with more than one prefix token, or a space with a minimum or a quantum.
    """

    first, mutations, crossings, iterations = 20, 30, 30, 30
    probability = 0.5

    def __init__(self, space: Space, *, macs: Callable[[Any], int], seed: int, bound: float = 0.2) -> None:
        if space.prefix > 1 or space.minimum is not None or space.quantum != 1:
            raise ScheduleError(
                "the official algorithm knows models with at most one prefix token, and every count, but got "
                f"{space.prefix} prefix tokens, the minimum {space.minimum} and the quantum {space.quantum}; use tavt"
            )
        self.space, self.stopped_because = space, ""
        self._bound = bound
        self._evolution = OfficialEvolution(
            space.tokens,
            macs=lambda gene: macs(TokenSchedule(gene)),
            score=lambda gene: self._scores.get(self._schedule(gene), math.nan),
            draws=random.Random(seed),
            numpy_draws=np.random.RandomState(seed),
        )
        self._scores: dict[Choice, float] = {}
        self._asked: list[Choice] = []
        self._generation = 0
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
                score = self._scores[self._schedule(gene)]
                self._evolution.store[gene] = Seen(seen.macs, score, seen.method, seen.parents)
        self._asked = []

    def done(self) -> bool:
        """Whether its iterations are over."""
        return bool(self.stopped_because)

    def origin(self, schedule: Choice) -> str:
        """``dense`` or the algorithm's name."""
        return "dense" if schedule == self.space.dense else "tavt-official"

    def _schedule(self, gene: Gene) -> Choice:
        schedule = TokenSchedule(gene)
        return schedule.canonical() if self.space.token_pooled else schedule

    def _taper(self, ratio: float) -> Gene:
        return TokenSchedule.taper(self.space.tokens, self.space.layers, ratio, self.space.prefix).counts

    def _run(self) -> Iterator[None]:
        """The official loop, paused wherever scores are needed: they are read at the next front only."""
        one = self._evolution
        ends = self._taper(self._bound), self.space.dense.counts
        for gene in ends:
            one.add(gene)
        one.lower, one.upper = (one.store[gene].macs for gene in ends)
        for ratio in first_ratios(self._bound, self.first):
            one.add(self._taper(ratio))
        yield
        for _ in range(self.iterations):
            one.frontier()
            enough = self._children(lambda: one.mutate(self.probability), self.mutations)
            if len(one.population) > 1:  # officially an error
                enough = self._children(one.cross, self.crossings) and enough
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


class Tavt(Learner):
    """TAVT's search, mended: tapers first, then half mutations and half means of two of the front.

    Args:
        space: What may be proposed.
        seed: Of its own generator.
        population: Schedules of a generation, at least 1.
        seeds: Schedules to begin with, before the tapers.
        fits: Whether a schedule keeps to the ceilings.

    Example:
        >>> search = Tavt(Space(tokens=17, layers=4), seed=0, population=6)
        >>> proposals = search.ask()
        >>> search.tell([Outcome(sum(s.counts), s.counts[-1] / 17) for s in proposals])
        >>> len(search.ask())
        6
    """

    name, first_name = "tavt", "taper"

    bound = 0.6
    """The share that the strongest first taper drops in every layer."""

    def _first(self) -> list[Levels]:
        """The seeds and tapers evenly spaced in tokens left, from dense to the bound."""
        given = self._untried.random(0, self._seeds)
        sizes = {"layers": self.space.layers, "length": self.space.tokens}
        shares = np.linspace(1, approx_ratio(self.bound, **sizes), max(1, self.population - len(given)))
        tapers = (self.space.encode(taper(self.space, inverse_ratio(share, **sizes))) for share in shares)
        return self._untried.new((*given, *tapers), max(self.population, len(given)))

    def _bred(self) -> list[Levels]:
        parents = self._told.front()
        if not len(parents):
            return []
        return self._untried.new(self._bred_of(parents), self.population)

    def _bred_of(self, parents: Levels) -> Iterator[Levels]:
        """Mutations and means in turn, a bounded number of them."""
        top = len(self.space.values) - 1
        for turn in range(40 * self.population):
            first, second = parents[self._rng.integers(len(parents), size=2)]
            if turn % 2 and len(parents) > 1:
                yield (first + second + 1) // 2
            else:
                yield self.space.mend(redraw(first.astype(float), top, self._rng))
