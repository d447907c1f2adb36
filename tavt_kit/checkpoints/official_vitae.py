"""Weight files of ViTAE and ViTAEv2, whose tensors fit our models by their own names.

The checkpoints are those of timm 0.4's saver (``.pth.tar``). Of averaged and plain weights the averaged ones are read,
as the official validation does; where a training's global batch was below 512, the official recipe's average never
moved from its start, and the plain ones must be saved on their own first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tavt_kit.checkpoints.official_vit import ConvertOptions, Official, count_layers, fit_positions, shape_of
from tavt_kit.errors import CheckpointError
from tavt_kit.models.backbones.vitae import VARIANTS


def read_vitae(tensors: Mapping[str, Tensor], options: ConvertOptions) -> Official | None:
    """A file of either version, or ``None`` if it is of another family.

    Variants are told by their widths and depths; of others no key tells the attention heads, nor how large an image
    they were trained on (224 px unless asked for).
    """
    if not any(name.startswith("layers.0.RC.") for name in tensors):
        return None
    found = _arguments(tensors)
    name = _variant(found)
    if name is None:
        found = {**found, **_heads(found, options)}
    second = found["version"] == 2
    size, table = options.image_size or 224, {}
    if (positions := "layers.0.RC.pos_embed") in tensors:
        size, table[positions] = fit_positions(tensors, options, found["downsample_ratios"][0], positions)
    arguments = {"num_classes": shape_of(tensors, "head.bias", 1)[0], "img_size": [size, size]}
    if name is None:
        arguments |= {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
    return Official(
        "vitaev2" if second else "vitae",
        name or ("vitaev2_s" if second else "vitae_base" if found["class_token"] else "vitae_tiny"),
        arguments,
        {**tensors, **table},
        "ViTAEv2" if second else "ViTAE",
    )


def _arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of ``Vitae``, without heads, read off the names and shapes."""
    rows, width, stages = [], 3, count_layers(tensors, "layers.")
    for stage in range(stages):
        rows.append(_reduction(tensors, f"layers.{stage}.RC.", width))
        width = rows[-1]["token_dims"]
        rows[-1] |= _normal(tensors, f"layers.{stage}.NC.", width)
    found: dict[str, Any] = {key: tuple(row[key] for row in rows) for key in rows[0]}
    # The first version has a norm after the second convolution of a reduction cell, the other one after the first.
    found["version"] = 2 if "layers.0.RC.PCM.1.weight" in tensors else 1
    found["class_token"] = "layers.0.RC.cls_token" in tensors
    filled = [stage for stage, depth in enumerate(found["nc_depth"]) if depth]
    if not filled:
        raise CheckpointError("the file is of ViTAE, but has no normal cells; nothing was loaded")
    hidden = shape_of(tensors, f"layers.{filled[0]}.NC.0.mlp.fc1.bias", 1)[0]
    found["mlp_ratio"] = float(hidden / found["token_dims"][filled[0]])
    windows = [f"layers.{stage}.NC.0.attn.relative_position_index" for stage in range(stages)]
    if window := next((name for name in windows if name in tensors), None):
        found["window_size"] = math.isqrt(shape_of(tensors, window, 2)[0])
    if any(name.endswith("relative_position_bias_table") for name in tensors):
        found["relative_pos"] = True
    return found


_REDUCTIONS = {"PRM.proj.weight": "embedding", "attn.kqv.weight": "performer",
               "attn.attn.relative_position_index": "window", "attn.attn.qkv.weight": "transformer",
               "PRM.convs.0.0.weight": "performer_less"}  # fmt: skip
"""A tensor by which a reduction cell is known -> its kind."""


def _reduction(tensors: Mapping[str, Tensor], root: str, width_in: int) -> dict[str, Any]:
    """The reduction cell of a stage."""
    kind = next((kind for mark, kind in _REDUCTIONS.items() if root + mark in tensors), "none")
    embed, out, ratio, group = width_in, width_in, 1, 1
    if kind == "embedding":
        out, _, ratio, _ = shape_of(tensors, f"{root}PRM.proj.weight", 4)
        embed = out
    elif kind != "none":
        embed, _, kernel, _ = shape_of(tensors, f"{root}PRM.convs.0.0.weight", 4)
        ratio = 4 if kernel == 7 else 2
        if kind == "performer_less":
            out = embed * sum(name.startswith(f"{root}PRM.convs.") and name.endswith("weight") for name in tensors)
        else:
            out = shape_of(tensors, f"{root}attn.{'proj' if kind == 'performer' else 'attn.proj'}.bias", 1)[0]
        if f"{root}PCM.0.weight" in tensors:
            group = width_in // shape_of(tensors, f"{root}PCM.0.weight", 4)[1]
    return {"embed_dims": embed, "token_dims": out, "downsample_ratios": ratio, "rc_tokens": kind, "rc_group": group}


def _normal(tensors: Mapping[str, Tensor], root: str, width: int) -> dict[str, Any]:
    """The normal cells of a stage."""
    cells = {name.split(".")[3] for name in tensors if name.startswith(root)}
    if not cells:
        return {"nc_tokens": "transformer", "nc_depth": 0, "nc_group": 1}
    kind = "transformer" if f"{root}0.PCM.6.weight" in tensors else "transformer_shallow"
    kind = "performer" if f"{root}0.attn.kqv.weight" in tensors else kind
    kind = "window" if f"{root}0.attn.relative_position_index" in tensors else kind
    group = width // shape_of(tensors, f"{root}0.PCM.0.weight", 4)[1]
    return {"nc_tokens": kind, "nc_depth": len(cells), "nc_group": group}


def _variant(found: Mapping[str, Any]) -> str | None:
    """The official size of these widths, depths and kinds, if any."""
    tiny = {"version": 1, "class_token": False, "mlp_ratio": 2.0, "embed_dims": (64, 64, 128),
            "token_dims": (64, 64, 256), "nc_depth": (0, 0, 7), "downsample_ratios": (4, 2, 2),
            "rc_group": (1, 1, 1), "nc_group": (1, 1, 64)}  # fmt: skip
    for name, shape in VARIANTS.items():
        if all(found[key] == {**tiny, **shape}[key] for key in tiny) and found.get("window_size", 7) == 7:
            return None if "relative_pos" in found else name
    return None


def _heads(found: Mapping[str, Any], options: ConvertOptions) -> dict[str, tuple[int, ...]]:
    """Of the cells of each stage: as given, or of the official size of these widths."""
    stages = len(found["token_dims"])
    given = options.stage_heads or (None if options.heads is None else (options.heads,))
    for shape in () if given is not None else VARIANTS.values():
        if shape.get("token_dims", (64, 64, 256)) == found["token_dims"]:
            given = (*shape.get("nc_heads", (1, 1, 4)), *shape.get("rc_heads", (1,) * stages))
            break
    if given is None or len(given) not in (1, stages, 2 * stages):
        shown = "none" if given is None else ",".join(map(str, given))
        raise CheckpointError(
            f"no key tells the attention heads of a ViTAE of widths {', '.join(map(str, found['token_dims']))}; give "
            f"`heads` for the normal cells of its {stages} stages and then for its reduction cells, such as "
            f"{','.join(['1'] * (2 * stages - 1))},2 (got {shown})"
        )
    # One number is the last stage's; what is not given of reduction cells is that of the cells before them.
    normal = (*(1,) * (stages - 1), given[0]) if len(given) == 1 else given[:stages]
    return {"nc_heads": normal, "rc_heads": given[stages:] or (1, *normal[:-1])}
