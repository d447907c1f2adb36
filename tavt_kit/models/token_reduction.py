"""Fewer tokens after a layer: how much each matters, which stay, and how those that leave drop out or merge.

The scores are pure functions of one attention call's q, k (B, H, n, d), its bias (broadcastable to (B, H, n, n)) and
its scale. ``column`` is TAVT's significance (DATE 2023; Length-Adaptive Transformer, ACL 2021, eq. 1): the attention a
token receives, summed over heads and queries. ``cls`` is what the class token (row 0) looks at (EViT, ICLR 2022).

Merging: a token leaves if a more important one resembles it, and goes into the most similar that stays. With S the
cosines of the patches, a_i their scores and s_i their sizes, how many patches of the image each stands for:

    near_i = max { S_ij : (a_j, -j) > (a_i, -i) }, -1 where there is none
    cost_i = a_i (1 - near_i); the prefix and the patches of the largest cost stay, in ascending position
    own(i) = i where i stays, else the j of the largest S_ij that does
    y'_j   = sum over own(i) = j of s_i y_i, divided by s'_j, the sum of s_i

In every later attention log s_j is added to the logits of key j (Bolya et al., ICLR 2023, eq. 1). Of equals the lowest
index goes first. There is no scatter: every step is a product, a comparison or a gather, which each runtime has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.core.registry import Registry

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TokenState:
    """What one half-block hands to the next; never changed in place, so a state can be kept and continued.

    Args:
        tokens: (B, n, D), prefix tokens first, patches in ascending original position.
        prefix: How many leading tokens are no patches (class, distillation, registers); may be 0.
        place: (B, n) int64, each token's position in the original sequence; ``None`` while nothing was dropped.
        last: (B, N, D), the latest whole-layer output of every original token, or ``None`` where nobody restores.
        sizes: (B, n) float32, how many original tokens each stands for; ``None`` until something was merged.
        owner: (B, N) int64, the row of the token that each original token was merged into, or ``None`` where nobody
            asks.
        along: Tensors (B, n, ...) that are gathered together with the tokens.
        notes: Anything else an adapter carries from ``embed`` to its layers; never gathered.
    """

    tokens: Tensor
    prefix: int
    place: Tensor | None = None
    last: Tensor | None = None
    sizes: Tensor | None = None
    owner: Tensor | None = None
    along: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    notes: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)

    @property
    def count(self) -> int:
        """Tokens now in the sequence, n."""
        return self.tokens.shape[1]

    def with_tokens(self, tokens: Tensor) -> TokenState:
        """The same sequence with new values."""
        return replace(self, tokens=tokens)


_FEW_TOKENS = 256
_IN_CACHE = 2**20
"""Numbers of the maps that a CPU thread makes at once: 4 MB in float32 stay in its caches."""

_ON_GPU = 2**23
"""Numbers of the maps that a GPU makes at once: 32 MB in float32 stay in the cache of a large one."""


def attention_map(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """The softmaxed attention (B, H, m, n), at least in float32 so that half precision makes no false ties.

    A bias is added before the softmax, or is a bool mask of what is attended; the scale is ``d ** -0.5`` by default.
    """
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        if bias.dtype == torch.bool:
            logits = logits.masked_fill(~bias, float("-inf"))
        else:
            logits = logits + bias
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits.softmax(dim=-1)


def column_score(attention: Tensor) -> Tensor:
    """(B, H, m, n) -> (B, n): attention received, summed over queries and heads (in [0, H * m])."""
    # Two single-axis sums: summing both axes at once costs 41 % of the layer in onnxruntime, this 5 %.
    return attention.sum(dim=2).sum(dim=1)


def learns(q: Tensor) -> bool:
    """Whether a gradient will flow through queries: in training, not where a graph is traced to be exported."""
    return torch.is_grad_enabled() and q.requires_grad and not is_traced()


def is_traced() -> bool:
    """Whether a graph is being made, to be exported or compiled."""
    return _is_tracing() or torch.compiler.is_compiling()


def _is_tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def keeps_no_map(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether to attend without the map (B, H, n, n), by the fused kernel, and to score apart.

    A GPU's fused kernel writes no map, and two more passes of it move fewer bytes than one map; where nothing is
    differentiated one more is enough (``attend_and_score``). On a CPU it pays in training only, which would keep a
    large map; at 197 tokens the plain products are a fifth faster, and the map is a sixth of what a layer keeps.
    """
    if q.is_cuda:
        return not _is_tracing() and (learns(q) or not tells_sums(q, k, v, bias))
    return learns(q) and q.shape[2] > _FEW_TOKENS


