"""Weight files in timm's own names, of any of its Vision Transformers that the adapters take.

Which one it is: told by the user, by what lies in or beside the file, or by the names and shapes
themselves where only one of timm's models has them. Most shapes are shared by models that normalise their images
differently or count their heads otherwise, and no key tells these apart: then the candidates are listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import check_name, sketch, timm_names
from tavt_kit.checkpoints.fitting import head_names
from tavt_kit.checkpoints.official import Asked, Official
from tavt_kit.checkpoints.shapes import shape_of, vit_arguments
from tavt_kit.core.parsing import parse_json
from tavt_kit.errors import CheckpointError, UnsupportedBackbone
from tavt_kit.models.backbones.timm_vit import is_timm_vit
from tavt_kit.models.timm_import import timm

_STEM = ("patch_embed.proj.weight", "patch_embed.backbone.stem.conv.weight", "patch_embed.backbone.conv.weight")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_NOT_COMPUTED = frozenset({"training", "fused_attn", "grad_checkpointing", "init_values"})
"""Attributes that do not change an answer."""

_PLAIN = "vit_base_patch16_224"
_SHOWN = 6


def read_timm(
    tensors: Mapping[str, Tensor], asked: Asked, folder: Path, architecture: str | None = None
) -> Official | None:
    """A file in timm's names, or ``None`` if its names are others.

    Args:
        tensors: By name.
        asked: ``name`` is taken as it is; ``heads`` only where the width is not that of the named model.
        folder: Where the file lies; a ``config.json`` of timm's hub in it may tell the architecture.
        architecture: What the file itself says that it is of.

    Raises:
        CheckpointError: No name was given and the keys fit several models or none; the position table is of no square
            grid; there is no classifier and no classes are asked for.
        UnknownName: timm has no model of the given name.
        UnsupportedBackbone: The named model is not one of timm's Vision Transformers.
    """
    if not any(stem in tensors for stem in _STEM) or "blocks.0.norm1.weight" not in tensors:
        return None
    given = asked.name or _told(architecture, folder)
    name, shape = _told_by_keys(tensors, asked) if given is None else (given, {})
    check_name(name)
    if "head.weight" not in tensors and asked.classes is None:
        raise CheckpointError(
            "the file has no classifier; give the classes (`classes` or `data`), for which a new one is made"
        )
    rows = shape_of(tensors, "head.weight", 2)[0] if "head.weight" in tensors else len(asked.classes or ())
    arguments: dict[str, Any] = {"num_classes": rows, **shape}
    if asked.heads is not None:
        arguments["num_heads"] = asked.heads
    laid_out = sketch(name, arguments)
    if not is_timm_vit(laid_out):
        raise UnsupportedBackbone(f"`name` is that of one of timm's Vision Transformers, but {name} is none")
    size = asked.image_size or _trained_size(tensors, laid_out)
    if size is not None:
        arguments["img_size"] = [size, size]
    absent = () if "head.weight" in tensors else head_names(laid_out)
    origin = f"a plain ViT in timm's names, its images normalised as for {name}" if shape else f"timm's {name}"
    return Official("timm", name, arguments, dict(tensors), origin, None, absent)


def _told(architecture: str | None, folder: Path) -> str | None:
    """The architecture that timm's training script left in a checkpoint, or its hub's ``config.json`` beside one."""
    name: Any = architecture
    config = folder / "config.json"
    if name is None and config.is_file():
        try:
            said = parse_json(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{config} beside the file cannot be read as JSON ({error}); give `name`") from None
        name = said.get("architecture") if isinstance(said, dict) else None
    return name if isinstance(name, str) and timm.is_model(name) else None


def _told_by_keys(tensors: Mapping[str, Tensor], asked: Asked) -> tuple[str, dict[str, Any]]:
    """The one model that has these keys and shapes; else a plain ViT of that size, if they are a plain ViT's."""
    found = _candidates(tensors)
    groups: dict[Any, list[str]] = {}
    for name, model in found.items():
        groups.setdefault(_fingerprint(model), []).append(name)
    if len(groups) == 1:
        return min(found, key=_by_length), {}
    if not groups:
        if _is_plain(tensors):
            return _PLAIN, vit_arguments(tensors, asked.heads)  # of a size that timm has no name for
        raise CheckpointError(
            "the file is in timm's names, but none of its Vision Transformers has these shapes; give `name`, the model "
            "that it was made with"
        )
    first = sorted((min(names, key=_by_length) for names in groups.values()), key=_by_length)
    more = f" and {len(first) - _SHOWN} more" if len(first) > _SHOWN else ""
    raise CheckpointError(
        f"the file's keys fit {len(first)} of timm's models, which differ in what no key tells (heads, activation or "
        f"how images are normalised): {', '.join(first[:_SHOWN])}{more}; give `name`"
    )


