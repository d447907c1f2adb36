"""The seam between the loop and a model family: half-blocks of one Protocol, and the look into attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.costs import HeadCosts, LayerCosts, part_macs
from tavt_kit.models.token_reduction import (
    SCORES,
    Pick,
    TokenState,
    attend_and_score,
    attention_map,
    drop,
    first_rows,
    fold_bias,
    is_traced,
    keeps_no_map,
    score_beside,
)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a family's head gives: the logits (B, classes), and named tensors for its losses."""

    logits: Any  # a Tensor; a pair of them where a distilled DeiT trains both of its heads
    named: Mapping[str, Tensor] = field(default_factory=dict)


class Backbone(Protocol):
    """One adapter per family. The loop in ``models/wrap.py`` knows nothing else of a model.

    What has a value here, or a body, is so unless a family says otherwise.
    """

    layers: int
    prefix: int
    tokens: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    droppable: tuple[bool, ...]
    joint: tuple[bool, ...]
    """Whether a layer has a place between its halves; without one the drop comes after the whole layer."""
    head_rows: int | None = None
    """How many leading tokens the head reads, or None where it pools over all of them."""
    thin: tuple[bool, ...]
    """Whether ``attend_rows`` of a layer skips the work for rows that do not go on."""
    alike: int
    """How many leading layers are of one kind; a layer after them (a fusion) is timed on its own."""
    static_reason: str | None = None
    """Why nothing can be dropped at all, or None."""
    rowwise: bool = True
    """Whether ``feed`` treats each token by itself, so that it may come before the drop as well as after it."""
    taps: int = 0
    """Tokens of each layer that the last one takes, at most; 0 where it takes what is left."""
    unmergeable: str | None = None
    """Why tokens can be dropped but not merged, or None."""
    weighs_sizes: bool = False
    """Whether the head can count a merged token as often as it stands for patches; else every patch is restored."""
    has_class_token: bool = True
    blocks: Sequence[Any] = ()
    """The module that holds each layer's weights; none where no single one does."""

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> the state before layer 0."""
        ...

    def alone(self, layer: int, state: TokenState) -> TokenState:
        """A state of mere tokens, with what the layer expects of the layers before it: for timing layers singly."""
        return state

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        """The attention half-block on all rows; ``watch`` sees each attention call, None leaves it fused."""
        ...

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        """The attention half-block of the lean path: only the picked rows come out.

        Where a family does not open its attention class, it attends on all rows first.
        """
        if pick.score is None:
            return first_rows(self.attend(layer, state, None), pick.count)
        watch = Watch(pick.score)
        state = self.attend(layer, state, watch)
        return drop(state, pick.index(watch.scored(layer)), passed=not self.joint[layer])

    def feed(self, layer: int, state: TokenState) -> TokenState:
        """The feed-forward half-block."""
        ...

    def outputs(self, state: TokenState) -> Outputs:
        """Final norm, pooling and head."""
        ...

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        """Multiply-adds of the stem, of each layer's parts, and of the head."""
        ...

    def pooled(self, state: TokenState) -> Tensor:
        """(B, D): what the last linear layer of the head receives."""
        ...


class StaticModel(Backbone):
    """The adapter of models with nothing to drop: one layer, which keeps everything.

    They are built, converted, evaluated, exported and checked as all others; a search or a distillation of them is
    refused with the reason. Such a model says ``static_reason`` (a sentence's second half) and ``image_size``, and has
    timm's ``forward_features`` (images to tokens (B, T, D)) and ``forward_head``.
    """

    layers, prefix, alike = 1, 0, 1
    droppable, joint, thin = (False,), (True,), (False,)
    has_class_token = False

    def __init__(self, model: nn.Module) -> None:
        self.model = cast("Any", model)
        self.static_reason = self.unmergeable = self.model.static_reason
        self.image_size, self.tokens = self.model.image_size, self.model.num_tokens
        self.grid = (1, self.tokens)

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> the tokens (B, T, D) that the head reads."""
        return TokenState(self.model.forward_features(images), 0)

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        return state

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        return state

    def feed(self, layer: int, state: TokenState) -> TokenState:
        return state

    def outputs(self, state: TokenState) -> Outputs:
        return Outputs(self.model.forward_head(state.tokens))

    def pooled(self, state: TokenState) -> Tensor:
        return self.model.forward_head(state.tokens, pre_logits=True)  # type: ignore[no-any-return]

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        return part_macs(self.model, self.model, (3, *self.image_size)), (LayerCosts(*[0] * 8),), HeadCosts(0)


class Watch:
    """Collects a layer's token scores from its attention calls; several calls add up (parallel, differential)."""

    def __init__(self, score: str) -> None:
        self.score = score
        self.scores: Tensor | None = None

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        """See one call and return its output (B, H, n, dv)."""
        if self.score != "column" or keeps_no_map(q, k, v, bias):
            # Choosing has no gradient, and a fused call keeps no map for the backward pass.
            with torch.no_grad():
                self._add(SCORES[self.score].of(q, k, bias, scale))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        output, scores = attend_and_score(q, k, v, bias, scale, dropout)
        self._add(scores)
        return output

    def _add(self, scores: Tensor) -> None:
        self.scores = scores if self.scores is None else self.scores + scores

    def scored(self, layer: int) -> Tensor:
        """The scores (B, n); raises UnsupportedBackbone where the layer made no attention call that can be watched."""
        if self.scores is None:
            raise UnsupportedBackbone(f"layer {layer} made no attention call to watch; its tokens cannot be dropped")
        return self.scores