def tells_sums(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether CUDA's fused kernels, asked by themselves, take these and tell the log of each row's sum.

    Autocast does not reach them: what it left in several types, such as normed queries beside values, is not for them.
    """
    alike = q.dtype == k.dtype == v.dtype and q.shape[3] == k.shape[3] == v.shape[3]
    return q.is_cuda and bias is None and alike and q.shape[3] % 8 == 0 and not _is_tracing()


@torch.no_grad()
def column_score_alone(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """(B, n): ``column_score``, few maps being there at a time; without a gradient, as what is chosen has none."""
    if tells_sums(q, k, k, bias):
        return column_score_by_sums(q, k, scale)
    return _attended(q, k, None, bias, scale, 0.0)[1].sum(dim=1)


def column_score_by_sums(q: Tensor, k: Tensor, scale: float | None, sums: Tensor | None = None) -> Tensor:
    """(B, n): ``column_score`` by two passes of the fused kernel, which tells the log of each row's sum; no map at all.

    A key's column is the sum over queries i of exp(q_i k - l_i), l_i being the log of the sum of row i. So it is the
    row's sum where the keys ask, the queries are asked, and each has the bias -l_i.

    Args:
        sums: (B, H, m), the l_i where they are known, which saves the first pass.

    Example:
        >>> q, k = torch.randn(2, 1, 3, 40, 16)
        >>> torch.allclose(column_score_by_sums(q, k, None), column_score(attention_map(q, k, None, None)), atol=1e-4)
        True
    """
    scale = q.shape[3] ** -0.5 if scale is None else scale
    known = _attend_and_sum(q, k, k, scale)[1] if sums is None else sums
    keys, queries, scale = fold_bias(k, q, -known, scale)
    return _attend_and_sum(keys, queries, queries, scale)[1].exp().sum(dim=1)


def _attend_and_sum(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The output, and (B, H, m) float32: the log of each row's sum, before the softmax divides by it."""
    aten: Any = torch.ops.aten
    if not q.is_cuda:
        found = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, scale=scale)
    elif q.dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(q.device) >= (8, 0):
        found = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
    else:
        found = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
    return found[0], found[1][..., : q.shape[2]]  # rounded up by one of them


def fold_bias(q: Tensor, k: Tensor, bias: Tensor, scale: float | None) -> tuple[Tensor, Tensor, float]:
    """Queries and keys whose products hold a bias (B, H or 1, n) of each key, as the quickest kernels take none.

    The heads grow by a multiple of 8: a power of two near 1 / scale in each query meets the bias, divided by its
    product with the scale, in each key, and once more what that lost by rounding to the keys' type. The rest is zeros.

    Returns:
        Both, and the scale to attend with; values are to be as wide as the keys.
    """
    width = q.shape[-1]
    scale = width**-0.5 if scale is None else scale
    more = -(width + 2) % 8 + 2
    lever = 2.0 ** round(math.log2(1 / scale))
    weights = (bias / (lever * scale)).unsqueeze(3)
    rounded = weights.to(k.dtype)
    tail = rounded, (weights - rounded).to(k.dtype), k.new_zeros(1, 1, 1, 1)
    wide = [one.expand(*k.shape[:3], count) for one, count in zip(tail, (1, 1, more - 2), strict=True)]
    return F.pad(q, (0, more), value=lever), torch.cat([k, *wide], dim=3), scale


