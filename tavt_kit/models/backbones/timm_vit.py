"""The adapter for timm's Vision Transformer family.

VisionTransformer (ViT, DeiT3, DINOv2, CLIP and SigLIP towers, registers), VisionTransformerDistilled (DeiT), Eva
(EVA, EVA-02, DINOv3, RoPE ViTs), Beit and VisionTransformerRelPos. Model classes are matched exactly; anything else
is refused, because a copied or guessed forward is silently wrong.

A block is split into its two half-blocks, made of its own children: a half is one line of the block's forward, so
LayerScale, qk-norm, RoPE, DropPath and fused attention stay as timm has them. Block classes are matched exactly, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Backbone, Outputs, Watch, add_size_bias, inside_attention, require_fused
from tavt_kit.models.backbones.thin import is_thin, thin_attention
from tavt_kit.models.costs import HeadCosts, LayerCosts, head_costs, layer_costs, stem_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import Pick, TokenState, drop, first_rows

Extra = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Halves:
    """How a block class splits into two residual steps on x (B, n, D), between which tokens leave if it is ``joint``.

    For the thin attention, where there is one: the norm that it reads through, and the residual of its output.
    """

    attend: Callable[[Any, Tensor, Extra], Tensor]
    feed: Callable[[Any, Tensor], Tensor]
    joint: bool = True
    norm_attend: Callable[[Any, Tensor], Tensor] | None = None
    add_attend: Callable[[Any, Tensor, Tensor], Tensor] | None = None


def find_halves(block: nn.Module) -> Halves:
    """The halves of a timm block; raises UnsupportedBackbone where its class is not in the table."""
    halves = _HALVES.get(type(block))
    if halves is None:
        raise UnsupportedBackbone(
            f"blocks of class {type(block).__name__} are not known to this toolkit, so their tokens cannot be dropped "
            "safely; use a timm VisionTransformer, DeiT, BEiT, EVA/DINOv3 or relative-position ViT"
        )
    return halves


def _add_scaled(block: Any, x: Tensor, y: Tensor) -> Tensor:
    y = block.drop_path1(block.ls1(y))
    return x + y


_SCALED = Halves(
    attend=lambda b, x, extra: _add_scaled(b, x, b.attn(b.norm1(x), **extra)),
    feed=lambda b, x: x + b.drop_path2(b.ls2(b.mlp(b.norm2(x)))),
    norm_attend=lambda b, x: b.norm1(x),
    add_attend=_add_scaled,
)
_POST_NORM = Halves(
    attend=lambda b, x, extra: x + b.drop_path1(b.norm1(b.attn(x, **extra))),
    feed=lambda b, x: x + b.drop_path2(b.norm2(b.mlp(x))),
    norm_attend=lambda b, x: x,
    add_attend=lambda b, x, y: x + b.drop_path1(b.norm1(y)),
)


def _times(gamma: Tensor | None, y: Tensor) -> Tensor:
    return y if gamma is None else gamma * y


_GAMMA = Halves(
    attend=lambda b, x, extra: x + b.drop_path1(_times(b.gamma_1, b.attn(b.norm1(x), **extra))),
    feed=lambda b, x: x + b.drop_path2(_times(b.gamma_2, b.mlp(b.norm2(x)))),
)
_PARALLEL = Halves(
    attend=lambda b, x, extra: x + torch.stack([attn(x) for attn in b.attns]).sum(dim=0),
    feed=lambda b, x: x + torch.stack([ffn(x) for ffn in b.ffns]).sum(dim=0),
)
_WHOLE = Halves(attend=lambda b, x, extra: b(x), feed=lambda b, x: x, joint=False)

_vit = timm.models.vision_transformer
_eva, _beit, _relpos = timm.models.eva, timm.models.beit, timm.models.vision_transformer_relpos
_HALVES: Mapping[type[nn.Module], Halves] = {
    _vit.Block: _SCALED,
    _vit.ResPostBlock: _POST_NORM,
    _vit.ParallelThingsBlock: _PARALLEL,
    _vit.ParallelScalingBlock: _WHOLE,
    _vit.DiffParallelScalingBlock: _WHOLE,
    _eva.EvaBlock: _GAMMA,
    _eva.EvaBlockPostNorm: _POST_NORM,
    _beit.Block: _GAMMA,
    _relpos.RelPosBlock: _SCALED,
    _relpos.ResPostRelPosBlock: _POST_NORM,
}
_KINDS = (_vit.VisionTransformer, timm.models.deit.VisionTransformerDistilled, _eva.Eva, _beit.Beit,
          _relpos.VisionTransformerRelPos)  # fmt: skip


def is_timm_vit(model: nn.Module) -> bool:
    """Whether the model's class is one of this adapter's, or only adds to one: what it overrides may run otherwise."""
    kind: type = type(model)
    while kind not in _KINDS and kind is not nn.Module and len(kind.__bases__) == 1:
        (base,) = kind.__bases__
        if any(hasattr(base, name) for name in vars(kind) if not name.startswith("__") or name == "__call__"):
            return False
        kind = base
    return kind in _KINDS


class TimmVit(Backbone):
    """See the module; the attributes are those of ``Backbone``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = cast("Any", model)
        self.blocks: list[Any] = list(self.model.blocks)
        self.halves = [find_halves(block) for block in self.blocks]
        name, pool = type(self.model).__name__, getattr(self.model, "attn_pool", None)
        if not isinstance(getattr(self.model, "patch_drop", None), nn.Identity | None):
            raise UnsupportedBackbone(f"{name} drops patches itself while training; create it with patch_drop_rate=0")
        if getattr(self.model, "global_pool", None) == "":
            raise UnsupportedBackbone(f"{name} has no pooling (global_pool=''), so no logits; create it with one")
        parts = [module for block in self.blocks for module in block.modules()]
        require_fused(name, (part for part in parts if hasattr(part, "fused_attn")))
        self.layers = len(self.blocks)
        self.prefix: int = self.model.num_prefix_tokens
        self.grid: tuple[int, int] = tuple(self.model.patch_embed.grid_size)
        self.image_size: tuple[int, int] = tuple(self.model.patch_embed.img_size)
        self.tokens = self.prefix + self.grid[0] * self.grid[1]
        self.droppable = (True,) * self.layers
        self.joint = tuple(halves.joint for halves in self.halves)
        self.thin = tuple(
            halves.add_attend is not None and is_thin(getattr(block, "attn", None))
            for halves, block in zip(self.halves, self.blocks, strict=True)
        )
        self.alike = self.layers
        if hasattr(self.model, "head_dist"):
            self.head_rows = 2
        elif self.model.global_pool == "token" and pool is None:
            self.head_rows = 1
        # A mean can be weighted and one attention call can be biased; what does more is given every patch.
        if pool is not None:
            self.weighs_sizes = isinstance(pool, timm.layers.AttentionPoolLatent) and bool(pool.fused_attn)
        else:
            self.weighs_sizes = self.model.global_pool in ("token", "avg", "max")
        self.has_class_token = getattr(self.model, "cls_token", None) is not None

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> (B, N, D); position terms that live inside the attention go into the notes."""
        model = self.model
        x = model.patch_embed(images)
        notes: dict[str, Any] = {}
        if isinstance(model, timm.models.eva.Eva):
            x, notes["rope"] = model._pos_embed(x)
            x = model.norm_pre(x)
        elif hasattr(model, "_pos_embed"):
            x = model.norm_pre(model._pos_embed(x))
        else:  # BEiT and relative-position ViTs, whose embedding is written out in their forward
            if model.cls_token is not None:
                x = torch.cat((model.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
            if isinstance(model, timm.models.beit.Beit):
                if model.pos_embed is not None:
                    x = x + model.pos_embed
                x = model.pos_drop(x)
                bias = model.rel_pos_bias
                notes["bias"] = "shared_rel_pos_bias", None if bias is None else bias()
            else:
                bias = model.shared_rel_pos
                notes["bias"] = "shared_rel_pos", None if bias is None else bias.get_bias()
        return TokenState(x, self.prefix, notes=MappingProxyType(notes))

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        block, halves, extra = self.blocks[layer], self.halves[layer], self._extra(layer, state)
        if watch is None and state.sizes is None and (state.place is None or "bias" not in state.notes):
            return state.with_tokens(halves.attend(block, state.tokens, extra))
        with inside_attention(watch, state.place if "bias" in state.notes else None, state.sizes):
            return state.with_tokens(halves.attend(block, state.tokens, extra))

    def _extra(self, layer: int, state: TokenState) -> dict[str, Any]:
        """Keyword arguments of the layer's attention; RoPE rows exist for patches only and follow their places."""
        if "bias" in state.notes:
            name, bias = state.notes["bias"]
            return {name: bias}
        rope = state.notes.get("rope")
        if rope is None:
            return {}
        if self.model.rope_mixed:
            rope = rope[layer]  # (H, N, 2d) of this layer
        if state.place is None:
            return {"rope": rope}
        return {"rope": _gather_rope(rope, state.place[:, self.prefix :] - self.prefix)}

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        if not self.thin[layer]:
            return super().attend_rows(layer, state, pick)
        block, halves = self.blocks[layer], self.halves[layer]
        assert halves.norm_attend is not None and halves.add_attend is not None  # what thin means
        bias = None if state.sizes is None else add_size_bias(None, state.sizes, state.tokens.dtype)
        y, index = thin_attention(block.attn, halves.norm_attend(block, state.tokens), pick, bias)
        kept = first_rows(state, pick.count) if index is None else drop(state, index)
        return kept.with_tokens(halves.add_attend(block, kept.tokens, y))

    def feed(self, layer: int, state: TokenState) -> TokenState:
        return state.with_tokens(self.halves[layer].feed(self.blocks[layer], state.tokens))

    def outputs(self, state: TokenState) -> Outputs:
        return Outputs(self._head(state))

    def pooled(self, state: TokenState) -> Tensor:
        return self._head(state, pre_logits=True)  # type: ignore[no-any-return]

    def _head(self, state: TokenState, **options: Any) -> Any:
        """The head's own forward; one that pools is made to count a merged token as the patches it stands for."""
        model, x, sizes = self.model, self.model.norm(state.tokens), state.sizes
        if sizes is None or self.head_rows is not None:
            return model.forward_head(x, **options)
        first = 0 if getattr(model, "pool_include_prefix", False) else self.prefix
        if getattr(model, "attn_pool", None) is not None:
            # Eva's attention pool reads its prefix tokens, timm's other one only where it is told to.
            first = 0 if isinstance(model, timm.models.eva.Eva) else first
            with inside_attention(None, None, sizes[:, first:]):
                return model.forward_head(x, **options)
        if model.global_pool == "max":
            return model.forward_head(x, **options)
        share = sizes / sizes[:, first:].mean(dim=1, keepdim=True)
        return model.forward_head(x * share.unsqueeze(2).to(x.dtype), **options)

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        layers = tuple(layer_costs(block, joint) for block, joint in zip(self.blocks, self.joint, strict=True))
        return stem_macs(self.model), layers, head_costs(self.model)


def _gather_rope(rope: Tensor, patches: Tensor) -> Tensor:
    """(N, 2d) or (H, N, 2d) rotary rows at patch indices (B, n) -> (B, 1 or H, n, 2d)."""
    batch, n = patches.shape
    heads = rope if rope.dim() == 3 else rope.unsqueeze(0)
    picked = heads.index_select(1, patches.reshape(-1))  # (H, B * n, 2d)
    return picked.reshape(heads.shape[0], batch, n, -1).transpose(0, 1)
