"""Official weight files of ViTs: the ViT-pytorch family (TAVT, FFVT, TransFG, Mix-ViT) and Google's, in timm's names.

Sources of the names: ``jeonsworld/ViT-pytorch``, from which the others descend, and Google's
``google-research/vision_transformer`` (Flax), whose kernels lie [in, out], attention's with the heads apart. What every
family's reader is told, and what it gives, is here too.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, VIT_SIZES


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What a user says of a file beyond what is in it; see ``convert``."""

    heads: int | None = None
    slide_step: int | None = None
    image_size: int | None = None
    family: str | None = None
    num_token: int | None = None
    classes: tuple[str, ...] | None = None
    num_selects: tuple[int, ...] | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Official:
    """An official file, read: its family, as the flag has it, and timm's name and arguments of its architecture.

    Args:
        tensors: In the model's own names.
        origin: System it is of, for people.
        preprocessing: The recipe's evaluation; ``None`` takes the model's own configuration.
        untrained: Beginnings of names of tensors that the file does not have and that start at random.
        left_out: Names in the file that only training uses.
    """

    family: str
    name: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    origin: str
    preprocessing: Preprocessing | None = None
    untrained: tuple[str, ...] = ()
    left_out: Sequence[str] = ()


def resize_positions(table: Tensor, side: int) -> Tensor:
    """A position table (1, 1 + n * n, D) for a grid of ``side`` x ``side``; the class row stays as it is.

    Bilinear with the corners aligned: scipy's zoom, as the official loaders do.
    """
    before = math.isqrt(table.shape[1] - 1)
    if before == side:
        return table
    grid = table[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)


HEADS = {shape["embed_dim"]: shape["num_heads"] for shape in VIT_SIZES.values()}
"""Width -> attention heads of ViT-B, L and H; no key of a torch file tells them."""


def shape_of(tensors: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is read off; CheckpointError unless it has ``rank`` filled axes."""
    if name not in tensors:
        raise CheckpointError(f"the file lacks {name}, which tells the architecture; nothing was loaded")
    shape = tuple(tensors[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"{name} must have {rank} dimension{'s' * (rank > 1)}, none of them empty, but has the shape "
            f"{list(shape)}; nothing was loaded"
        )
    return shape


def grid_side(tensors: Mapping[str, Tensor], name: str = "pos_embed") -> int:
    """Patches a side, by a position table (1, 1 + n * n, D); CheckpointError where it is of no square grid."""
    first, rows, _ = shape_of(tensors, name, 3)
    side = math.isqrt(rows - 1)
    if first != 1 or side * side != rows - 1 or side == 0:
        raise CheckpointError(f"the position table {name} has {first} x {rows} rows: no square grid and a class")
    return side


def joined(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Tensors one below the other; CheckpointError where they differ in more than the first dimension."""
    shapes = [list(tensors[name].shape) for name in names]
    if len(names) > 1 and any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        raise CheckpointError(
            f"{', '.join(names)} belong one below the other, but have the shapes {', '.join(map(str, shapes))}; "
            "nothing was loaded"
        )
    return tensors[names[0]] if len(names) == 1 else torch.cat([tensors[name] for name in names])


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, Sequence[str]], what: str) -> dict[str, Tensor]:
    """Every tensor of a file of ``what`` under our name, by a table of ours -> theirs, which are ``joined`` in it."""
    known = {theirs for parts in names.values() for theirs in parts}
    missing, unexpected = sorted(known - set(tensors)), sorted(set(tensors) - known)
    if missing or unexpected:
        raise CheckpointError(
            f"the file is of {what}, but lacks {', '.join(missing) or 'nothing'} and adds "
            f"{', '.join(unexpected) or 'nothing'}; nothing was loaded"
        )
    return {ours: joined(tensors, theirs) for ours, theirs in names.items()}