def attend_and_score(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention (B, H, m, dv) by plain products, and its ``column_score`` (B, n), which has no gradient.

    The maps of a few images or heads are made at a time: bit for bit what one map of all gives. On a CPU, 12 heads of
    785 tokens take two thirds of the time, for a map that was just written is still in the cache. On a GPU the fused
    kernel attends, and a second pass of it scores.
    """
    if not dropout and not learns(q) and tells_sums(q, k, v, bias):
        mixed, sums = _attend_and_sum(q, k, v, q.shape[3] ** -0.5 if scale is None else scale)
        return mixed, column_score_by_sums(q, k, scale, sums)
    output, columns = _attended(q, k, v, bias, scale, dropout)
    assert output is not None  # as there are values
    return output, columns.sum(dim=1)


def _attended(
    q: Tensor, k: Tensor, v: Tensor | None, bias: Tensor | None, scale: float | None, dropout: float
) -> tuple[Tensor | None, Tensor]:
    """The output, ``None`` without values, and the attention that each head gives each token (B, H, n)."""
    batch, heads, rows = q.shape[:3]
    most = batch * heads  # in a traced graph (no compiler takes the number of threads), and for a gradient
    if not (is_traced() or learns(q)):
        most = max(1, (_ON_GPU if q.is_cuda else _IN_CACHE * torch.get_num_threads()) // (rows * k.shape[2]))
    if most >= batch * heads:
        weights = attention_map(q, k, bias, scale)
        columns = weights.detach().sum(dim=2)  # an axis at a time: see ``column_score``
        if v is None:
            return None, columns
        return (F.dropout(weights, dropout) if dropout else weights).to(v.dtype) @ v, columns
    dim, size = (0, max(1, most // heads)) if batch > 1 else (1, most)
    number = -(-q.shape[dim] // size)
    none: Sequence[Tensor | None] = [None] * number
    values = none if v is None else v.chunk(number, dim)
    biases = none if bias is None else bias.expand(batch, heads, rows, k.shape[2]).chunk(number, dim)
    parts = zip(q.chunk(number, dim), k.chunk(number, dim), values, biases, strict=True)
    found = [_attended(*part, scale, dropout) for part in parts]
    outputs = [output for output, _ in found if output is not None]
    return torch.cat(outputs, dim) if outputs else None, torch.cat([columns for _, columns in found], dim)


def cls_score(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """(B, n): attention of row 0, summed over heads; needs no full map. ``q`` may hold row 0 alone."""
    if bias is not None and bias.shape[-2] != 1:
        bias = bias[..., :1, :]
    return attention_map(q[:, :, :1], k, bias, scale)[:, :, 0].sum(dim=1)


def maws_score(q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """(B, n): mutual attention weights (FFVT, BMVC 2021, eq. 5-7) of each token with the class token (row 0).

    How much the class token looks at the token, times how much the token adds to those that look at the class token:
    the softmax over *queries* of the class token's column. Both are means over heads. One row and one column of the
    scores are enough, so the attention itself may stay fused.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    row = (q[:, :, :1] * scale) @ k.transpose(-2, -1)  # (B, H, 1, n)
    column = (q * scale) @ k[:, :, :1].transpose(-2, -1)  # (B, H, n, 1)
    if row.dtype in (torch.float16, torch.bfloat16):
        row, column = row.float(), column.float()
    looked_at = row.softmax(dim=-1)[:, :, 0].mean(dim=1)
    contributed = column.softmax(dim=-2)[..., 0].mean(dim=1)
    return looked_at * contributed


@dataclass(frozen=True, slots=True)
class Score:
    """How much each token of a layer matters, told by one attention call.

    Args:
        of: Queries (B, H, m, d), keys (B, H, n, d), bias and scale as ``attention_map`` takes them -> scores (B, n).
        rows: Queries that it reads: 1 for the first, a class token's; ``None`` for all.
    """

    of: Callable[[Tensor, Tensor, Tensor | None, float | None], Tensor]
    rows: Literal[1] | None = None


SCORES = Registry("a score", "tavt_kit.scores", {"column": Score(column_score_alone), "cls": Score(cls_score, 1)})


def score_beside(
    score: str, attention: Tensor, q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None
) -> Tensor:
    """The score (B, n) of a name, where the attention map (B, H, n, n) is made anyway."""
    return column_score(attention) if score == "column" else SCORES[score].of(q, k, bias, scale)


Selection = Literal["argsort", "topk"]


@dataclass(frozen=True, slots=True)
class Pick:
    """Which rows of a layer go on.

    Args:
        count: How many, prefix included; an int, or a 0-d int64 tensor where the count is a runtime input.
        score: One of ``SCORES``; ``None`` keeps the first ``count`` rows (a head that reads only these).
        selection: ``"argsort"`` (stable; eager and OpenVINO) or ``"topk"`` (static ONNX). Both keep ties at the
            lowest index on their route; neither does on the other's.
    """

    count: int | Tensor
    prefix: int
    score: str | None
    selection: Selection = "argsort"

    def index(self, scores: Tensor) -> Tensor:
        """(B, n) scores -> (B, count) rows, ascending."""
        return keep_best(scores, self.count, self.prefix, self.selection)


def keep_best(scores: Tensor, count: int | Tensor, prefix: int, selection: Selection = "argsort") -> Tensor:
    """(B, n) scores -> (B, count) rows, ascending: the prefix and the best patches, of equals the lowest index.

    Example:
        >>> keep_best(torch.tensor([[0., 3., 1., 3., 3.]]), count=3, prefix=1)
        tensor([[0, 1, 3]])
    """
    patches = scores[:, prefix:]
    wanted = count - prefix
    if selection == "topk":
        number = wanted if isinstance(wanted, int) else patches.shape[1]
        best = patches.topk(number, dim=1).indices
        best = best if isinstance(wanted, int) else best[:, :wanted]
    else:
        best = patches.argsort(dim=1, descending=True, stable=True)[:, :wanted]
    best = best.sort(dim=1).values + prefix
    if not prefix:
        return best
    first = torch.arange(prefix, device=scores.device).expand(scores.shape[0], -1)
    return torch.cat([first, best], dim=1)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, n, ...) values at (B, k) rows -> (B, k, ...).

    One flat row gather: ``torch.gather`` would export as Expand + GatherElements, which costs 3-8 % of a model
    whose every layer drops. ONNX has GatherND for it, which onnxruntime runs in 0.6 of the flat gather's time.
    """
    if torch.onnx.is_in_onnx_export():  # by either exporter: the tracing one, or that by ``torch.export``
        if _is_tracing():
            rows: Tensor = _RowsInOnnx.apply(values, index)  # type: ignore[no-untyped-call]
            return rows
        if hasattr(torch.onnx, "ops"):  # which came with torch 2.8
            given, shape = (values, index.unsqueeze(-1)), (*index.shape, *values.shape[2:])
            rows = torch.onnx.ops.symbolic("GatherND", given, {"batch_dims": 1}, dtype=values.dtype, shape=shape)
            return rows
    if values.is_cuda:  # one kernel there, where the other way takes four, and launching one is what costs
        return _gathered(values, index)
    batch, n = values.shape[:2]
    offset = torch.arange(batch, device=index.device).unsqueeze(1) * n
    flat = (index + offset).reshape(-1)
    return values.flatten(0, 1).index_select(0, flat).reshape(batch, index.shape[1], *values.shape[2:])


def _gathered(values: Tensor, index: Tensor) -> Tensor:
    at = index.reshape(*index.shape, *(1,) * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    return values.gather(1, at)


class _RowsInOnnx(torch.autograd.Function):
    """``gather_rows`` for the tracing exporter."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        return _gathered(values, index)

    @staticmethod
    def symbolic(g: Any, values: Any, index: Any) -> Any:
        last = g.op("Constant", value_t=torch.tensor([2]))
        rows = g.op("GatherND", values, g.op("Unsqueeze", index, last), batch_dims_i=1)
        sizes = values.type().sizes()
        return rows if sizes is None else rows.setType(values.type().with_sizes([None, None, *sizes[2:]]))


