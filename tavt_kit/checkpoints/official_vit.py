"""Weight files of the ViT-pytorch family (ViT-pytorch, TAVT) as timm Vision Transformers: names and shapes.

Source of the key names: ``jeonsworld/ViT-pytorch``, from which TransFG, TAVT, FFVT and Mix-ViT descend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tavt_kit.errors import CheckpointError

__all__ = [
    "HEADS",
    "NAMES",
    "ffvt_as_vit",
    "is_official_ffvt",
    "is_official_vit",
    "official_names",
    "timm_name",
    "to_timm",
    "vit_arguments",
]

_ROOT = "transformer.encoder"
_EMBED = "transformer.embeddings"
_PARTS = {
    "norm1": ("attention_norm",),
    "norm2": ("ffn_norm",),
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "attn.proj": ("attn.out",),
    "mlp.fc1": ("ffn.fc1",),
    "mlp.fc2": ("ffn.fc2",),
}

HEADS = {768: 12, 1024: 16, 1280: 16}
"""Width -> attention heads of ViT-B, L and H; no key of a torch file tells them."""

NAMES = {
    (768, 12, 16): "vit_base_patch16_224",
    (768, 12, 32): "vit_base_patch32_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1024, 24, 32): "vit_large_patch32_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}
"""(width, layers, patch) -> timm's name."""


def is_official_vit(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the family's plain ViT."""
    return f"{_EMBED}.position_embeddings" in tensors and f"{_ROOT}.encoder_norm.weight" in tensors


def is_official_ffvt(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of FFVT with feature fusion."""
    return f"{_EMBED}.position_embeddings" in tensors and f"{_ROOT}.ff_encoder_norm.weight" in tensors


def ffvt_as_vit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """FFVT's tensors under the plain ViT's names: the fusion layer is the last one, its norm the final one."""
    last = f"{_ROOT}.layer.{_count_layers(tensors)}."
    moves = ((f"{_ROOT}.ff_last_layer.", last), (f"{_ROOT}.ff_encoder_norm.", f"{_ROOT}.encoder_norm."))
    renamed = {}
    for name, tensor in tensors.items():
        move = next(((theirs, ours) for theirs, ours in moves if name.startswith(theirs)), ("", ""))
        renamed[move[1] + name.removeprefix(move[0])] = tensor
    return renamed


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor under timm's name; query, key and value become one.

    Raises:
        CheckpointError: A tensor is missing or has no place; all of them are named.
    """
    wanted = official_names(_count_layers(tensors))
    known = {name for names in wanted.values() for name in names}
    missing, unexpected = sorted(known - set(tensors)), sorted(set(tensors) - known)
    if missing or unexpected:
        raise CheckpointError(
            f"the file is of the ViT-pytorch family, but lacks {', '.join(missing) or 'nothing'} and adds "
            f"{', '.join(unexpected) or 'nothing'}; nothing was loaded"
        )
    return {ours: torch.cat([tensors[name] for name in theirs]) for ours, theirs in wanted.items()}


def official_names(layers: int) -> dict[str, tuple[str, ...]]:
    """timm's name -> the official names whose tensors, one below the other, it holds."""
    names: dict[str, tuple[str, ...]] = {
        "cls_token": (f"{_EMBED}.cls_token",),
        "pos_embed": (f"{_EMBED}.position_embeddings",),
    }
    for kind in ("weight", "bias"):
        names[f"patch_embed.proj.{kind}"] = (f"{_EMBED}.patch_embeddings.{kind}",)
        names[f"norm.{kind}"] = (f"{_ROOT}.encoder_norm.{kind}",)
        names[f"head.{kind}"] = (f"head.{kind}",)
        for layer in range(layers):
            for ours, theirs in _PARTS.items():
                official = tuple(f"{_ROOT}.layer.{layer}.{part}.{kind}" for part in theirs)
                names[f"blocks.{layer}.{ours}.{kind}"] = official
    return names


def vit_arguments(tensors: Mapping[str, Tensor], heads: int | None, slide_step: int | None) -> dict[str, Any]:
    """Arguments of the timm model that a state dict in timm's names is of.

    Args:
        tensors: In timm's names.
        heads: Where the file's family does not settle them.
        slide_step: Pixels from one patch to the next; the patch size unless the split overlaps.

    Raises:
        CheckpointError: Heads or step must be given, or do not fit the shapes.
    """
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    heads = heads or HEADS.get(width)
    if heads is None:
        raise CheckpointError(f"no key tells the number of attention heads at a width of {width}; give --heads")
    if width % heads:
        raise CheckpointError(f"a width of {width} cannot be shared by {heads} heads; give another --heads")
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    if side * side != tensors["pos_embed"].shape[1] - 1:
        raise CheckpointError(
            f"the position table has {tensors['pos_embed'].shape[1]} rows: no square grid and a class"
        )
    if side == 37 and patch == 16 and slide_step is None:
        raise CheckpointError(
            "a grid of 37 x 37 is 448 px in the overlapping split or 592 px without; give --slide-step 12 or 16"
        )
    step = slide_step or patch
    if not 0 < step <= patch:
        raise CheckpointError(f"a slide step is 1 to the patch size of {patch}, got {step}")
    arguments: dict[str, Any] = {
        "num_classes": len(tensors["head.bias"]),
        "img_size": [(side - 1) * step + patch] * 2,
        "patch_size": patch,
        "embed_dim": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        "num_heads": heads,
        "mlp_ratio": len(tensors["blocks.0.mlp.fc1.bias"]) / width,
    }
    return arguments if step == patch else {**arguments, "slide_step": step}


def timm_name(arguments: Mapping[str, Any]) -> str:
    """timm's name of the nearest architecture; the arguments say the rest."""
    shape = (arguments["embed_dim"], arguments["depth"], arguments["patch_size"])
    return NAMES.get(shape, "vit_base_patch16_224")


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    found = {name.split(".")[3] for name in tensors if name.startswith(f"{_ROOT}.layer.")}
    return 1 + max((int(index) for index in found if index.isdecimal()), default=-1)
