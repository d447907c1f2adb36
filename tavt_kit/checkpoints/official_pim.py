"""Weight files of FGVC-PIM: v1 (``best.pt``) and v0 (``.pth``), over ViT, Swin, ResNet-50 and EfficientNet-B7.

Backbones are in the names of timm 0.4.12 (torchvision's for EfficientNet) and become timm's of today. A Swin's unused
final norm and 21841-way head, and its buffers that timm makes itself now, are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tavt_kit.checkpoints.official_vit import (
    ConvertOptions,
    Official,
    count_layers,
    fit_positions,
    shape_of,
    vit_arguments,
)
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError

_V0 = (
    (r"^extractor\.", "backbone."),
    (r"^fpn_(\d)\.", lambda m: f"fpn.Proj_layer{int(m[1]) + 1}."),
    (r"^upsample_(\d)\.", lambda m: f"fpn.Up_layer{int(m[1]) + 1}."),
    (r"^classifier_l(\d)\.", lambda m: f"fpn_classifier_layer{int(m[1]) + 1}."),
    (r"^gcn\.pool1\.", "combiner.param_pool0."),
    (r"^gcn\.pool4\.", "combiner.param_pool1."),
    (r"^gcn\.", "combiner."),
)
"""Names of v0 -> of v1."""

_PARTS = (
    (r"^fpn\.Proj_layer(\d)\.", lambda m: f"pyramid.project.{int(m[1]) - 1}."),
    (r"^fpn\.Up_layer(\d)\.", lambda m: f"pyramid.up.{int(m[1]) - 2}."),
    (r"^fpn_classifier_layer(\d)\.", lambda m: f"classifiers.{int(m[1]) - 1}."),
    (r"^combiner\.adj1$", "combiner.adjacency"),
    (r"^combiner\.alpha1$", "combiner.strength"),
    (r"^combiner\.param_pool0\.", "combiner.gather."),
    (r"^combiner\.param_pool1\.", "combiner.join."),
    (r"^combiner\.conv1\.", "combiner.mix."),
    (r"^combiner\.conv_q1\.", "combiner.query."),
    (r"^combiner\.conv_k1\.", "combiner.key."),
    (r"^combiner\.batch_norm1\.", "combiner.norm."),
    (r"^combiner\.classifier\.", "combiner.head."),
)
"""Names of v1 -> ours."""

_EXPANDED = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2.fc1": "se.conv_reduce",
             "2.fc2": "se.conv_expand", "3.0": "conv_pwl", "3.1": "bn3"}  # fmt: skip
_SEPARABLE = {"0.0": "conv_dw", "0.1": "bn1", "1.fc1": "se.conv_reduce", "1.fc2": "se.conv_expand", "2.0": "conv_pw",
              "2.1": "bn2"}  # fmt: skip
"""torchvision's names inside a block of EfficientNet -> timm's, with and without expansion."""

_SELECTS = {2720: (2048, 512, 128, 32), 480: (256, 128, 64, 32), 128: (32, 32, 32, 32)}
"""All selected tokens -> those of each level: CUB, NABirds, and the default (no key tells the levels apart)."""

_RESIZED = 510
"""Pixels of every edge before the crop, at any input size."""


def read_pim(tensors: Mapping[str, Tensor], options: ConvertOptions) -> Official | None:
    """A file of the family, or ``None`` if it is of another."""
    if not {"combiner.param_pool0.weight", "gcn.pool1.weight"} & set(tensors):
        return None
    named = {_renamed(name, _V0): tensor for name, tensor in tensors.items()}
    if "fpn.Proj_layer1.0.weight" not in named:
        raise CheckpointError("the file is of a PIM without a feature pyramid, which the official code cannot run")
    parts = {_renamed(name, _PARTS): _flat(name, t) for name, t in named.items() if not name.startswith("backbone.")}
    backbone = {n.removeprefix("backbone."): t for n, t in named.items() if n.startswith("backbone.")}
    architecture, backbone, arguments, size = _backbone(backbone, parts, options)
    classes, width = shape_of(parts, "combiner.head.weight", 2)
    total = shape_of(parts, "combiner.gather.weight", 2)[1]
    selects = options.num_selects or _SELECTS.get(total)
    if selects is None:
        raise CheckpointError(
            f"the combiner reads {total} selected tokens, but no key tells how many of each level; "
            "give `num_selects`, such as 2048,512,128,32"
        )
    if len(selects) != 4 or sum(selects) != total:
        raise CheckpointError(
            f"the combiner reads {total} selected tokens of 4 levels, but `num_selects` names "
            f"{', '.join(map(str, selects))}; give 4 numbers of that sum"
        )
    arguments = {
        "num_classes": classes,
        "img_size": [size, size],
        "fpn_size": width,
        "num_selects": list(selects),
        **arguments,
    }
    parts |= {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    crop = size / _RESIZED if size in (384, 448) else 384 / _RESIZED
    preprocessing = Preprocessing((size, size), crop, "squash", "bilinear")
    return Official("pim", architecture, arguments, parts, "FGVC-PIM", preprocessing)


def _renamed(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    for pattern, replacement in rules:
        renamed = re.sub(pattern, replacement, name)
        if renamed != name:
            return renamed
    return name


def _flat(name: str, tensor: Tensor) -> Tensor:
    """Convolutions of size 1 as the linear layers (of the pyramid) and one-dimensional convolutions that they are."""
    if tensor.dim() != 4:
        return tensor
    return tensor.flatten(1) if name.startswith("fpn.Proj_") else tensor.flatten(2)


def _backbone(
    tensors: dict[str, Tensor], parts: Mapping[str, Tensor], options: ConvertOptions
) -> tuple[str, dict[str, Tensor], dict[str, Any], int]:
    """Our name of the model, the backbone's tensors in timm's names, arguments for creating it, and the image size."""
    if "blocks.0.attn.qkv.weight" in tensors:
        shape = vit_arguments(tensors, options.heads)
        size, positions = fit_positions(tensors, options, shape["patch_size"])
        arguments = {**shape, "qkv_bias": "blocks.0.attn.qkv.bias" in tensors}
        return "pim_vit_base_patch16", {**tensors, "pos_embed": positions}, arguments, size
    if "layers.0.blocks.0.attn.qkv.weight" in tensors:
        return _swin(tensors, parts, options)
    if "layer1.0.conv1.weight" in tensors:
        return "pim_resnet50", tensors, {}, options.image_size or 448
    if "features.0.0.weight" in tensors:
        renamed = {_from_torchvision(name, tensors): tensor for name, tensor in tensors.items()}
        return "pim_efficientnet_b7", renamed, {}, options.image_size or 448
    raise CheckpointError("the file is of a PIM over an unknown backbone: no ViT, Swin, ResNet or EfficientNet")


def _swin(
    tensors: dict[str, Tensor], parts: Mapping[str, Tensor], options: ConvertOptions
) -> tuple[str, dict[str, Tensor], dict[str, Any], int]:
    width, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    # The matrix between the levels has a row for each place of the first one, which is merged once.
    size = 2 * patch * math.isqrt(shape_of(parts, "pyramid.up.0.weight", 3)[0])
    if options.image_size not in (None, size):
        raise DataError(f"the pyramid of this PIM is made for images of {size} px, got {options.image_size}")
    stages = range(count_layers(tensors, "layers."))
    tables = [shape_of(tensors, f"layers.{stage}.blocks.0.attn.relative_position_bias_table", 2) for stage in stages]
    blocks = {tuple(name.split(".")[1:4:2]) for name in tensors if re.match(r"layers\.\d+\.blocks\.", name)}
    arguments = {
        "patch_size": patch,
        "embed_dim": width,
        "depths": [sum(int(own) == stage for own, _ in blocks) for stage in stages],
        "num_heads": [heads for _, heads in tables],
        "window_size": max((1 + math.isqrt(rows)) // 2 for rows, _ in tables),
        "mlp_ratio": shape_of(tensors, "layers.0.blocks.0.mlp.fc1.bias", 1)[0] / width,
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in tensors,
    }
    used = {
        re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name): tensor
        for name, tensor in tensors.items()
        if not name.startswith(("norm.", "head.")) and not name.endswith(("relative_position_index", "attn_mask"))
    }
    return "pim_swin_large_patch4_window12_384", used, arguments, size


def _from_torchvision(name: str, tensors: Mapping[str, Tensor]) -> str:
    """A name of torchvision's EfficientNet as timm's."""
    if stem := re.match(r"features\.0\.([01])\.(\w+)$", name):
        return f"{('conv_stem', 'bn1')[int(stem[1])]}.{stem[2]}"
    inside = re.match(r"features\.(\d)\.(\d+)\.block\.(\d\.\w+)\.(\w+)$", name)
    if inside is None:
        return name
    stage, block, part, kind = inside.groups()
    names = _EXPANDED if f"features.{stage}.{block}.block.3.0.weight" in tensors else _SEPARABLE
    return f"blocks.{int(stage) - 1}.{block}.{names.get(part, part)}.{kind}"
