"""Weight files of the ViT-pytorch family (ViT-pytorch, TAVT, FFVT, TransFG, Mix-ViT's pure ViT) as models of the kit.

Source of the key names: ``jeonsworld/ViT-pytorch``, from which the others descend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tavt_kit.checkpoints.official import Asked, Official, resize_positions
from tavt_kit.checkpoints.shapes import HEADS, grid_side, joined, shape_of, vit_arguments
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.backbones.registry import FGVC_EVALUATION

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

_NAMES = {
    (768, 12, 16): "vit_base_patch16_224",
    (768, 12, 32): "vit_base_patch32_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1024, 24, 32): "vit_large_patch32_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}
"""(width, layers, patch) -> timm's name."""

_TOKENS = {200: 12, 80: 12, 120: 24}
"""FFVT's tokens a layer by classes: CUB and SoyLocal, Cotton80, Stanford Dogs (the scripts of its repository)."""


def family_of(tensors: Mapping[str, Tensor]) -> str | None:
    """``vit``, ``ffvt``, ``transfg`` or ``mixvit`` by the names, or ``None`` of another kind of file."""
    if f"{_EMBED}.position_embeddings" not in tensors:
        return None
    for family, (_, norm, _) in _LAST.items():
        if f"{_ROOT}.{norm}.weight" in tensors:
            return family
    if f"{_ROOT}.encoder_norm.weight" not in tensors:
        return None
    return "mixvit" if any(name.startswith(_TRAINING_ONLY) for name in tensors) else "vit"


def as_vit(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A file's tensors under the plain ViT's official names, without what only training uses."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_TRAINING_ONLY)}
    if family not in _LAST:
        return kept
    layer, norm, head = _LAST[family]
    moves = {
        f"{_ROOT}.{layer}.": f"{_ROOT}.layer.{_count_layers(tensors)}.",
        f"{_ROOT}.{norm}.": f"{_ROOT}.encoder_norm.",
        f"{head}.": "head.",
    }
    renamed = {}
    for name, tensor in kept.items():
        theirs = next((start for start in moves if name.startswith(start)), "")
        renamed[moves.get(theirs, "") + name.removeprefix(theirs)] = tensor
    return renamed


def read_vit_family(tensors: Mapping[str, Tensor], asked: Asked) -> Official | None:
    """A file of the family, or ``None`` if it is of another.

    Raises:
        CheckpointError: Tensors are missing or have no place, or what no key tells must be given.
        DataError: An image size or step that the split does not allow.
    """
    family = family_of(tensors)
    if family is None:
        return None
    found = _to_timm(as_vit(tensors, family))
    left_out = [name for name in tensors if name.startswith(_TRAINING_ONLY)]
    kind = "vit" if family == "mixvit" else family
    return vit_model(found, kind, _ORIGINS[family], asked, recipe=True, left_out=tuple(left_out))


def vit_model(
    tensors: Mapping[str, Tensor],
    family: str,
    origin: str,
    asked: Asked,
    *,
    recipe: bool,
    left_out: tuple[str, ...] = (),
) -> Official:
    """The model for tensors in timm's names.

    Args:
        tensors: Of a whole plain ViT.
        family: Of ``FAMILIES``.
        origin: For people.
        asked: By the user.
        recipe: Whether the file is a fine-tuned one of the family: then its table is that of its own split, and
            evaluation follows the recipe. Google's is of the split without overlap, and evaluated as timm does.
        left_out: See ``Official``.

    Raises:
        CheckpointError: As ``read_vit_family``.
        DataError: As ``read_vit_family``.
    """
    arguments = _arguments(tensors, asked, own_split=recipe)
    name = _NAMES.get((arguments["embed_dim"], arguments["depth"], arguments["patch_size"]), "vit_base_patch16_224")
    if family != "vit":
        name = name.replace("vit_", f"{family}_", 1).removesuffix("_224")
    if family == "ffvt":
        arguments["num_token"] = _num_token(asked.num_token, arguments["num_classes"])
    patch, step = arguments["patch_size"], arguments.get("slide_step", arguments["patch_size"])
    size = arguments["img_size"][0]
    positions = resize_positions(tensors["pos_embed"], (size - patch) // step + 1, asked.positions)
    # The official loaders start the fusion layer at random; TransFG's final norm is loaded, FFVT's is not.
    fresh = (f"blocks.{arguments['depth'] - 1}.", *(("norm.",) if family == "ffvt" else ()))
    untrained = () if recipe or family == "vit" else fresh
    own = {n: tensor for n, tensor in tensors.items() if not n.startswith(untrained)}
    return Official(
        family,
        name,
        _shortest(arguments),
        {**own, "pos_embed": positions},
        origin,
        Preprocessing.from_config(FGVC_EVALUATION, size) if recipe else None,
        untrained,
        left_out,
    )


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


def _to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor under timm's name; query, key and value become one."""
    wanted = official_names(_count_layers(tensors))
    known = {name for names in wanted.values() for name in names}
    missing, unexpected = sorted(known - set(tensors)), sorted(set(tensors) - known)
    if missing or unexpected:
        raise CheckpointError(
            f"the file is of the ViT-pytorch family, but lacks {', '.join(missing) or 'nothing'} and adds "
            f"{', '.join(unexpected) or 'nothing'}; nothing was loaded"
        )
    return {ours: joined(tensors, theirs) for ours, theirs in wanted.items()}


def _arguments(tensors: Mapping[str, Tensor], asked: Asked, own_split: bool) -> dict[str, Any]:
    """Of the architecture, at the wanted size and step."""
    arguments = vit_arguments(tensors, asked.heads)
    patch = arguments["patch_size"]
    step = asked.slide_step or patch
    if not 0 < step <= patch:
        raise DataError(f"a slide step is 1 to the patch size of {patch}, got {step}")
    side = _side(tensors, patch, asked.slide_step if own_split else patch)
    size = asked.image_size or (side - 1) * (step if own_split else patch) + patch
    if size < patch or (step == patch and size % patch):
        raise DataError(f"patches of {patch} px need an image size that is a multiple of that, got {size}")
    arguments = {"num_classes": shape_of(tensors, "head.bias", 1)[0], "img_size": [size, size], **arguments}
    return arguments if step == patch else {**arguments, "slide_step": step}


def _side(tensors: Mapping[str, Tensor], patch: int, slide_step: int | None) -> int:
    """Patches a side."""
    side = grid_side(tensors)
    if side == 37 and patch == 16 and slide_step is None:
        raise CheckpointError(
            "a grid of 37 x 37 is 448 px in the overlapping split or 592 px without; give `slide_step` 12 or 16"
        )
    return side


def _num_token(given: int | None, classes: int) -> int:
    found = given or _TOKENS.get(classes)
    if found is None:
        raise CheckpointError(
            f"no key tells how many tokens FFVT takes from each layer, nor do {classes} classes; give `num_token`"
        )
    return found


def _shortest(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the name says already."""
    shape = (arguments["embed_dim"], arguments["depth"], arguments["patch_size"])
    usual = shape in _NAMES and arguments["num_heads"] == HEADS[shape[0]] and arguments["mlp_ratio"] == 4
    said = ("embed_dim", "depth", "patch_size", "num_heads", "mlp_ratio") if usual else ()
    return {key: value for key, value in arguments.items() if key not in said}


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    found = {name.split(".")[3] for name in tensors if name.startswith(f"{_ROOT}.layer.")}
    return 1 + max((int(index) for index in found if index.isdecimal()), default=-1)
