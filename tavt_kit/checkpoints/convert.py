"""convert: an official weight file as a model of the kit, its family told by its names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import create, preprocessing_of
from tavt_kit.checkpoints.fitting import fit
from tavt_kit.checkpoints.google_npz import google_heads, google_to_timm, is_google, read_npz
from tavt_kit.checkpoints.official_vit import (
    HEADS,
    NAMES,
    ffvt_as_vit,
    is_official_ffvt,
    is_official_vit,
    timm_name,
    to_timm,
    vit_arguments,
)
from tavt_kit.checkpoints.weight_file import read_tensors
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.model_card import Licence, ModelCard
from tavt_kit.preprocess import Preprocessing

__all__ = ["FAMILIES", "POSITION_RULES", "Family", "PositionRule", "convert", "resize_positions"]

Family = Literal["vit", "ffvt"]
FAMILIES: tuple[Family, ...] = ("vit", "ffvt")
"""What a file can become. Files of the systems say which; Google's can start either."""

_TOKENS = {200: 12, 80: 12, 120: 24}
"""FFVT's tokens a layer by classes: CUB and SoyLocal, Cotton80, Stanford Dogs (the scripts of its repository)."""

PositionRule = Literal["official", "timm"]
POSITION_RULES: tuple[PositionRule, ...] = ("official", "timm")
"""How a position table is resized: bilinear with the corners aligned (scipy's zoom, as the official loaders do), or
bilinear without (as timm's loader of the same files does)."""


_GOOGLE = "Google's Vision Transformer"


@dataclass(frozen=True, slots=True)
class _Recognised:
    """A file in timm's names, with what its family says beyond them."""

    tensors: dict[str, Tensor]
    heads: int | None
    family: Family
    resized_crop: bool
    origin: str


def convert(
    file: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
    slide_step: int | None = None,
    image_size: int | None = None,
    positions: PositionRule = "official",
    family: Family | None = None,
    num_token: int | None = None,
) -> tuple[nn.Module, ModelCard]:
    """Read a weight file of TAVT, FFVT, ViT-pytorch (``.bin``, ``.pth``) or Google (``.npz``) into a model.

    Args:
        file: Read safely; nothing in it is run.
        classes: Names of its classes in order; ``class 0``, ``class 1``, ... where not known.
        heads: Attention heads, where the width is not that of ViT-B, L or H.
        slide_step: Pixels from one patch to the next, for the overlapping split.
        image_size: Edge of the model's input; the position table is resized by the rule of ``positions``. The size
            that fits the table by default.
        positions: ``"official"`` or ``"timm"``.
        family: ``"ffvt"`` makes an FFVT of Google's file; its fusion layer and final norm start at random, as in the
            official loader. Other files tell their family.
        num_token: FFVT's tokens from each layer, which no file tells; from the number of classes where that is known.

    Returns:
        The bare model in eval mode, and its card (without a hash: nothing is written yet).

    Raises:
        CheckpointError: The file cannot be read, is of no known family, or does not hold together.
        DataError: An image size the split does not allow.

    Example:
        >>> model, card = convert("ViT-B_16.npz", image_size=448)  # doctest: +SKIP
    """
    path = Path(file).expanduser()
    found = _recognise(path)
    if family not in (None, found.family):
        if found.origin != _GOOGLE:
            raise CheckpointError(f"{path} is of the family {found.family}, so it cannot be read as {family}")
        found = replace(found, family=family)
    arguments = _arguments(found, heads or found.heads, slide_step, image_size)
    name = timm_name(arguments)
    if found.family == "ffvt":
        name = name.replace("vit_", "ffvt_", 1).removesuffix("_224")
        arguments["num_token"] = _num_token(num_token, len(found.tensors["head.bias"]))
    tensors = dict(found.tensors)
    patch, step = arguments["patch_size"], arguments.get("slide_step", arguments["patch_size"])
    side = (arguments["img_size"][0] - patch) // step + 1
    tensors["pos_embed"] = resize_positions(tensors["pos_embed"], side, positions)
    arguments = _shortest(name, arguments)
    model = create(name, arguments)
    if found.family == "ffvt" and found.origin == _GOOGLE:
        last = f"blocks.{len(model.blocks) - 1}."  # type: ignore[arg-type]
        tensors |= {n: tensor for n, tensor in model.state_dict().items() if n.startswith((last, "norm."))}
    fit(model, tensors, str(path))
    return model, _card(path, found, name, arguments, model, classes)