class inside_attention(TorchFunctionMode):
    """While active, every fused attention call has its position bias follow the kept tokens and is shown to a watch.

    Where tokens were merged, the logarithm of each key's size (B, n) joins the bias. timm computes relative-position
    biases for all N positions inside the attention; the call is the one place where bias and shortened sequence meet,
    for every attention class, without copying a forward.
    """

    def __init__(self, watch: Watch | None, place: Tensor | None, sizes: Tensor | None = None) -> None:
        super().__init__()
        self.watch = watch
        self.place = place
        self.sizes = sizes

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return self._attention(*args, **kwargs)

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if is_causal or enable_gqa:
            raise UnsupportedBackbone("tokens cannot be dropped from causal or grouped-query attention calls")
        # Inside __torch_function__ the mode is switched off, so these calls are not intercepted again.
        # On CUDA log sizes go into queries and keys, for its quickest kernels take no bias.
        if self.sizes is not None and attn_mask is None and q.is_cuda and not is_traced():
            longer_q, longer_k, scale = fold_bias(q, k, self.sizes.log().unsqueeze(1), scale)
            longer_v = F.pad(v, (0, max(0, longer_k.shape[-1] - v.shape[-1])))
            return self._watched(longer_q, longer_k, longer_v, None, dropout_p, scale)[..., : v.shape[-1]]
        bias = attn_mask if attn_mask is None or self.place is None else gather_bias(attn_mask, self.place)
        if self.sizes is not None:
            bias = add_size_bias(bias, self.sizes, q.dtype)
        return self._watched(q, k, v, bias, dropout_p, scale)

    def _watched(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout_p: float, scale: float | None
    ) -> Tensor:
        if self.watch is not None:
            return self.watch(q, k, v, bias, scale, dropout_p)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)


def require_fused(name: str, attentions: Iterable[Any]) -> None:
    """Refuse attentions that were created without their fused call, for only that can be watched."""
    if not all(attention.fused_attn for attention in attentions):
        raise UnsupportedBackbone(
            f"{name} was created without fused attention, and only a fused call can be watched; unset "
            "TIMM_FUSED_ATTN and create it again"
        )


def gather_bias(bias: Tensor, place: Tensor) -> Tensor:
    """(1, H, N, N) or (H, N, N) position bias -> (B, H, n, n) at the kept places (B, n), on both axes."""
    if bias.dim() == 4:
        bias = bias[0]
    heads, size, _ = bias.shape
    batch, n = place.shape
    flat = (place.unsqueeze(2) * size + place.unsqueeze(1)).reshape(-1)  # (B * n * n)
    picked = bias.reshape(heads, size * size).index_select(1, flat)
    return picked.reshape(heads, batch, n, n).transpose(0, 1)


def add_size_bias(bias: Tensor | None, sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention bias with log s added to the logits of each key, so that it counts as the s tokens it stands for.

    The bias is broadcastable to (B, H, n, n), or a mask whose False entries are not attended; the sizes are (B, n).
    """
    weights = sizes.log()[:, None, None, :].to(dtype)
    if bias is None:
        return weights
    if bias.dtype == torch.bool:
        return torch.where(bias, weights, weights.new_full((), float("-inf")))
    return bias + weights


class MapWatch(Watch):
    """Keeps the attention maps (B, H, n, n) of a layer's calls, and scores by them; gradients flow through the maps."""

    def __init__(self, score: str) -> None:
        super().__init__(score)
        self.maps: list[Tensor] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        attention = attention_map(q, k, bias, scale)
        self.maps.append(attention)
        self._add(score_beside(self.score, attention, q, k, bias, scale).detach())
        mixing = F.dropout(attention, dropout) if dropout else attention
        return mixing.to(v.dtype) @ v

    def mean(self) -> Tensor:
        """(B, n, n): the mean over the heads of all calls."""
        return torch.stack([attention.mean(dim=1) for attention in self.maps]).mean(dim=0)
