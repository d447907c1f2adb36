"""Multiply-adds: what the parts of a model cost, read off its modules, and what a token schedule costs, in closed form.

One multiply-add is one (papers and timm say "FLOPs"). Three rules:
    executed  what the lean path runs; norms, softmax, gathers and top-k are not counted. Equal to a counting pass.
    tavt      TAVT's official figure: every layer in full, norms one per element, the final norm on all tokens.
    matmul    as ``tavt`` without norms: the convolutions and matrix products of a plain forward.

With n tokens entering a layer, o leaving it, width D, feed-forward width M, N tokens in all, patch P and K classes,
``tavt`` is P*P*3*D*(N-1) + sum(4*n*D*D + 2*n*n*D + 2*o*D*M + (n+o)*D) + N*D + D*K for a plain ViT. A layer that merges
its n - p patches into o - p (p prefix tokens) adds (n-p)*(n-p)*D to match and (o-p)*(n-p)*D to mix, under every rule.
``count_pass`` is an independent check: what one pass really multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import add, getitem, is_
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import UnknownName
from tavt_kit.models.timm_import import timm

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
    found = []
    for name, child in module._modules.items():
        if child is not None and (below := _links(child)):
            found += [(module._modules, name, child), *below]
    return found


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
        # (n - p) * (n - p) * D to match the patches, (o - p) * (n - p) * D to mix them
        merging = Terms(2 * prefix**2 * width, -3 * prefix * width, width, -prefix * width, width)
        reduced = whole + merging if self.reduction == "merge" else whole
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
        if self.reduction == "merge" or not self.thin[layer]:
            reduced += Terms(0, cost.pair_score * (self.score == "cls"), 0, 0, 0)
        elif self.score == "cls":  # attention that does no work for rows that do not go on
            kept = cost.query + cost.output + cost.feed
            reduced = Terms(cost.query + cost.constant, cost.key_value + cost.pair_score, 0, kept, cost.pair)
        else:
            reduced = Terms(cost.constant, cost.query + cost.key_value, cost.pair, cost.output + cost.feed, 0)
        return whole + selecting, reduced + selecting


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Multiply-adds of one layer, per row unless said.

    Args:
        output: Output projection, and the gate where there is one.
        pair: Per pair of a query and a key: the product with the keys and the one with the values.
        pair_score: Per pair: the product with the keys alone, which a class-token score repeats.
        constant: Once per forward, whatever the tokens (a relative-position MLP).
        width: Elements of a token, for the rule that counts norms.
        select: Scoring tokens for a later fusion, per entering row.
        taps: Tokens of the output that a later fusion takes, at most.
        fuses: Where above 0, the layer receives so many rows and all that was tapped, not the tokens before it.
    """

    query: int
    key_value: int
    output: int
    pair: int
    pair_score: int
    feed: int
    constant: int
    width: int
    select: int = 0
    taps: int = 0
    fuses: int = 0

    @property
    def rows(self) -> int:
        """All linear work of the attention half, per row."""
        return self.query + self.key_value + self.output


@dataclass(frozen=True, slots=True)
class HeadCosts:
    """Multiply-adds after the last layer: fixed ones, and those per pooled token and per pair of pooled tokens."""

    fixed: int
    per_token: int = 0
    per_pair: int = 0
    skipped_rows: int = 0
    """Leading tokens that an attention pool leaves out."""


def _linear(module: nn.Module) -> int:
    """Multiply-adds per row of all linear layers below ``module``."""
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))


