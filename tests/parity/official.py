"""Official ViT weights (ViT-pytorch, TransFG, TAVT key names) as timm models, for the golden numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.timm_import import timm

Arrays = Mapping[str, NDArray[Any]]


def load(reference: Path, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A golden file's arrays and its meta."""
    with np.load(reference / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta")))


def state_of(arrays: Arrays, prefix: str = "state/") -> dict[str, Tensor]:
    """The official state dict below ``prefix``."""
    return {key.removeprefix(prefix): torch.from_numpy(v) for key, v in arrays.items() if key.startswith(prefix)}


def timm_keys(layers: int) -> dict[str, tuple[str, ...]]:
    """timm's key -> the official keys whose values, concatenated along axis 0, it holds."""
    root = "transformer.encoder"
    names: dict[str, tuple[str, ...]] = {
        "cls_token": ("transformer.embeddings.cls_token",),
        "pos_embed": ("transformer.embeddings.position_embeddings",),
    }
    for kind in ("weight", "bias"):
        names[f"patch_embed.proj.{kind}"] = (f"transformer.embeddings.patch_embeddings.{kind}",)
        names[f"norm.{kind}"] = (f"{root}.encoder_norm.{kind}",)
        names[f"head.{kind}"] = (f"head.{kind}",)
        for i in range(layers):
            ours, theirs = f"blocks.{i}", f"{root}.layer.{i}"
            names[f"{ours}.norm1.{kind}"] = (f"{theirs}.attention_norm.{kind}",)
            names[f"{ours}.norm2.{kind}"] = (f"{theirs}.ffn_norm.{kind}",)
            names[f"{ours}.attn.qkv.{kind}"] = tuple(
                f"{theirs}.attn.{part}.{kind}" for part in ("query", "key", "value")
            )
            names[f"{ours}.attn.proj.{kind}"] = (f"{theirs}.attn.out.{kind}",)
            names[f"{ours}.mlp.fc1.{kind}"] = (f"{theirs}.ffn.fc1.{kind}",)
            names[f"{ours}.mlp.fc2.{kind}"] = (f"{theirs}.ffn.fc2.{kind}",)
    return names


def timm_from_official(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """A timm VisionTransformer with the official weights, loaded strictly; overlapping splits have their stride."""
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=config["img_size"],
        patch_size=config["patch"],
        num_classes=config["num_classes"],
        embed_dim=config["hidden_size"],
        depth=config["num_layers"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_dim"] / config["hidden_size"],
    )
    if config.get("split") == "overlap":
        stem, stride = model.patch_embed, config["slide_step"]
        side = (config["img_size"] - config["patch"]) // stride + 1
        stem.proj.stride, stem.grid_size, stem.num_patches = (stride, stride), (side, side), side * side
        model.pos_embed = nn.Parameter(torch.empty(1, side * side + 1, config["hidden_size"]))
    keys = timm_keys(config["num_layers"])
    model.load_state_dict({ours: torch.cat([state[k] for k in theirs]) for ours, theirs in keys.items()}, strict=True)
    return model.eval()