def _candidates(tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """timm's models with the file's names and shapes; of its very image size, where there are such.

    The class count and the position table are left out of the comparison. The first block is compared before a whole
    model is laid out: that costs a tenth.
    """
    depth = _depth(tensors)
    first = _shapes({n: t for n, t in tensors.items() if not (match := _BLOCK.match(n)) or match[1] == "0"})
    (width,) = shape_of(tensors, "blocks.0.norm1.weight", 1)
    rows = {"num_classes": shape_of(tensors, "head.weight", 2)[0] if "head.weight" in tensors else 0}
    found = {}
    for name in filter(partial(_may_have, tensors), timm_names()):
        short = _sketch(name, {**rows, "depth": 1})
        if short is None or getattr(short, "embed_dim", width) != width or _shapes(short.state_dict()) != first:
            continue
        whole = sketch(name, rows)
        if len(whole.blocks) == depth and _shapes(whole.state_dict()) == _shapes(tensors):  # type: ignore[arg-type]
            found[name] = whole
    table = tuple(tensors["pos_embed"].shape) if "pos_embed" in tensors else None
    exact = {n: m for n, m in found.items() if table == _table(m)}
    return exact or found


def _may_have(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether what the name says of its patches is true of the file."""
    stem = next(stem for stem in _STEM if stem in tensors)
    said = re.search(r"patch(\d+)_", name)
    return said is None or (stem == _STEM[0] and int(said[1]) == shape_of(tensors, stem, 4)[-1])


def _depth(tensors: Mapping[str, Tensor]) -> int:
    return 1 + max(int(match[1]) for name in tensors if (match := _BLOCK.match(name)))


def _sketch(name: str, arguments: Mapping[str, Any]) -> nn.Module | None:
    try:
        return sketch(name, arguments)
    except (AssertionError, TypeError, ValueError):  # models whose depth cannot be set alone
        return None


def _table(model: nn.Module) -> tuple[int, ...] | None:
    table = getattr(model, "pos_embed", None)
    return None if table is None else tuple(table.shape)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items() if name != "pos_embed"}


def _kinds(names: Iterable[str]) -> set[str]:
    """Names with the number of the block left out."""
    return {_BLOCK.sub("blocks.N.", name) for name in names}


def _is_plain(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the plain ViT, with or without its head."""
    plain = _kinds(sketch(_PLAIN, {"depth": 1}).state_dict())
    return _kinds(tensors) | {"head.weight", "head.bias"} == plain


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def _trained_size(tensors: Mapping[str, Tensor], laid_out: Any) -> int | None:
    """Pixels an edge by the position table or the table of relative positions; ``None`` for the model's own."""
    rows, columns = laid_out.patch_embed.grid_size
    own = laid_out.state_dict()
    stride = laid_out.patch_embed.img_size[0] // rows
    for name, theirs in tensors.items():
        if name not in own or theirs.shape == own[name].shape:
            continue
        is_table = name.endswith("relative_position_bias_table")
        if name != "pos_embed" and not is_table:
            continue
        shape, mine = shape_of(tensors, name, own[name].dim()), own[name].shape
        if is_table:  # of a row for each distance, -(n - 1) to n - 1 both ways, and some for the class token
            found = max(0, shape[0] - mine[0] + (2 * rows - 1) * (2 * columns - 1))
            side, fits = (math.isqrt(found) + 1) // 2, math.isqrt(found) ** 2 == found and found % 2 == 1
        else:
            found = max(0, shape[1] - mine[1] + rows * columns)
            side, fits = math.isqrt(found), math.isqrt(found) ** 2 == found > 0
        if not fits:
            raise CheckpointError(f"{name} has the shape {list(shape)}, which is of no square grid for this model")
        return int(side * stride)
    return None


def _fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Whatever of a model changes its answers: the plain values of all its parts, and its preprocessing."""
    parts = []
    for name, part in model.named_modules():
        plain = {k: v for k, v in vars(part).items() if k not in _NOT_COMPUTED and not k.startswith("_")}
        values = sorted((k, repr(v)) for k, v in plain.items() if isinstance(v, bool | int | float | str | tuple))
        parts.append((name, type(part).__name__, tuple(values)))
    config = timm.data.resolve_data_config({}, pretrained_cfg=model.pretrained_cfg)
    return (*parts, repr(sorted((k, v) for k, v in config.items() if k != "input_size")))