def layer_costs(block: Any, joint: bool) -> LayerCosts:
    """The costs of a timm block; without a joint all of its linear work runs on every row."""
    attentions = [m for m in block.modules() if hasattr(m, "fused_attn")]
    bias_modules = [a.rel_pos for a in attentions if getattr(a, "rel_pos", None) is not None]
    bias_rows = sum(_linear(module) for module in bias_modules)
    constant = sum(_relative_macs(module) for module in bias_modules)
    everything = _linear(block) - bias_rows
    pair = sum(_heads_times(a, scored_only=False) for a in attentions)
    score = sum(_heads_times(a, scored_only=True) for a in attentions)
    width = next(m for m in block.modules() if isinstance(m, nn.Linear)).in_features
    if not joint:
        return LayerCosts(everything, 0, 0, pair, score, 0, constant, width)
    query = key_value = 0
    for attention in attentions:
        if attention.qkv is not None:
            packed = _linear(attention.qkv)
            query, key_value = query + packed // 3, key_value + packed - packed // 3
        else:
            query += _linear(attention.q_proj)
            key_value += _linear(attention.k_proj) + _linear(attention.v_proj)
    attending = sum(_linear(a) for a in attentions) - bias_rows
    rest = attending - query - key_value
    return LayerCosts(query, key_value, rest, pair, score, everything - attending, constant, width)


def _heads_times(attention: Any, *, scored_only: bool) -> int:
    """Multiply-adds per (query, key) pair over heads and calls."""
    head = getattr(attention, "head_dim", None) or round(attention.scale**-2)
    # Differential attention makes two calls whose values are twice as wide as their queries.
    calls, value = (2, 2 * head) if hasattr(attention, "lambda_init") else (1, head)
    return int(calls * attention.num_heads * (head if scored_only else head + value))


def _relative_macs(module: Any) -> int:
    """A relative-position MLP runs once over its table of coordinates; a plain table costs nothing."""
    if not hasattr(module, "rel_coords_log"):
        return 0
    return _linear(module) * int(module.rel_coords_log.numel() // 2)


def stem_macs(model: Any) -> int:
    """Patch embedding and shared position terms of a timm ViT."""
    embed = model.patch_embed
    counted = part_macs(embed, embed, (model.in_chans, *embed.img_size))
    shared = getattr(model, "shared_rel_pos", None)
    return counted + (0 if shared is None else _relative_macs(shared))


def count_pass(module: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one pass over ``images`` (B, ...), all B together: convolutions, matrix products, attention."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:  # torch's counter stumbles over a view of one
            parameter.requires_grad_(False)
        return _counted(module, images)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _counted(run: Callable[[Tensor], Any], images: Tensor) -> int:
    """By torch's own counter; attention as the products it consists of, for a CPU's fused kernel counts nothing."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        run(images)
    return int(counter.get_total_flops()) // 2


class _Step(nn.Module):
    """One part of a model as a module, so that it can be run with other tensors than its own."""

    def __init__(self, model: nn.Module, step: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.step: Callable[[Tensor], Any]
        self.__dict__["step"] = step  # a module of the model is none of this one

    def forward(self, x: Tensor) -> Any:
        return self.step(x)


def part_macs(model: nn.Module, step: Callable[[Tensor], Any], shape: tuple[int, ...]) -> int:
    """Multiply-adds of a part that no schedule changes, for one input of ``shape``, without computing anything."""
    part = _Step(model, step)
    shared = {name: t.detach().to("meta") for name, t in chain(part.named_parameters(), part.named_buffers())}
    blank = torch.empty(2, *shape, device="meta", dtype=next(model.parameters()).dtype)  # batch norm may need two
    return _counted(partial(functional_call, part, shared), blank) // 2


def head_costs(model: Any) -> HeadCosts:
    """The pooling's and the classifier's costs."""
    fixed = _linear(model.head) + (_linear(model.head_dist) if hasattr(model, "head_dist") else 0)
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return HeadCosts(fixed)
    if isinstance(pool, timm.layers.AttentionPoolLatent):
        rows = pool.latent_len
        per_token = _linear(pool.kv) + rows * pool.num_heads * 2 * pool.head_dim
        fixed += rows * (_linear(pool) - _linear(pool.kv))
        skipped = 0 if getattr(model, "pool_include_prefix", True) else model.num_prefix_tokens
        return HeadCosts(fixed, per_token=per_token, skipped_rows=skipped)
    return HeadCosts(fixed, per_pair=pool.num_heads * 2 * pool.head_dim)
