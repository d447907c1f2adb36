"""convert: an official weight file as a model of the kit, its family told by its names; files in our own names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import check_name, create, fit, head_names, sketch
from tavt_kit.checkpoints.build import card_for
from tavt_kit.checkpoints.folder import read_weight_file, save_model
from tavt_kit.checkpoints.hugging_face import read_folder
from tavt_kit.checkpoints.official_pim import read_pim
from tavt_kit.checkpoints.official_vit import (
    FAMILIES,
    ConvertOptions,
    Official,
    count_layers,
    fit_positions,
    read_google,
    read_mixvit_hybrid,
    read_npz,
    read_vit_family,
    shape_of,
)
from tavt_kit.core.model_card import Licence, ModelCard
from tavt_kit.core.parsing import several, user_path
from tavt_kit.core.records import read_json
from tavt_kit.errors import CheckpointError, ParameterError, UnsupportedBackbone
from tavt_kit.models.backbones.timm_vit import is_timm_vit
from tavt_kit.models.backbones.vitae import VARIANTS
from tavt_kit.models.timm_import import timm

_VITAE_SIZES = {
    (shape.get("nc_depth", (0, 0, 7)), shape.get("token_dims", (256,))[-1]): name for name, shape in VARIANTS.items()
}
"""Normal cells by stage, and the last width -> the official size."""


def read_vitae(tensors: Mapping[str, Tensor], options: ConvertOptions) -> Official | None:
    """A file of either version, or ``None`` if it is of another family.

    Their tensors fit our models by their own names. The size is told by the depths and the last width; no key tells how
    large an image it was trained on (224 px unless asked for). Where a training's global batch was below 512, the
    official recipe's average never moved from its start, and the plain weights must be saved on their own first.
    """
    if not any(name.startswith("layers.0.RC.") for name in tensors):
        return None
    stages = count_layers(tensors, "layers.")
    depths = tuple(count_layers(tensors, f"layers.{stage}.NC.") for stage in range(stages))
    (width,) = shape_of(tensors, f"layers.{stages - 1}.NC.0.norm1.weight", 1)
    name = _VITAE_SIZES.get((depths, width))
    if name is None:
        raise CheckpointError(
            f"a ViTAE of {', '.join(map(str, depths))} normal cells, {width} wide in the end, is none of the official "
            f"sizes {', '.join(VARIANTS)}; nothing was loaded"
        )
    size, table = options.image_size or 224, {}
    if (positions := "layers.0.RC.pos_embed") in tensors:
        size, table[positions] = fit_positions(tensors, options, VARIANTS[name]["downsample_ratios"][0], positions)
    arguments = {"num_classes": shape_of(tensors, "head.bias", 1)[0], "img_size": [size, size]}
    family, system = ("vitaev2", "ViTAEv2") if name.startswith("vitaev2") else ("vitae", "ViTAE")
    return Official(family, name, arguments, {**tensors, **table}, system)


def read_timm(
    tensors: Mapping[str, Tensor], options: ConvertOptions, folder: Path, architecture: str | None = None
) -> Official | None:
    """A file in timm's names, or ``None`` if its names are others.

    Its architecture is told by the options, by the file itself, or by a ``config.json`` of timm's hub in its folder:
    shapes are shared by models that normalise their images differently, and no key tells these apart.
    """
    if "patch_embed.proj.weight" not in tensors or "blocks.0.norm1.weight" not in tensors:
        return None
    name, config = options.name or architecture, folder / "config.json"
    if name is None and config.is_file():
        content = read_json(config)
        name = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(name, str) or (name != options.name and not timm.is_model(name)):
        raise CheckpointError(
            "the file is in timm's names, and no key tells heads, activation or how images are normalised; give "
            "`name`, the model that it was made with"
        )
    check_name(name)
    if "head.weight" not in tensors and options.classes is None:
        raise CheckpointError("the file has no classifier; give the classes (`classes` or `data`) of a new one")
    rows = shape_of(tensors, "head.weight", 2)[0] if "head.weight" in tensors else len(options.classes or ())
    arguments: dict[str, Any] = {"num_classes": rows}
    laid_out = sketch(name, arguments)
    if not is_timm_vit(laid_out):
        raise UnsupportedBackbone(f"`name` is that of one of timm's Vision Transformers, but {name} is none")
    if (size := options.image_size or _trained_size(tensors, laid_out)) is not None:
        arguments["img_size"] = [size, size]
    absent = () if "head.weight" in tensors else head_names(laid_out)
    return Official("timm", name, arguments, dict(tensors), f"timm's {name}", None, absent)


def _trained_size(tensors: Mapping[str, Tensor], laid_out: Any) -> int | None:
    """Pixels an edge by the table of positions, absolute or relative; ``None`` for the model's own."""
    own, (rows, columns) = laid_out.state_dict(), laid_out.patch_embed.grid_size
    for name, table in tensors.items():
        # A relative one has a row for each distance, -(n - 1) to n - 1 both ways; both may have some for other tokens.
        relative = name.endswith("relative_position_bias_table")
        if (name != "pos_embed" and not relative) or name not in own or table.shape == own[name].shape:
            continue
        shape, axis = shape_of(tensors, name, own[name].dim()), 0 if relative else 1
        patches = (2 * rows - 1) * (2 * columns - 1) if relative else rows * columns
        squared = max(0, shape[axis] - own[name].shape[axis] + patches)
        side = math.isqrt(squared)
        if side == 0 or side * side != squared or (relative and side % 2 == 0):
            raise CheckpointError(f"{name} has the shape {list(shape)}, which is of no square grid for this model")
        return int(laid_out.patch_embed.img_size[0] // rows * ((side + 1) // 2 if relative else side))
    return None


_Reader = Callable[[Mapping[str, Tensor], ConvertOptions], Official | None]
_READERS: tuple[_Reader, ...] = (read_vit_family, read_mixvit_hybrid, read_pim, read_vitae)
"""Readers of torch files: each gives ``None`` for a file of another family, and raises CheckpointError where tensors
are missing, have no place or need an option to explain them, DataError for an image size the patches do not allow."""


def convert(
    file: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
    slide_step: int | None = None,
    image_size: int | None = None,
    family: str | None = None,
    num_token: int | None = None,
    num_selects: int | Sequence[int] | None = None,
    name: str | None = None,
) -> tuple[nn.Module, ModelCard]:
    """Read an official weight file, or a Hugging Face folder of a ViT, DeiT or DINOv2, into a model.

    Torch files (``.bin``, ``.pth``, ``.pt``, ``.pth.tar``): ViT-pytorch and TAVT, FFVT, TransFG, Mix-ViT (pure and
    hybrid), PIM, ViTAE and ViTAEv2 (of a checkpoint with averaged weights, those), and timm's Vision Transformers in
    timm's own names; these in ``.safetensors`` too. NumPy files (``.npz``): Google's ViT.

    Args:
        file: Read safely; nothing in it is run.
        classes: Names of its classes in order; ``class 0``, ``class 1``, ... where not known.
        heads: Attention heads, where the width is not that of ViT-B, L or H.
        slide_step: Pixels from one patch to the next, for the overlapping split.
        image_size: Edge of the model's input; the position table is resized as the official loaders do, that of files
            in timm's names as timm does. The size that fits the table by default.
        family: ``"ffvt"`` or ``"transfg"`` makes one of Google's file; its fusion layer (and FFVT's final norm) start
            at random, as in the official loaders. Other files tell their family.
        num_token: FFVT's tokens from each layer, which no file tells; from the number of classes where that is known.
        num_selects: Tokens that PIM selects of each level, where their sum is not that of an official configuration.
        name: timm's name of the model, for a file in timm's names that does not say it itself.

    Returns:
        The bare model in eval mode, and its card (without a hash: nothing is written yet).

    Raises:
        CheckpointError: The file cannot be read, is of no known family, or does not hold together.
        DataError: An image size the split does not allow.
        UnknownName: timm has no model of that name.

    Example:
        >>> model, card = convert("ViT-B_16.npz", image_size=448)  # doctest: +SKIP
    """
    if family is not None and family not in FAMILIES:
        raise ParameterError(f"`family` is {' or '.join(FAMILIES)}, got {family!r}")
    if heads is not None and heads < 1:
        raise ParameterError(f"`heads` is a whole number above 0, got {heads}")
    path = user_path(file)
    named = None if classes is None else tuple(classes)
    options = ConvertOptions(heads, slide_step, image_size, family, num_token, named, several(num_selects), name)
    if (path / "config.json").is_file():  # ``save_pretrained`` wrote it
        official, labels = read_folder(path, options)
        classes = classes or labels
    else:
        official = _read(path, options)
    model = create(official.name, official.arguments)
    random = {n: tensor for n, tensor in model.state_dict().items() if n.startswith(official.untrained)}
    fit(model, {**official.tensors, **random}, str(path))
    if classes is not None and len(classes) != (count := int(official.arguments["num_classes"])):
        raise CheckpointError(f"{path} has a head of {count} classes, but {len(classes)} are named; give its own data")
    provenance = f"converted from {path.name}, of {official.origin}"
    if official.left_out:
        provenance += f", without {len(official.left_out)} tensors that only training uses"
    if official.untrained:
        provenance += f"; random at the start: {', '.join(start.rstrip('.') for start in official.untrained)}"
    licence = Licence(path.name, "unknown", "a file given by the user")
    card = card_for(official.name, official.arguments, model, classes, provenance, (licence,))
    return model, replace(card, preprocessing=official.preprocessing.as_record()) if official.preprocessing else card


def convert_checkpoint(file: str | Path, out: str | Path, **options: Any) -> ModelCard:
    """``convert`` a file, by the same options, and write the run folder that ``load_model`` and every verb takes.

    Example:
        >>> convert_checkpoint("CUB_checkpoint.bin", "out", num_token=12)  # doctest: +SKIP
    """
    return save_model(out, *convert(file, **options))


def _read(path: Path, options: ConvertOptions) -> Official:
    if path.suffix == ".npz":
        arrays = read_npz(path)
        official, names, averaged = read_google(arrays, options), sorted(arrays), False
    else:
        file = read_weight_file(path)
        names, averaged = sorted(file.tensors), file.averaged
        official = next((each for read in _READERS if (each := read(file.tensors, options))), None)
        official = official or read_timm(file.tensors, options, path.parent, file.architecture)
    if official is None:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise CheckpointError(f"{path} is of no family that is known here: it holds {some}")
    if options.family not in (None, official.family):
        raise CheckpointError(f"{path} is of the family {official.family}, so it cannot be read as {options.family}")
    if options.name is not None and official.family != "timm":
        raise CheckpointError(f"{path} is of {official.origin}, whose names tell the model; leave `name` out")
    return replace(official, origin=f"{official.origin}, its averaged weights") if averaged else official