def resize_positions(table: Tensor, side: int, rule: PositionRule) -> Tensor:
    """A position table (1, 1 + n * n, D) for a grid of ``side`` x ``side``; the class row stays as it is.

    Raises:
        CheckpointError: No such rule.
    """
    if rule not in POSITION_RULES:
        raise CheckpointError(f"position tables are resized by the rule {' or '.join(POSITION_RULES)}, got {rule!r}")
    before = round((table.shape[1] - 1) ** 0.5)
    if before == side:
        return table
    grid = table[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=rule == "official")
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)


def _recognise(path: Path) -> _Recognised:
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if is_google(arrays):
            return _Recognised(google_to_timm(arrays), google_heads(arrays), "vit", False, _GOOGLE)
        names = sorted(arrays)
    else:
        tensors = read_tensors(path)
        if is_official_vit(tensors):
            return _Recognised(to_timm(tensors), None, "vit", True, "the ViT-pytorch family (TAVT)")
        if is_official_ffvt(tensors):
            return _Recognised(to_timm(ffvt_as_vit(tensors)), None, "ffvt", True, "FFVT")
        names = sorted(tensors)
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise CheckpointError(
        f"{path} is of no family that is known here (it holds {some}); for a file in timm's own names give the model: "
        f"fgvc-kit train NAME --weights {path.name}"
    )


def _arguments(found: _Recognised, heads: int | None, slide_step: int | None, image_size: int | None) -> dict[str, Any]:
    """Of the architecture at the wanted size and step."""
    # Google's tables are of the split without overlap, whatever the model is to have; the others of their own split.
    arguments = vit_arguments(found.tensors, heads, slide_step if found.resized_crop else _patch(found.tensors))
    patch = arguments["patch_size"]
    if slide_step is not None and slide_step != patch:
        if not 0 < slide_step < patch:
            raise DataError(f"a slide step is 1 to the patch size of {patch}, got {slide_step}")
        arguments["slide_step"] = slide_step
    if image_size is not None:
        if image_size < patch or (arguments.get("slide_step") is None and image_size % patch):
            raise DataError(f"patches of {patch} px need an image size that is a multiple of that, got {image_size}")
        arguments["img_size"] = [image_size, image_size]
    return arguments


def _num_token(given: int | None, classes: int) -> int:
    found = given or _TOKENS.get(classes)
    if found is None:
        raise CheckpointError(
            f"no key tells how many tokens FFVT takes from each layer, nor do {classes} classes; give --num-token"
        )
    return found


def _patch(tensors: Mapping[str, Tensor]) -> int:
    return int(tensors["patch_embed.proj.weight"].shape[-1])


def _shortest(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without what timm's name says already."""
    shape = (arguments["embed_dim"], arguments["depth"], arguments["patch_size"])
    usual = shape in NAMES and arguments["num_heads"] == HEADS[shape[0]] and arguments["mlp_ratio"] == 4
    said = ("embed_dim", "depth", "patch_size", "num_heads", "mlp_ratio") if usual else ()
    return {key: value for key, value in arguments.items() if key not in said}


def _card(
    path: Path,
    found: _Recognised,
    name: str,
    arguments: Mapping[str, Any],
    model: nn.Module,
    classes: Sequence[str] | None,
) -> ModelCard:
    count = int(arguments["num_classes"])
    if classes is not None and len(classes) != count:
        raise CheckpointError(
            f"{path} has a head of {count} classes, but {len(classes)} are named; give the data it was trained on"
        )
    preprocessing = preprocessing_of(model)
    if found.resized_crop:  # every edge to 600 px, then 448 from the centre: the recipes of the ViT-pytorch family
        preprocessing = Preprocessing(preprocessing.image_size, 448 / 600, "squash", "bilinear")
    return ModelCard(
        "timm_vit",
        name,
        arguments,
        tuple(f"class {i}" for i in range(count)) if classes is None else tuple(classes),
        preprocessing.as_record(),
        provenance=f"converted from {path.name}, of {found.origin}",
        licences=(Licence(path.name, "unknown", "a file given by the user"),),
    )
