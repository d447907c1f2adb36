"""A timm ViT by name: checked before it costs anything, seeded, and filled with tensors that fit."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.core.parsing import several
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError, TavtError, UnknownName, did_you_mean, first_line
from tavt_kit.models.backbones import make_adapter
from tavt_kit.models.backbones.pruned import reshape
from tavt_kit.models.backbones.registry import VIT_SIZES, OverlappingPatchEmbed, overlapping
from tavt_kit.models.timm_import import timm

_TIMM = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos")
_OURS = ("fusion", "mixvit", "pim", "registry", "vitae")
_MODULES = (*_TIMM, *_OURS)
"""Modules in timm's registry whose models the adapters take; a test goes through all of them."""

_READING = frozenset({"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"})

_MOST_LAYERS, _MOST_PARAMETERS, _MOST_PATCHES = 256, 10**10, 2**18
_SOUND: dict[str, int] = {}  # parameters of what this process has laid out already and found usable


def supported_names(pattern: str = "") -> list[str]:
    """timm's architectures whose tokens can be dropped, sorted; of a part of the name, or a pattern with ``*``."""
    wanted = pattern if "*" in pattern else f"*{pattern}*"
    return sorted(name for module in _MODULES for name in timm.list_models(wanted, module=module))


def system_names() -> list[str]:
    """The models of the systems of the field, sorted: TAVT's ViTs (both splits), FFVT, TransFG, Mix-ViT, PIM, ViTAE."""
    ours = [name for module in _OURS for name in timm.list_models(module=module)]
    return sorted([*ours, *(f"vit_{size}_224" for size in VIT_SIZES)])


