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
    found = _Reading(tensors).arguments()
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


class _Reading:
    """Reads an architecture off the names and shapes."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.stages = count_layers(tensors, "layers.")
        # The first version has a norm after the second convolution of a reduction cell, the other one after the first.
        self.version = 2 if self._has("layers.0.RC.PCM.1.weight") else 1

    def _has(self, name: str) -> bool:
        return name in self.tensors

    def _shape(self, name: str, rank: int) -> tuple[int, ...]:
        return shape_of(self.tensors, name, rank)

    def arguments(self) -> dict[str, Any]:
        """Of ``Vitae``, without heads."""
        rows, width = [], 3
        for stage in range(self.stages):
            rows.append(self._stage(stage, width))
            width = rows[-1]["token_dims"]
        found: dict[str, Any] = {key: tuple(row[key] for row in rows) for key in rows[0]}
        found |= {"version": self.version, "class_token": self._has("layers.0.RC.cls_token")}
        filled = [stage for stage, depth in enumerate(found["nc_depth"]) if depth]
        if not filled:
            raise CheckpointError("the file is of ViTAE, but has no normal cells; nothing was loaded")
        hidden = self._shape(f"layers.{filled[0]}.NC.0.mlp.fc1.bias", 1)[0]
        found["mlp_ratio"] = float(hidden / found["token_dims"][filled[0]])
        windows = [f"layers.{stage}.NC.0.attn.relative_position_index" for stage in range(self.stages)]
        if window := next(filter(self._has, windows), None):
            found["window_size"] = math.isqrt(self._shape(window, 2)[0])
        if any(name.endswith("relative_position_bias_table") for name in self.tensors):
            found["relative_pos"] = True
        return found

    def _stage(self, stage: int, width_in: int) -> dict[str, Any]:
        root = f"layers.{stage}.RC."
        marks = {"PRM.proj.weight": "embedding", "attn.kqv.weight": "performer",
                 "attn.attn.relative_position_index": "window", "attn.attn.qkv.weight": "transformer",
                 "PRM.convs.0.0.weight": "performer_less"}  # fmt: skip
        kind = next((kind for mark, kind in marks.items() if self._has(root + mark)), "none")
        embed, out, ratio, group = width_in, width_in, 1, 1
        if kind == "embedding":
            out, _, ratio, _ = self._shape(f"{root}PRM.proj.weight", 4)
            embed = out
        elif kind != "none":
            embed, _, kernel, _ = self._shape(f"{root}PRM.convs.0.0.weight", 4)
            ratio = 4 if kernel == 7 else 2
            if kind == "performer_less":
                starts, ends = f"{root}PRM.convs.", "weight"
                out = embed * sum(name.startswith(starts) and name.endswith(ends) for name in self.tensors)
            else:
                out = self._shape(f"{root}attn.{'proj' if kind == 'performer' else 'attn.proj'}.bias", 1)[0]
            if self._has(f"{root}PCM.0.weight"):
                group = width_in // self._shape(f"{root}PCM.0.weight", 4)[1]
        return {
            "embed_dims": embed, "token_dims": out, "downsample_ratios": ratio, "rc_tokens": kind, "rc_group": group,
            **self._normal(stage, out),
        }  # fmt: skip

    def _normal(self, stage: int, width: int) -> dict[str, Any]:
        cells = {name.split(".")[3] for name in self.tensors if name.startswith(f"layers.{stage}.NC.")}
        root = f"layers.{stage}.NC.0."
        if not cells:
            return {"nc_tokens": "transformer", "nc_depth": 0, "nc_group": 1}
        kind = "transformer" if self._has(f"{root}PCM.6.weight") else "transformer_shallow"
        kind = "performer" if self._has(f"{root}attn.kqv.weight") else kind
        kind = "window" if self._has(f"{root}attn.relative_position_index") else kind
        group = width // self._shape(f"{root}PCM.0.weight", 4)[1]
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
