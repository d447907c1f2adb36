"""Multiply-adds of a token schedule, in closed form. One multiply-add is one (papers and timm say "FLOPs").

Three rules:
    executed  what the lean path runs; norms, softmax, gathers and top-k are not counted. Equal to a counting pass.
    tavt      TAVT's official figure: every layer in full, norms one per element, the final norm on all tokens.
    matmul    as ``tavt`` without norms: the convolutions and matrix products of a plain forward.

With n tokens entering a layer, o leaving it, width D, feed-forward width M, N tokens in all, patch P and K classes,
``tavt`` is P*P*3*D*(N-1) + sum(4*n*D*D + 2*n*n*D + 2*o*D*M + (n+o)*D) + N*D + D*K for a plain ViT. A layer that merges
its n - p patches into o - p (p prefix tokens) adds (n-p)*(n-p)*D to match and (o-p)*(n-p)*D to mix, under every rule.
``count_pass`` of ``models/costs.py`` is an independent check: what one pass really multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import add, getitem, is_
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import UnknownName
from tavt_kit.models.costs import HeadCosts, LayerCosts
from tavt_kit.models.token_reduction import REDUCTIONS, SCORES

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT

Rule = Literal["executed", "tavt", "matmul"]
RULES = ("executed", "tavt", "matmul")


def count_macs(model: AdaptiveViT, schedule: TokenSchedule | None = None, rule: Rule = "executed") -> int:
    """Multiply-adds of one image under a schedule, the model's own by default, by a rule of counting (see the module).

    Example:
        >>> import tavt_kit as tk, timm
        >>> model = tk.wrap(timm.create_model("vit_base_patch16_224", img_size=448, num_classes=200))
        >>> tk.count_macs(model, rule="tavt")
        78509611776
    """
    # The formula is read once, for reading takes milliseconds, and a search asks thousands of times; and again once a
    # linear layer or a convolution is another one or has another weight, as after pruning in place or with a new head.
    known: dict[Any, tuple[MacsFormula, list[tuple[Any, ...]]]] = model.__dict__.setdefault("_macs_formulas", {})
    key = rule, model.score, model.pool, model.reduction
    if key not in known or not all(map(is_, map(getitem, *known[key][1][:2]), known[key][1][2])):
        known[key] = MacsFormula.of(model, rule), list(zip(*_links(model), strict=True))
    return known[key][0].macs(model.schedule if schedule is None else schedule)


def _links(module: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """What a formula was read from: dictionary, name and value of each weight, and of each module on the way to it."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        return [(module._parameters, "weight", module.weight)]
    links = []
    for name, child in module._modules.items():
        if child is not None and (below := _links(child)):
            links += [(module._modules, name, child), *below]
    return links


class Terms(NamedTuple):
    """Factors of a layer that n tokens enter and o leave: of 1, of n, of n * n, of o and of n * o."""

    one: int
    n: int
    nn: int
    o: int
    no: int

    def __add__(self, other: tuple[int, ...]) -> Terms:  # type: ignore[override]
        return Terms(*map(add, self, other))

    def at(self, n: int, o: int) -> int:
        """Their sum."""
        return self.one + n * (self.n + self.nn * n + self.no * o) + self.o * o