def sketch(name: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The architecture without memory for its weights: enough to count and to judge it."""
    arguments = arguments or {}
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **_options(arguments))
    return reshape(model, arguments.get("pruned"))


def check_name(name: str) -> None:
    """Raise UnknownName for an architecture, or a tag of its weights after a dot, that timm does not know."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        meant = did_you_mean(base, supported_names(), most=3, cutoff=0.5)
        raise UnknownName(f"a model is one of timm's Vision Transformers (`fgvc-kit models`), got {name!r}{meant}")
    if tag:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
        if tag not in tags:
            raise UnknownName(
                f"the weights of {base} are tagged {', '.join(tags) or '(none)'}, got {tag!r}; "
                f"without a tag the first is taken"
            )


def create(
    name: str, arguments: Mapping[str, Any], *, seed: int = 0, most: int | None = None, **weights: Any
) -> nn.Module:
    """A timm model in eval mode, whose random weights depend on ``seed`` and nothing else.

    It is first laid out without memory, so that a model that cannot be used is refused before weights are fetched.
    torch's own random state is left as it was.

    Args:
        most: Parameters that it has at the most: what its weights can fill.
        weights: timm's options of weights to load (``pretrained``, ``pretrained_cfg_overlay``); by default none are.

    Raises:
        CheckpointError: An argument would make timm read a file; a model card must not choose which.
        UnknownName: As ``check_name``.
        UnsupportedBackbone: It is no ViT, or its tokens cannot be dropped rightly.
        DataError: The image size is not a multiple of the patch size.
    """
    check_name(name)
    if reading := sorted(_READING & set(arguments)):
        raise CheckpointError(f"a model card describes an architecture only, but sets {', '.join(reading)}; remove it")
    if (asked := f"{name} {sorted(arguments.items())}") not in _SOUND:  # to lay it out takes as long as a small model
        laid_out, parameters = _laid_out(name, arguments)
        make_adapter(laid_out)
        _check_size(name, laid_out)
        _SOUND[asked] = parameters
    if most is not None and _SOUND[asked] > most:
        raise CheckpointError(
            f"{name} with {short(dict(arguments))} has {_SOUND[asked]:,} parameters, more than its weights can fill; "
            "restore its card and weights from one run"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, **weights, **_options(arguments))
    return reshape(model, arguments.get("pruned")).eval()


def _laid_out(name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """The sketch of what is asked for and its parameters; CheckpointError where it is impossible, or for no machine."""
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
        said = f"{name} cannot be built with {short(arguments)} ({first_line(error)}); correct it"
        raise CheckpointError(said) from None
    if (parameters := sum(each.numel() for each in model.parameters())) > _MOST_PARAMETERS:
        raise CheckpointError(
            f"a model has at most {_MOST_PARAMETERS:.0e} parameters, but {name} with {short(arguments)} has "
            f"{parameters:.1e}; take fewer or a smaller image"
        )
    if (patches := getattr(getattr(model, "patch_embed", None), "num_patches", 0)) > _MOST_PATCHES:
        raise CheckpointError(f"an image has at most {_MOST_PATCHES:,} patches, got {patches:,}; take a smaller image")
    return model, parameters


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A card's arguments as timm takes them; ours are ``slide_step``, ``norm_eps``, and ``pruned``, heeded later."""
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
    size, patch = pair(model.patch_embed.img_size), pair(model.patch_embed.patch_size)
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
    """What the model's own configuration asks for, at its size; DataError where it takes other than 3 channels."""
    config = timm.data.resolve_data_config({}, pretrained_cfg=model.pretrained_cfg)
    return Preprocessing.from_config(config, make_adapter(model).image_size)


def pair(value: Any) -> tuple[int, int]:
    """(H, W), of one edge or two."""
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


_log = logging.getLogger(__name__)


def fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, new_head: bool = False) -> bool:
    """Load every tensor into a timm model; position tables of another image size are resized as timm does.

    Args:
        tensors: By timm's names, or by names that timm itself translates for this family.
        new_head: Whether a classifier of other classes may be left out, so that the model keeps its own.

    Returns:
        Whether the model kept its own, untrained head.

    Raises:
        CheckpointError: Tensors are missing, left over or of another shape; the model is as it was.
    """
    fitting, fresh = fitting_tensors(model, tensors, source, new_head=new_head)
    model.load_state_dict(fitting, strict=True)
    return fresh


def fitting_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, new_head: bool = False
) -> tuple[dict[str, Tensor], bool]:
    """What ``fit`` loads, and what it returns; the model, which may be a ``sketch``, stays as it is."""
    own, given = model.state_dict(), dict(tensors)
    heads = head_names(model)
    layers = {name.rpartition(".")[0] for name in heads}

    def body(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in state.items() if name.rpartition(".")[0] not in layers}

    if body(own) != body(given):
        given = _translated(model, given)
    # A backbone that was saved without a head has nothing to lose.
    headless = not any(name in given for name in heads)
    fresh = headless or any(name not in given or given[name].shape != own[name].shape for name in heads)
    if fresh and not headless and not new_head and body(own) == body(given):
        # Of as many classes, or of none, a tensor of the head is absent or mis-shaped, which is refused below.
        whole = all(
            name in given and given[name].dim() and given[name].shape[1:] == own[name].shape[1:] for name in heads
        )
        rows, wanted = {len(given[name]) for name in heads if whole}, len(own[heads[0]])
        if len(rows) == 1 and rows != {wanted}:
            raise CheckpointError(
                f"{source} has a head of {rows.pop()} classes, but the model is to have {wanted}; "
                "give the data it was trained on, or ask for a new head"
            )
        fresh = False
    if fresh:
        given = {name: tensor for name, tensor in given.items() if name.rpartition(".")[0] not in layers}
        given |= {name: own[name] for name in heads}
    _refuse(own, given, source)
    return given, fresh and bool(heads)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's own tensors: ``head.weight``, ``head.bias`` (and DeiT's second head)."""
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    prefixes = tuple(f"{name}." for name in several(config.get("classifier") or "head"))
    return tuple(name for name in model.state_dict() if name.startswith(prefixes))


def _translated(model: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's own translation of foreign names and position tables; what it cannot translate is given back."""
    patches, own = given.get("patch_embed.proj.weight"), model.state_dict().get("patch_embed.proj.weight")
    if patches is not None and own is not None and patches.shape != own.shape:
        # timm would resample the filters of another patch size: another architecture, not an image size.
        return given
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_fn is None:
        return given
    try:
        with warnings.catch_warnings():
            # timm's resizing of bias tables makes torch complain of its memory layout and of its way of indexing.
            warnings.simplefilter("ignore", UserWarning)
            translated = {str(name): tensor for name, tensor in filter_fn(dict(given), model).items()}
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        _log.debug("timm could not translate the weights: %s", error)
        return given
    for name, tensor in translated.items():
        if name in given and given[name].shape != tensor.shape:
            _log.info("%s resized from %s to %s", name, list(given[name].shape), list(tensor.shape))
    return translated


def _refuse(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    other = [name for name in own if name in given and given[name].shape != own[name].shape]
    sorts = {
        "lacks {}": [name for name in own if name not in given],
        "has {} too many": [name for name in given if name not in own],
        "has other shapes: {}": [f"{n} {list(given[n].shape)} instead of {list(own[n].shape)}" for n in other],
    }
    if problems := [sentence.format(_some(names)) for sentence, names in sorts.items() if names]:
        raise CheckpointError(
            f"{source} does not fit this architecture: it {' and '.join(problems)}; "
            "name the model that the file was made with"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
