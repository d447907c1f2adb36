"""A faithful run of TAVT's official search on a ``Ground``, its table kept and read again.

The algorithm is ``OfficialEvolution``: 22 genes, then 30 mutated and 30 crossed in each of 30 iterations, 1,822 in all,
each scored by a whole pass over the images. Which genes are proposed within an iteration depends on their
multiply-adds alone (the official formula, norms counted, last block in full), and scores are looked at when it ends. So
the passes of an iteration may be made together: the scores are those of single passes, the table the same.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from search_ground import Gene, Ground

from tavt_kit.core.records import atomic_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search.algorithms.tavt import OfficialEvolution, first_ratios

POPULATION, CHILDREN = 20, 30
TRIES = 20_000
"""Attempts for the children of one kind; the official loop has no such bound, and none was ever reached."""


@dataclass(frozen=True)
class Table:
    """What an official run evaluated, in its order.

    Args:
        genes: As proposed.
        iterations: In which; 0 is the first population.
        ground: For costs and scores.
    """

    genes: list[Gene]
    iterations: list[int]
    ground: Ground

    @property
    def schedules(self) -> list[TokenSchedule]:
        """Canonical."""
        return [self.ground.schedule(gene) for gene in self.genes]

    def scores(self, split: str = "val") -> list[float]:
        """Exact."""
        return self.ground.score(split, self.schedules)

    def write(self, path: Path, seconds: Sequence[float] | None = None) -> None:
        """As CSV; ``seconds`` are those of whole passes, as modelled from a sample."""
        lines = ["iteration,gene,macs_official,macs,right,images,seconds"]
        size, taken = self.ground.size("val"), seconds or [float("nan")] * len(self.genes)
        official = self.ground.official_formula.macs_many(np.array(self.genes))
        macs = self.ground.formula.macs_many(np.array([one.counts for one in self.schedules]))
        rows = zip(self.genes, self.iterations, official, macs, self.scores(), taken, strict=True)
        for gene, iteration, theirs, ours, score, each in rows:
            counts = ",".join(map(str, gene))
            lines.append(f'{iteration},"{counts}",{theirs},{ours},{round(score * size)},{size},{each:.3f}')
        atomic_text(path, "\n".join(lines) + "\n")

    def volumes(self) -> list[float]:
        """The hypervolume of the front after each evaluation."""
        return running_volume(self.ground, self.schedules, self.scores())


def running_volume(ground: Ground, schedules: Sequence[TokenSchedule], values: Sequence[float]) -> list[float]:
    """The hypervolume of what was evaluated so far, after each evaluation."""
    found: list[float] = []
    front: list[TokenSchedule] = []
    known: dict[TokenSchedule, float] = {}
    for one, value in zip(schedules, values, strict=True):
        known[one] = value
        front = ground.front([*front, one], [known[each] for each in front] + [value])
        found.append(ground.volume(front, [known[each] for each in front]))
    return found


def official_table(ground: Ground, seed: int, iterations: int) -> Table:
    """The table of one seed: read, or made and written as ``official-PRECISION-SEED.csv``."""
    path = ground.official_path(seed)
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and int(rows[-1]["iteration"]) == iterations:
            genes = [tuple(map(int, row["gene"].split(","))) for row in rows]
            for row, gene in zip(rows, genes, strict=True):
                ground.known.setdefault(("val", ground.schedule(gene).counts), int(row["right"]))
            return Table(genes, [int(row["iteration"]) for row in rows], ground)
    table = _made(ground, seed, iterations)
    table.write(path)
    return table


def _made(ground: Ground, seed: int, iterations: int) -> Table:
    random.seed(seed)
    np.random.seed(seed)
    evolution = OfficialEvolution(
        ground.model.tokens,
        macs=lambda gene: ground.official_formula.macs(TokenSchedule(gene)),
        score=lambda gene: float("nan"),  # filled in when the iteration ends
    )
    upper = (ground.model.tokens,) * ground.model.layers
    evolution.lower, evolution.upper = evolution.macs(ground.lower_gene), evolution.macs(upper)
    evolution.add(ground.lower_gene)
    evolution.add(upper)
    for ratio in first_ratios(ground.bound, POPULATION):
        evolution.add(TokenSchedule.taper(ground.model.layout, ratio).counts)
    found: list[int] = []
    _fill(evolution, ground, found, 0)
    for iteration in range(1, iterations + 1):
        evolution.frontier()
        _children(lambda: evolution.mutate(0.5))
        _children(evolution.cross)
        _fill(evolution, ground, found, iteration)
        print(f"official, seed {seed}: iteration {iteration} of {iterations}, {len(found)} genes", flush=True)
    return Table(list(evolution.store), found, ground)


def _children(make: object) -> None:
    made = 0
    for _ in range(TRIES):
        made += make()  # type: ignore[operator]
        if made == CHILDREN:
            return
    print(f"only {made} new children in {TRIES} tries", flush=True)


def _fill(evolution: OfficialEvolution, ground: Ground, found: list[int], iteration: int) -> None:
    """Score what is new, without touching the streams of random numbers."""
    states = random.getstate(), np.random.get_state()
    new = list(evolution.store)[len(found) :]
    for gene, score in zip(new, ground.score("val", [ground.schedule(gene) for gene in new]), strict=True):
        evolution.store[gene] = replace(evolution.store[gene], score=score)
    found.extend([iteration] * len(new))
    random.setstate(states[0])
    np.random.set_state(states[1])
