"""What the parts of ``search_cost`` stand on: the model, its images, exact scores that are kept, and hypervolumes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checkpoints import load_model
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.front import hypervolume
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, load_bytes, thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.sources import inherited_images
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.models.flops import MacsFormula
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.search import Space
from tavt_kit.search.racing import stratified

TOGETHER = 64
"""Schedules of one tree: what has been scored when the study is stopped is kept."""

Gene = tuple[int, ...]


@dataclass
class Ground:
    """The model and its images; scores of schedules on whole splits by torch are kept in ``scores-PRECISION.csv``.

    Args:
        run: A trained and distilled run with its split.
        out: Working folder.
        limit: Images of val, spread over its classes; test is always whole.
        bound: Of the official search: what its cheapest gene drops in every layer.
        precision: Of the scores that count, ``f32`` or ``bf16``: that in which the model is to run.
    """

    run: Path
    out: Path
    limit: int | None = None
    bound: float = 0.2
    precision: str = "f32"
    known: dict[tuple[str, Gene], int] = field(default_factory=dict)
    costs: dict[TokenSchedule, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.model: AdaptiveViT = load_model(self.run)
        self.model.eval()
        self.formula = MacsFormula.of(self.model)
        self.official_formula = MacsFormula.of(self.model, "tavt")
        self.preprocessing = Preprocessing.from_record(self.model.require_card().preprocessing)
        self.space = Space(self.model.layout)
        if self.scores.exists():
            with self.scores.open(newline="") as file:
                for split, counts, right in csv.reader(file):
                    self.known[split, tuple(map(int, counts.split(",")))] = int(right)

    @property
    def scores(self) -> Path:
        """(split, counts, images that are right), one schedule a line, appended."""
        return self.out / f"scores-{self.precision}.csv"

    def official_path(self, seed: int) -> Path:
        """Of an official search's table."""
        return self.out / f"official-{self.precision}-{seed}.csv"

    @cached_property
    def images(self) -> ImageSet:
        """Of the run."""
        return inherited_images(self.run, None)

    def arrays(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """In the order of the screening."""
        samples = thin_out(self.images.split(split), self._limit(split))
        samples = [samples[place] for place in stratified([sample.label for sample in samples])]
        pixels, labels = load_bytes(samples, self.preprocessing)
        return pixels, labels

    @cached_property
    def exact(self) -> dict[str, Evaluator]:
        """By torch, in the precision that counts."""
        return {split: Evaluator(self.model, *self.arrays(split), self.preprocessing, split=split,
                                       precision=self.precision)
                for split in ("val", "test")}  # fmt: skip

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of whole passes that are timed: f32, which the official search pays for, and the one that counts."""
        return tuple(dict.fromkeys(("f32", self.precision)))

    def one_by_one(self, precision: str) -> Evaluator:
        """A whole pass over val for each schedule."""
        return Evaluator(self.model, *self.arrays("val"), self.preprocessing, precision=precision)

    def schedule(self, gene: Gene) -> TokenSchedule:
        """Its canonical form: for a head that reads the class token the last count changes nothing."""
        return TokenSchedule((*gene[:-1], gene[-2]) if self.model.layout.token_pooled else gene)

    def score(self, split: str, schedules: Iterable[TokenSchedule]) -> list[float]:
        """Exact accuracies; what is not known is evaluated, and kept."""
        schedules = list(schedules)
        missing = [one for one in dict.fromkeys(schedules) if (split, one.counts) not in self.known]
        evaluator = self.exact[split] if missing else None
        for start in range(0, len(missing), TOGETHER):
            assert evaluator is not None
            found = dict(evaluator.evaluate(missing[start : start + TOGETHER]))
            with self.scores.open("a", newline="") as file:
                for one, answer in found.items():
                    assert answer.correct is not None, answer.failure
                    self.known[split, one.counts] = int(answer.correct.sum())
                    csv.writer(file).writerow([split, ",".join(map(str, one.counts)), int(answer.correct.sum())])
        return [self.known[split, one.counts] / self.size(split) for one in schedules]

    def learn(self, candidates: Iterable[Candidate]) -> None:
        """Exact scores on all of val that a search has; not written, for its own store keeps them."""
        for one in candidates:
            assert one.accuracy is not None
            right = round(one.accuracy.value * self.size("val"))
            self.known.setdefault(("val", one.schedule.counts), right)

    def size(self, split: str) -> int:
        """Images of a split."""
        whole = len(self.images.split(split))
        return min(whole, self._limit(split) or whole)

    def _limit(self, split: str) -> int | None:
        return self.limit if split == "val" else None

    @cached_property
    def lower_gene(self) -> Gene:
        """The cheapest that the official search keeps: the same share dropped in every layer."""
        left, gene = self.model.tokens, []
        for _ in range(self.model.layers):
            left = max(2, math.ceil(left * (1 - self.bound)))
            gene.append(left)
        return tuple(gene)

    def macs(self, schedule: TokenSchedule) -> int:
        """Multiply-adds as executed; below the official search's range nothing counts as cheaper than its bound."""
        if schedule not in self.costs:
            self.costs[schedule] = max(self.formula.macs(schedule), self.least)
        return self.costs[schedule]

    @cached_property
    def least(self) -> int:
        """Executed multiply-adds of the cheapest official gene."""
        return self.formula.macs(self.schedule(self.lower_gene))

    @cached_property
    def dense(self) -> int:
        """Executed multiply-adds of the dense model."""
        return self.formula.macs(self.model.dense_schedule)

    def volume(self, schedules: Sequence[TokenSchedule], values: Sequence[float]) -> float:
        """Hypervolume in the official search's range of costs, reference (dense, 0)."""
        costs = [self.macs(one) / self.dense for one in schedules]
        return hypervolume(zip(costs, values, strict=True))

    def front(self, schedules: Sequence[TokenSchedule], values: Sequence[float]) -> list[TokenSchedule]:
        """The non-dominated, by rising cost."""
        best, front = -1.0, []
        for value, one in sorted(zip(values, schedules, strict=True), key=lambda row: (self.macs(row[1]), -row[0])):
            if value > best:
                best = value
                front.append(one)
        return front
