"""Creating a timm ViT by name: checked before it costs anything, seeded, for given classes and image size."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from reprlib import repr as short
from typing import Any

import torch
from torch import nn

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError, TavtError, UnknownName
from tavt_kit.models.backbones import adapter_of
from tavt_kit.models.backbones.overlap import OverlappingPatchEmbed, overlapping
from tavt_kit.models.backbones.pruned import reshape
from tavt_kit.models.timm_import import timm

_TIMM = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos")
_OURS = ("ffvt", "mixvit", "overlap", "pim", "transfg", "vitae")
_MODULES = (*_TIMM, *_OURS)
"""Modules in timm's registry whose models the adapters take; a test goes through all of them."""

_TAVT = ("vit_base_patch16_224", "vit_base_patch32_224", "vit_large_patch16_224", "vit_large_patch32_224",
         "vit_huge_patch14_224")  # fmt: skip
"""timm's names of the ViTs that TAVT's code is configured for."""

_READING = frozenset({"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"})


_MOST_LAYERS, _MOST_PARAMETERS = 256, 10**10


def supported_names(pattern: str = "") -> list[str]:
    """timm's architectures whose tokens can be dropped, sorted.

    Args:
        pattern: Part of the name, or a pattern with ``*``.
    """
    wanted = pattern if "*" in pattern else f"*{pattern}*"
    return sorted(name for module in _MODULES for name in timm.list_models(wanted, module=module))


def system_names() -> list[str]:
    """The models of the systems of the field, sorted: TAVT's ViTs (both splits), FFVT, TransFG, Mix-ViT, PIM, ViTAE."""
    ours = [name for module in _OURS for name in timm.list_models(module=module)]
    return sorted([*ours, *_TAVT])


def timm_names() -> list[str]:
    """Those of timm's own architectures that the adapters take, its hybrids included; sorted."""
    return sorted(name for module in (*_TIMM, "vision_transformer_hybrid") for name in timm.list_models(module=module))


def sketch(name: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The architecture without memory for its weights: enough to count and to judge it."""
    arguments = arguments or {}
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **_options(arguments))
    return reshape(model, arguments.get("pruned"))


def check_name(name: str) -> None:
    """Refuse what timm does not know.

    Raises:
        UnknownName: No such architecture, or no such tag (after a dot) of its weights; near names are given.
    """
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, supported_names(), n=3, cutoff=0.5)
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownName(f"a model is one of timm's Vision Transformers (`fgvc-kit models`), got {name!r}{meant}")
    if tag:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
        if tag not in tags:
            raise UnknownName(
                f"the weights of {base} are tagged {', '.join(tags) or '(none)'}, got {tag!r}; "
                f"without a tag the first is taken"
            )


def arguments_for(classes: Sequence[str] | None, image_size: int | Sequence[int] | None) -> dict[str, Any]:
    """``create_model`` arguments, as the model card keeps them; an absent one leaves timm's default."""
    arguments: dict[str, Any] = {}
    if classes is not None:
        arguments["num_classes"] = len(classes)
    if image_size is not None:
        arguments["img_size"] = list(Preprocessing(_pair(image_size)).image_size)
    return arguments


def create(
    name: str,
    arguments: Mapping[str, Any],
    *,
    seed: int = 0,
    pretrained: bool = False,
    pretrained_file: str | None = None,
) -> nn.Module:
    """A timm model in eval mode, whose random weights depend on ``seed`` and nothing else.

    It is first laid out without memory, so that a model that cannot be used is refused before weights are
    fetched.

    Args:
        name: timm's, with or without a tag.
        arguments: For ``timm.create_model``.
        seed: Of whatever is not loaded; torch's own random state is left as it was.
        pretrained: Whether timm is to load its own weights.
        pretrained_file: Where these lie on this machine already; ``None`` lets timm fetch them.

    Raises:
        CheckpointError: An argument would make timm read a file; a model card must not choose which.
        UnknownName: As ``check_name``.
        UnsupportedBackbone: It is no ViT, or its tokens cannot be dropped rightly.
        DataError: The image size is not a multiple of the patch size.
    """
    check_name(name)
    if reading := sorted(_READING & set(arguments)):
        raise CheckpointError(
            f"a model card may describe an architecture only, but sets {', '.join(reading)}; remove it"
        )
    laid_out = _laid_out(name, arguments)
    options = _options(arguments)
    adapter_of(laid_out)
    _check_size(name, laid_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if pretrained_file is not None:
            options["pretrained_cfg_overlay"] = {"file": pretrained_file}
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return reshape(model, arguments.get("pruned")).eval()


def _laid_out(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The sketch of what a card or a command asks for, which may be impossible or beyond every machine.

    Raises:
        CheckpointError: It is.
    """
    depths = [value for key, value in arguments.items() if "depth" in key or "layer" in key]
    numbers = [value for value in arguments.values() if isinstance(value, int)]
    if any(isinstance(depth, int) and depth > _MOST_LAYERS for depth in depths) or min(numbers, default=0) < 0:
        raise CheckpointError(
            f"a model has no negative sizes and at most {_MOST_LAYERS} layers, got {short(arguments)}; correct them"
        )
    try:
        model = sketch(name, arguments)
    except TavtError:
        raise
    except Exception as error:  # whatever timm or torch say to arguments that fit no model
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{name} cannot be built with {short(arguments)} ({said}); correct the arguments"
        ) from None
    if (parameters := sum(one.numel() for one in model.parameters())) > _MOST_PARAMETERS:
        raise CheckpointError(
            f"a model has at most {_MOST_PARAMETERS:.0e} parameters, but {name} with {short(arguments)} has "
            f"{parameters:.1e}; take fewer or a smaller image"
        )
    return model


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A card's arguments as timm takes them.

    Of ours are ``slide_step`` (the overlapping split), ``norm_eps``, and ``pruned``, which is heeded afterwards.
    """
    options: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in arguments.items()}
    options.pop("pruned", None)
    step, epsilon = options.pop("slide_step", None), options.pop("norm_eps", None)
    if epsilon is not None:
        options["norm_layer"] = partial(timm.layers.LayerNorm, eps=float(epsilon))
    return options if step is None else options | overlapping(step)


def _check_size(name: str, model: Any) -> None:
    if not hasattr(model, "patch_embed"):
        return  # of our own models that are no plain ViT: these refuse a size themselves
    if isinstance(model.patch_embed, OverlappingPatchEmbed):
        return  # what remains at the edges is not seen, as in the official code
    size, patch = _pair(model.patch_embed.img_size), _pair(model.patch_embed.patch_size)
    if size == tuple(model.pretrained_cfg["input_size"][1:]):
        return  # some SigLIP towers of 384 px in patches of 14 were trained with the last pixels cut off
    if any(edge % step for edge, step in zip(size, patch, strict=True)):
        fitting = [max(step, edge // step * step) for edge, step in zip(size, patch, strict=True)]
        above = [below + step for below, step in zip(fitting, patch, strict=True)]
        raise DataError(
            f"{name} cuts images into patches of {patch[0]}x{patch[1]}, so its image size must be a "
            f"multiple of that, but {size[0]}x{size[1]} was asked for; take {fitting[0]}x{fitting[1]} or "
            f"{above[0]}x{above[1]}"
        )


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """What the model's own configuration asks for, at the size the model was created for.

    Raises:
        DataError: It takes other than 3 channels.
    """
    config = timm.data.resolve_data_config({}, pretrained_cfg=model.pretrained_cfg)
    return Preprocessing.from_config(config, adapter_of(model).image_size)


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)
