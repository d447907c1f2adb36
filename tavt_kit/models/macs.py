"""Multiply-adds of a token schedule, in closed form. One multiply-add is one (papers, fvcore and timm say "FLOPs").

Three rules:
    executed  what the lean path runs; norms, softmax, gathers and top-k are not counted. Equal to a counting pass.
    tavt      TAVT's official figure: every layer in full, norms one per element, the final norm on all tokens.
    matmul    as ``tavt`` without norms: the convolutions and matrix products of a plain forward.

With n tokens entering a layer, o leaving it, width D, feed-forward width M, N tokens in all, patch P and K classes,
A layer that merges its n - p patches into o - p (p prefix tokens) adds the products of its matching and its means,
(n-p)*(n-p)*D + (o-p)*(n-p)*D, under every rule.

``tavt`` is P*P*3*D*(N-1) + sum(4*n*D*D + 2*n*n*D + 2*o*D*M + (n+o)*D) + N*D + D*K for a plain ViT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError, UnknownName
from tavt_kit.models.costs import HeadCosts, LayerCosts

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["MacsFormula", "count_macs"]

Rule = Literal["executed", "tavt", "matmul"]
RULES = ("executed", "tavt", "matmul")


def count_macs(model: AdaptiveViT, schedule: TokenSchedule | None = None, rule: Rule = "executed") -> int:
    """Multiply-adds of one image.

    Args:
        model: The wrapped model.
        schedule: ``None`` takes the model's own.
        rule: See the module.

    Raises:
        ScheduleError: The schedule does not fit the model.
        UnknownName: No such rule.

    Example:
        >>> import tavt_kit as tk, timm
        >>> model = tk.wrap(timm.create_model("vit_base_patch16_224", img_size=448, num_classes=200))
        >>> tk.count_macs(model, rule="tavt")
        78509611776
    """
    return MacsFormula.of(model, rule).macs(model.schedule if schedule is None else schedule)


@dataclass(frozen=True, slots=True)
class MacsFormula:
    """The closed form of one model and rule; build it once, ask it for any schedule.

    Args:
        stem: Once per image.
        layers: One entry per layer.
        head: After the last layer.
        tokens: Tokens before anything is dropped.
        prefix: Leading tokens that are no patches.
        score: ``"column"`` or ``"cls"``.
        thin: Layers whose attention does no work for rows that do not go on.
        head_rows: Leading tokens the head reads, or None where it pools over all.
        restored: Whether the head pools over all original tokens again.
        reduction: ``"drop"`` or ``"merge"``.
        rule: See the module.
    """

    stem: int
    layers: tuple[LayerCosts, ...]
    head: HeadCosts
    tokens: int
    prefix: int
    score: str
    thin: tuple[bool, ...]
    head_rows: int | None
    restored: bool
    reduction: str
    rule: Rule

    @classmethod
    def of(cls, model: AdaptiveViT, rule: Rule = "executed") -> MacsFormula:
        """Read the coefficients off a wrapped model."""
        if rule not in RULES:
            raise UnknownName(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        stem, layers, head = model.backbone.costs()
        backbone = model.backbone
        return cls(
            stem, layers, head, model.tokens, model.prefix, model.score, backbone.thin, backbone.head_rows,
            model.pool == "restored" or model.restores, model.reduction, rule,
        )  # fmt: skip

    def macs(self, schedule: TokenSchedule) -> int:
        """Multiply-adds of one image under ``schedule``."""
        schedule.check(tokens=self.tokens, layers=len(self.layers), prefix=self.prefix)
        return int(self.macs_many(np.asarray([schedule.counts]), schedule.executed)[0])

    def macs_many(self, counts: NDArray[np.int64], executed: Sequence[int] | None = None) -> NDArray[np.int64]:
        """(S, L) counts -> (S,) multiply-adds; 10,000 schedules take milliseconds."""
        counts = np.asarray(counts, dtype=np.int64)
        if counts.ndim != 2 or counts.shape[1] != len(self.layers):
            raise ScheduleError(f"counts must be (schedules, {len(self.layers)}), got {counts.shape}")
        entering = np.concatenate([np.full((len(counts), 1), self.tokens), counts[:, :-1]], axis=1)
        total = np.full(len(counts), self.stem, dtype=np.int64)
        tapped = np.zeros(len(counts), dtype=np.int64)
        for layer in range(len(self.layers)) if executed is None else executed:
            if self.layers[layer].fuses:
                fused = self.layers[layer].fuses + tapped
                total += self._layer(layer, fused, fused)
            else:
                total += self._layer(layer, entering[:, layer], counts[:, layer])
            tapped += np.minimum(self.layers[layer].taps, counts[:, layer])
        return total + self._head(counts[:, -1])

    def _layer(self, layer: int, n: NDArray[np.int64], o: NDArray[np.int64]) -> NDArray[np.int64]:
        cost = self.layers[layer]
        full = cost.rows * n + cost.pair * n * n + cost.feed * o + cost.constant
        if self.reduction == "merge":
            full = full + np.where(o < n, cost.width * (n - self.prefix) * (n + o - 2 * self.prefix), 0)
        if self.rule == "matmul":
            return full
        if self.rule == "tavt":
            return full + (n + o) * cost.width
        if layer == len(self.layers) - 1 and self.head_rows is not None:
            return self._last(cost, self.thin[layer], n)
        dropping = full + cost.pair_score * n * (self.score == "cls")
        if self.reduction == "drop":
            dropping = self._dropping(cost, self.thin[layer], n, o)
        return cost.select * n + np.where(o < n, dropping, full)

    def _last(self, cost: LayerCosts, thin: bool, n: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = self.head_rows or 0
        if thin:
            queried = (cost.query + cost.output) * rows + cost.pair * rows * n
            return cost.key_value * n + queried + cost.feed * rows + cost.constant
        return cost.rows * n + cost.pair * n * n + cost.feed * rows + cost.constant

    def _dropping(self, cost: LayerCosts, thin: bool, n: NDArray[np.int64], o: NDArray[np.int64]) -> NDArray[np.int64]:
        after = cost.feed * o + cost.constant
        score = cost.pair_score * n * (self.score == "cls")
        if not thin:
            return cost.rows * n + cost.pair * n * n + score + after
        if self.score == "cls":
            return cost.key_value * n + cost.query * (1 + o) + score + cost.pair * o * n + cost.output * o + after
        return (cost.query + cost.key_value) * n + cost.pair * n * n + cost.output * o + after

    def _head(self, last: NDArray[np.int64]) -> NDArray[np.int64]:
        pooled = np.full_like(last, self.tokens) if self.restored else last
        pooled = pooled - self.head.skipped_rows
        cost = self.head.fixed + self.head.per_token * pooled + self.head.per_pair * pooled * pooled
        return cost + self.tokens * self.layers[-1].width if self.rule == "tavt" else cost