def drop(state: TokenState, index: Tensor, *, passed: bool = False) -> TokenState:
    """Keep the rows ``index`` (B, k), ascending, of a state, with all that goes along.

    Where the tokens have ``passed`` the whole layer (one without a joint), those that leave keep the value they have.
    """
    if passed and state.last is not None:
        state = replace(state, last=restore(state.last, state.tokens, state.place))
    place = index if state.place is None else gather_rows(state.place, index)
    along = {name: gather_rows(values, index) for name, values in state.along.items()}
    return replace(state, tokens=gather_rows(state.tokens, index), place=place, along=along)


def first_rows(state: TokenState, count: int | Tensor) -> TokenState:
    """Keep the first ``count`` rows: the last layer of a head that reads only leading tokens."""
    place = None if state.place is None else state.place[:, :count]
    along = {name: values[:, :count] for name, values in state.along.items()}
    sizes = None if state.sizes is None else state.sizes[:, :count]
    return replace(state, tokens=state.tokens[:, :count], place=place, along=along, sizes=sizes, owner=None)


def restore(last: Tensor, tokens: Tensor, place: Tensor | None) -> Tensor:
    """``last`` (B, N, D) with ``tokens`` (B, n, D) written at ``place`` (B, n); a new tensor."""
    if place is None:
        return tokens
    return last.scatter(1, place.unsqueeze(-1).expand_as(tokens), tokens)