@dataclass(frozen=True, slots=True)
class MacsFormula:
    """The closed form of one model and rule; build it once, ask it for any schedule.

    Args:
        thin: Layers whose attention does no work for rows that do not go on.
        head_rows: Leading tokens the head reads, or None where it pools over all.
        restored: Whether it pools over all original tokens again.
    """

    stem: int
    layers: tuple[LayerCosts, ...]
    head: HeadCosts
    layout: TokenLayout
    score: str
    thin: tuple[bool, ...]
    head_rows: int | None
    restored: bool
    reduction: str
    rule: Rule
    terms: tuple[tuple[Terms, Terms], ...] = field(init=False, repr=False, compare=False)
    """Of each layer, where every token stays and where some leave."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(self._terms(layer) for layer in range(len(self.layers))))

    @classmethod
    def of(cls, model: AdaptiveViT, rule: Rule = "executed") -> MacsFormula:
        """Read the coefficients off a wrapped model."""
        if rule not in RULES:
            raise UnknownName(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        stem, layers, head = model.backbone.costs()
        backbone = model.backbone
        return cls(
            stem, layers, head, model.layout, model.score, backbone.thin, backbone.head_rows,
            model.pool == "restored" or model.restores, model.reduction, rule,
        )  # fmt: skip

    def macs(self, schedule: TokenSchedule) -> int:
        """Multiply-adds of one image under ``schedule``; a few microseconds."""
        schedule.check(self.layout)
        return self._sum(schedule.counts, schedule.running)

    def macs_many(self, counts: NDArray[np.int64], executed: Sequence[int] | None = None) -> NDArray[np.int64]:
        """(S, L) counts, which fit -> (S,) multiply-adds."""
        running = range(len(self.layers)) if executed is None else executed
        return np.array([self._sum(row, running) for row in counts.tolist()], np.int64)

    def _sum(self, counts: Sequence[int], running: Sequence[int]) -> int:
        total, tapped = self.stem, 0
        for layer in running:
            cost, (whole, reduced), kept = self.layers[layer], self.terms[layer], counts[layer]
            if cost.fuses:
                total += whole.at(cost.fuses + tapped, cost.fuses + tapped)
            else:
                entering = counts[layer - 1] if layer else self.layout.tokens
                total += (reduced if kept < entering else whole).at(entering, kept)
            tapped += min(cost.taps, kept)
        pooled = (self.layout.tokens if self.restored else counts[-1]) - self.head.skipped_rows
        total += self.head.fixed + self.head.per_token * pooled + self.head.per_pair * pooled * pooled
        return total + self.layout.tokens * self.layers[-1].width if self.rule == "tavt" else total

    def _terms(self, layer: int) -> tuple[Terms, Terms]:
        cost, prefix, width = self.layers[layer], self.layout.prefix, self.layers[layer].width
        whole = Terms(cost.constant, cost.rows, cost.pair, cost.feed, 0)
        reduction, reduced = REDUCTIONS[self.reduction], whole
        if merges := reduction.owners is not None:  # (o - p) * (n - p) * D to mix the patches
            reduced += Terms(prefix**2 * width, -prefix * width, 0, -prefix * width, width)
        every = reduction.matching * width  # (n - p) * (n - p) * D to match them
        reduced += Terms(prefix**2 * every, -2 * prefix * every, every, 0, 0)
        if self.rule == "matmul":
            return whole, reduced
        if self.rule == "tavt":
            norms = Terms(0, width, 0, width, 0)
            return whole + norms, reduced + norms
        if layer == len(self.layers) - 1 and self.head_rows is not None:
            rows, fixed = self.head_rows, cost.feed * self.head_rows + cost.constant
            last = Terms(fixed, cost.rows, cost.pair, 0, 0)
            if self.thin[layer]:
                last = Terms((cost.query + cost.output) * rows + fixed, cost.pair * rows + cost.key_value, 0, 0, 0)
            return last, last
        selecting = Terms(0, cost.select, 0, 0, 0)
        first, scoring = SCORES[self.score].rows == 1, 0 if self.score == "column" else cost.pair_score
        if merges or not self.thin[layer]:
            reduced += Terms(0, scoring if first else 0, 0 if first else scoring, 0, 0)
        elif first:  # attention that does no work for rows that do not go on
            kept = cost.query + cost.output + cost.feed
            reduced = Terms(cost.query + cost.constant, cost.key_value + scoring, 0, kept, cost.pair)
        elif scoring:  # nor here, but every query tells the score
            all_rows = cost.query + cost.key_value
            reduced = Terms(cost.constant, all_rows, scoring, cost.output + cost.feed, cost.pair)
        else:
            reduced = Terms(cost.constant, cost.query + cost.key_value, cost.pair, cost.output + cost.feed, 0)
        return whole + selecting, reduced + selecting