def count_layers(names: Iterable[str], start: str) -> int:
    """1 + the greatest number that follows ``start`` in a name; 0 where none does."""
    matches = (re.match(rf"{re.escape(start)}(\d+)[./]", name) for name in names)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def fit_positions(
    tensors: Mapping[str, Tensor], options: ConvertOptions, stride: int, name: str = "pos_embed"
) -> tuple[int, Tensor]:
    """The edge of the images in pixels, the table's own unless asked for, and the position table for it."""
    size = options.image_size or grid_side(tensors, name) * stride
    return size, resize_positions(tensors[name], max(1, size // stride))


def vit_arguments(tensors: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """Sizes of a plain ViT, by its tensors in timm's names; heads by the width where they are not given."""
    width, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    return {
        "patch_size": patch,
        "embed_dim": width,
        "depth": count_layers(tensors, "blocks."),
        "num_heads": count_heads(width, heads),
        "mlp_ratio": shape_of(tensors, "blocks.0.mlp.fc1.bias", 1)[0] / width,
    }


def count_heads(width: int, given: int | None) -> int:
    """Attention heads at a width, unless given; CheckpointError where they must be, or do not divide it."""
    heads = given or HEADS.get(width)
    if heads is None:
        raise CheckpointError(f"no key tells the number of attention heads at a width of {width}; give `heads`")
    if width % heads:
        raise CheckpointError(f"a width of {width} cannot be shared by {heads} heads; give another `heads`")
    return heads


_ROOT = "transformer.encoder"
_EMBED = "transformer.embeddings"
_LAYER = f"{_ROOT}.layer."
_PARTS = {
    "norm1": ("attention_norm",),
    "norm2": ("ffn_norm",),
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "attn.proj": ("attn.out",),
    "mlp.fc1": ("ffn.fc1",),
    "mlp.fc2": ("ffn.fc2",),
}

FAMILIES = ("vit", "ffvt", "transfg")
"""What a file of these names, or Google's, can become."""

_ORIGINS = {
    "vit": "the ViT-pytorch family (TAVT)",
    "ffvt": "FFVT",
    "transfg": "TransFG",
    "mixvit": "Mix-ViT (pure ViT)",
}
_LAST = {"ffvt": ("ff_last_layer", "ff_encoder_norm", "head"), "transfg": ("part_layer", "part_norm", "part_head")}
"""Names of the last layer, the final norm and the head, where they differ from the plain ViT's."""

_TRAINING_ONLY = (f"{_ROOT}.mask_transformer.", "mask_head.")
"""Mix-ViT's branch for mixed tokens, which its evaluation does not run."""

_NAMES = {(s["embed_dim"], s["depth"], s["patch_size"]): f"vit_{size}_224" for size, s in VIT_SIZES.items()}
"""(width, layers, patch) -> timm's name."""

_TOKENS = {200: 12, 80: 12, 120: 24}
"""FFVT's tokens a layer by classes: CUB and SoyLocal, Cotton80, Stanford Dogs (the scripts of its repository)."""


def as_vit(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A file's tensors under the plain ViT's official names, without what only training uses."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_TRAINING_ONLY)}
    if family not in _LAST:
        return kept
    layer, norm, head = _LAST[family]
    moves = {
        f"{_ROOT}.{layer}.": f"{_ROOT}.layer.{count_layers(tensors, _LAYER)}.",
        f"{_ROOT}.{norm}.": f"{_ROOT}.encoder_norm.",
        f"{head}.": "head.",
    }
    renamed = {}
    for name, tensor in kept.items():
        theirs = next((start for start in moves if name.startswith(start)), "")
        renamed[moves.get(theirs, "") + name.removeprefix(theirs)] = tensor
    return renamed


def read_vit_family(tensors: Mapping[str, Tensor], options: ConvertOptions) -> Official | None:
    """A file of the family, or ``None`` if it is of another."""
    if f"{_EMBED}.position_embeddings" not in tensors:
        return None
    family = next((family for family, (_, norm, _) in _LAST.items() if f"{_ROOT}.{norm}.weight" in tensors), None)
    if family is None:
        if f"{_ROOT}.encoder_norm.weight" not in tensors:
            return None
        family = "mixvit" if any(name.startswith(_TRAINING_ONLY) for name in tensors) else "vit"
    plain = as_vit(tensors, family)
    ours = renamed(plain, official_names(count_layers(plain, _LAYER)), "the ViT-pytorch family")
    left_out = tuple(name for name in tensors if name.startswith(_TRAINING_ONLY))
    kind = "vit" if family == "mixvit" else family
    return vit_model(ours, kind, _ORIGINS[family], options, recipe=True, left_out=left_out)


def vit_model(
    tensors: Mapping[str, Tensor],
    family: str,
    origin: str,
    options: ConvertOptions,
    *,
    recipe: bool,
    left_out: tuple[str, ...] = (),
) -> Official:
    """The model of a family for the tensors of a whole plain ViT in timm's names.

    Args:
        recipe: Whether the file is a fine-tuned one of the family: then its table is that of its own split, and
            evaluation follows the recipe. Google's is of the split without overlap, and evaluated as timm does.
    """
    arguments = _arguments(tensors, options, own_split=recipe)
    name = _NAMES.get((arguments["embed_dim"], arguments["depth"], arguments["patch_size"]), "vit_base_patch16_224")
    if family != "vit":
        name = name.replace("vit_", f"{family}_", 1).removesuffix("_224")
    if family == "ffvt":
        classes = arguments["num_classes"]
        arguments["num_token"] = options.num_token or _TOKENS.get(classes)
        if arguments["num_token"] is None:
            raise CheckpointError(
                f"no key tells how many tokens FFVT takes from each layer, nor do {classes} classes; give `num_token`"
            )
    patch, step = arguments["patch_size"], arguments.get("slide_step", arguments["patch_size"])
    size = arguments["img_size"][0]
    positions = resize_positions(tensors["pos_embed"], (size - patch) // step + 1)
    # The official loaders start the fusion layer at random; TransFG's final norm is loaded, FFVT's is not.
    fresh = (f"blocks.{arguments['depth'] - 1}.", *(("norm.",) if family == "ffvt" else ()))
    untrained = () if recipe or family == "vit" else fresh
    own = {n: tensor for n, tensor in tensors.items() if not n.startswith(untrained)}
    evaluation = Preprocessing.from_config(FGVC_EVALUATION, size) if recipe else None
    own["pos_embed"] = positions
    shape = arguments["embed_dim"], arguments["depth"], patch
    if shape in _NAMES and arguments["num_heads"] == HEADS[shape[0]] and arguments["mlp_ratio"] == 4:
        for said in ("embed_dim", "depth", "patch_size", "num_heads", "mlp_ratio"):  # by the name
            del arguments[said]
    return Official(family, name, arguments, own, origin, evaluation, untrained, left_out)


def vit_names(
    layers: int,
    tables: Mapping[str, str],
    modules: Mapping[str, str],
    block: str,
    parts: Mapping[str, Sequence[str]],
    leaf: Callable[[str, str], str] = lambda ours, kind: f".{kind}",
) -> dict[str, tuple[str, ...]]:
    """timm's names of a plain ViT -> those in a file whose tensors, one below the other, it holds.

    Args:
        tables: Tensors that are of no module, by timm's names, as all that follow.
        modules: Those outside of the blocks.
        block: How the names in a block begin, with a place for its number.
        parts: Modules inside a block.
        leaf: How a name ends that is a module's ``weight`` or ``bias``.
    """
    places: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in modules.items()}
    for layer in range(layers):
        start = block.format(layer)
        places |= {f"blocks.{layer}.{ours}": tuple(start + part for part in theirs) for ours, theirs in parts.items()}
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in tables.items()}
    for ours, parts_of_it in places.items():
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = tuple(part + leaf(ours, kind) for part in parts_of_it)
    return names


def official_names(layers: int) -> dict[str, tuple[str, ...]]:
    """timm's name -> the official names whose tensors, one below the other, it holds."""
    tables = {"cls_token": f"{_EMBED}.cls_token", "pos_embed": f"{_EMBED}.position_embeddings"}
    modules = {"patch_embed.proj": f"{_EMBED}.patch_embeddings", "norm": f"{_ROOT}.encoder_norm", "head": "head"}
    return vit_names(layers, tables, modules, f"{_LAYER}{{}}.", _PARTS)


def _arguments(tensors: Mapping[str, Tensor], options: ConvertOptions, own_split: bool) -> dict[str, Any]:
    """Of the architecture, at the wanted size and step."""
    arguments = vit_arguments(tensors, options.heads)
    patch = arguments["patch_size"]
    step = options.slide_step or patch
    if not 0 < step <= patch:
        raise DataError(f"a slide step is 1 to the patch size of {patch}, got {step}")
    side = grid_side(tensors)
    if side == 37 and patch == 16 and own_split and options.slide_step is None:
        raise CheckpointError("a grid of 37 x 37 is 448 px if it overlaps, else 592 px; give `slide_step` 12 or 16")
    size = options.image_size or (side - 1) * (step if own_split else patch) + patch
    if size < patch:
        raise DataError(f"patches of {patch} px need an image of at least so many, got {size}")
    arguments = {"num_classes": shape_of(tensors, "head.bias", 1)[0], "img_size": [size, size], **arguments}
    return arguments if step == patch else {**arguments, "slide_step": step}


_HYBRID_RESNET = "inter_arch."
_VIT = "vit."
_HYBRID_TRAINING_ONLY = ("vit.transformer.encoder.mask_transformer.", "vit.mask_head.", "vit.mask_cls_head.")


def read_mixvit_hybrid(tensors: Mapping[str, Tensor], options: ConvertOptions) -> Official | None:
    """A file of the family, or ``None`` if it is of another."""
    if f"{_HYBRID_RESNET}root.conv.weight" not in tensors:
        return None
    left_out = tuple(name for name in tensors if name.startswith(_HYBRID_TRAINING_ONLY))
    used = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    depth = count_layers(used, _VIT + _LAYER)
    ours = renamed(used, hybrid_names(used, depth), "Mix-ViT's hybrid model")
    shape_of(ours, "proj.weight", 4)
    ours["proj.weight"] = ours["proj.weight"].flatten(1)  # a 1x1 convolution over the parts
    size, (width,) = options.image_size or 448, shape_of(ours, "proj.bias", 1)
    preprocessing = Preprocessing.from_config(FGVC_EVALUATION, size)
    units = {tuple(map(int, name.split(".")[2:4])) for name in ours if name.startswith("resnet.stages.")}
    arguments = {
        "num_classes": shape_of(ours, "head.bias", 1)[0],
        "img_size": [size, size],
        "num_parts": shape_of(ours, "grouping.weight", 4)[0],
        "embed_dim": width,
        "depth": depth,
        "num_heads": count_heads(width, options.heads),
        "mlp_dim": shape_of(ours, "blocks.0.mlp.fc1.bias", 1)[0],
        "resnet_blocks": [
            sum(stage == number for stage, _ in units) for number in range(1 + max(stage for stage, _ in units))
        ],
        "resnet_width": shape_of(ours, "resnet.conv.weight", 4)[0],
    }
    return Official("mixvit", "mixvit_hybrid_r50", arguments, ours, "Mix-ViT (hybrid)", preprocessing, (), left_out)


def hybrid_names(used: Mapping[str, Tensor], depth: int) -> dict[str, tuple[str, ...]]:
    """As ``official_names``, of the hybrid model."""
    names = {ours: tuple(f"{_VIT}{name}" for name in theirs) for ours, theirs in official_names(depth).items()}
    for kind in ("weight", "bias"):
        names[f"proj.{kind}"] = names.pop(f"patch_embed.proj.{kind}")
    for theirs in used:
        if theirs.startswith("grouping."):
            names[theirs] = (theirs,)
        elif theirs.startswith(f"{_HYBRID_RESNET}root."):
            names["resnet." + theirs.removeprefix(f"{_HYBRID_RESNET}root.")] = (theirs,)
        elif theirs.startswith(f"{_HYBRID_RESNET}body."):
            _, _, block, unit, rest = theirs.split(".", 4)
            stage, index = int(block.removeprefix("block")) - 1, int(unit.removeprefix("unit")) - 1
            names[f"resnet.stages.{stage}.{index}.{rest}"] = (theirs,)
    return names


_BLOCK = "Transformer/encoderblock_"
_ATTENTION = "MultiHeadDotProductAttention_1"
_GOOGLES = {
    "norm1": ("LayerNorm_0",),
    "norm2": ("LayerNorm_2",),
    "attn.qkv": tuple(f"{_ATTENTION}/{part}" for part in ("query", "key", "value")),
    "attn.proj": (f"{_ATTENTION}/out",),
    "mlp.fc1": ("MlpBlock_3/Dense_0",),
    "mlp.fc2": ("MlpBlock_3/Dense_1",),
}
_IGNORED = ("pre_logits/kernel", "pre_logits/bias")
"""A layer of the ImageNet-21k classifier that no descendant uses."""


def read_npz(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file, read without running it; CheckpointError where it is not whole and sane."""
    if not file.is_file():
        raise CheckpointError(f"the weight file {file} does not exist")
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file} is damaged or no .npz file; fetch it anew")
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:  # numpy closes no broken one
            arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, AttributeError, RuntimeError) as error:
        reason = "holds Python objects" if "allow_pickle" in str(error) else "is damaged or no .npz file"
        raise CheckpointError(f"{file} {reason}; fetch it anew") from None
    broken = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if broken:
        raise CheckpointError(f"{file} holds values that are not finite, in {broken[0]}; fetch it anew")
    return arrays


def read_google(arrays: Mapping[str, NDArray[Any]], options: ConvertOptions) -> Official | None:
    """A file of Google's, or ``None`` if its names are others."""
    if "Transformer/posembed_input/pos_embedding" not in arrays:
        return None
    if "conv_root/kernel" in arrays:
        raise CheckpointError(
            "the file is of a ViT over a ResNet, which is not read; take timm's own such as vit_base_r50_s16_224, or a "
            "file without a ResNet such as ViT-B_16.npz"
        )
    if options.heads is None:
        options = replace(options, heads=shape_of(arrays, f"{_BLOCK}0/{_ATTENTION}/query/kernel", 3)[1])
    origin = "Google's Vision Transformer"
    return vit_model(google_to_timm(arrays), options.family or "vit", origin, options, recipe=False)


def google_to_timm(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Every array under timm's name, in torch's layout; CheckpointError where one is missing or has no place."""
    tables = {"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"}
    modules = {"patch_embed.proj": "embedding", "norm": "Transformer/encoder_norm", "head": "head"}
    names = vit_names(
        count_layers(arrays, _BLOCK), tables, modules, f"{_BLOCK}{{}}/", _GOOGLES,
        lambda ours, kind: "/bias" if kind == "bias" else "/scale" if "norm" in ours else "/kernel",
    )  # fmt: skip
    tensors = {name: _as_torch(name, array) for name, array in arrays.items() if name not in _IGNORED}
    return renamed(tensors, names, "Google's Vision Transformer")


def _as_torch(name: str, array: NDArray[Any]) -> Tensor:
    """Float32, a kernel as [out, in] without the heads apart."""
    if array.ndim == 3 and name.endswith("/kernel"):
        width = array.shape[2] if name.endswith("/out/kernel") else array.shape[1] * array.shape[2]
        array = array.reshape(array.size // max(1, width), width)
    if name.endswith("/bias"):
        array = array.reshape(-1)
    elif name.endswith("/kernel"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