_SHORTEST = 1e-6
"""Length below which a token counts as that long: one of zeros resembles nothing."""


Owners: TypeAlias = Callable[[Tensor, Tensor, Pick], tuple[Tensor, Tensor]]
"""Patches (B, n, D), scores (B, n), in float32 -> which stay (B, m), ascending, and each one's owner (B, n) of them."""


def most_alike(patches: Tensor, importance: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
    """The owners of ``merge``: ``choose`` by ``similarity``."""
    return choose(similarity(patches), importance, pick)


def merge(state: TokenState, scores: Tensor, pick: Pick, owners: Owners = most_alike) -> TokenState:
    """Reduce a state to ``pick.count`` tokens; the values of those that leave go into those that stay, their owners.

    Scores are (B, n), that of prefix tokens is not read. The choice has no gradient, the means have one. Similarities,
    costs, sizes and means are in float32 whatever the tokens are in: in half precision ``1 - near`` collapses to ties,
    and sizes above 256 are not exact.
    """
    prefix = state.prefix
    device = state.tokens.device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        patches = state.tokens[:, prefix:].float()
        given = torch.ones_like(scores, dtype=torch.float32) if state.sizes is None else state.sizes
        with torch.no_grad():
            kept, own = owners(patches, scores[:, prefix:].float(), pick)
            rows = torch.arange(kept.shape[1], device=own.device)
            share = (own.unsqueeze(1) == rows.unsqueeze(1)) * given[:, prefix:].unsqueeze(1)  # (B, m - p, n - p)
            total = share.sum(dim=2)
        means = (share @ patches) / total.unsqueeze(2)
        tokens = torch.cat([state.tokens[:, :prefix], means.to(state.tokens.dtype)], dim=1)
    first = torch.arange(prefix, device=own.device).expand(own.shape[0], -1)
    index = torch.cat([first, kept + prefix], dim=1)
    owner = state.owner
    return replace(
        state,
        tokens=tokens,
        place=index if state.place is None else gather_rows(state.place, index),
        along={name: gather_rows(values, index) for name, values in state.along.items()},
        sizes=torch.cat([given[:, :prefix], total], dim=1),
        owner=None if owner is None else gather_rows(torch.cat([first, own + prefix], dim=1), owner),
    )


def similarity(patches: Tensor) -> Tensor:
    """(B, n, D) -> (B, n, n): the cosine of the angle between any two tokens of an image."""
    directions = patches / torch.linalg.vector_norm(patches, dim=2, keepdim=True).clamp(min=_SHORTEST)
    alike: Tensor = directions @ directions.transpose(1, 2)
    return alike


def choose(alike: Tensor, importance: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
    """Which patches stay (B, m), ascending, and for each one the index (B, n) of its owner among those.

    Similarities are (B, n, n), importances (B, n); ``pick.count`` holds the prefix, which is none of them.

    Example:
        >>> alike = torch.tensor([[[1.0, 0.9, 0.0], [0.9, 1.0, 0.1], [0.0, 0.1, 1.0]]])
        >>> choose(alike, torch.tensor([[3.0, 2.0, 1.0]]), Pick(2, 0, "cls"))
        (tensor([[0, 2]]), tensor([[0, 0, 1]]))
    """
    rows = torch.arange(alike.shape[1], device=alike.device)
    kept = keep_best(merge_cost(alike, importance), pick.count - pick.prefix, 0, pick.selection)
    # No similarity is above 1, so a patch that stays owns itself whatever resembles it.
    to_kept = torch.where(kept.unsqueeze(2) == rows, alike.new_full((), 2.0), gather_rows(alike, kept))  # (B, m, n)
    return kept, to_kept.argmax(dim=1)


def merge_cost(alike: Tensor, importance: Tensor) -> Tensor:
    """(B, n): what the output loses, to first order, where a patch goes into the nearest that is more important.

    Similarities are (B, n, n), importances (B, n) and at least 0.
    """
    rows = torch.arange(alike.shape[1], device=alike.device)
    a_i, a_j = importance.unsqueeze(2), importance.unsqueeze(1)
    leads = (a_j > a_i) | ((a_j == a_i) & (rows < rows.unsqueeze(1)))  # (B, i, j): j is more important than i
    near = torch.where(leads, alike, alike.new_full((), -1.0)).amax(dim=2)
    return importance * (1 - near)


def merging_margin(patches: Tensor, importance: Tensor, pick: Pick) -> Tensor:
    """(B,): ``relative_gap`` of the costs of merging, and between the two tokens that each one could best go into."""
    alike = similarity(patches)
    kept, _ = choose(alike, importance, pick)
    narrowest = relative_gap(merge_cost(alike, importance), kept.shape[1])
    if kept.shape[1] == 1:
        return narrowest
    first, second = gather_rows(alike, kept).double().topk(2, dim=1).values.unbind(1)  # (B, n) each
    gaps = ((first - second) / first.abs().clamp_min(1e-30)).scatter(1, kept, float("inf"))
    return torch.minimum(narrowest, gaps.amin(dim=1))


def score_margin(patches: Tensor, importance: Tensor, pick: Pick) -> Tensor:
    """(B,): ``relative_gap`` of the scores."""
    return relative_gap(importance, int(pick.count) - pick.prefix)


def relative_gap(scores: Tensor, kept: int) -> Tensor:
    """(B, n) scores -> (B,) between the kept-th best and the next."""
    ordered = scores.double().sort(dim=1, descending=True).values
    last, first = ordered[:, kept - 1], ordered[:, kept]
    return (last - first) / last.abs().clamp_min(1e-30)


@dataclass(frozen=True, slots=True)
class Reduction:
    """What becomes of the tokens that a layer does not keep.

    Args:
        owners: Which patches stay and which of them each one goes into; ``None`` where those that do not stay leave.
        matching: Products of all patches with all that the owners take: n * n * D multiply-adds each.
        margin: As owners -> (B,), how clearly they are chosen.
    """

    owners: Owners | None = None
    matching: int = 0
    margin: Callable[[Tensor, Tensor, Pick], Tensor] = score_margin


_OWN = {"drop": Reduction(), "merge": Reduction(most_alike, 1, merging_margin)}
REDUCTIONS = Registry("a reduction", "tavt_kit.reductions", _OWN, kind=Reduction)
