"""Fitting tensors into a model: strictly, except for what is asked for (a new head, another image size)."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tavt_kit.errors import CheckpointError

_log = logging.getLogger(__name__)


def fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, new_head: bool = False) -> bool:
    """Load every tensor into a timm model; position tables of another image size are resized as timm does.

    Args:
        model: Receives the weights, in place; as it was if they do not fit.
        tensors: By timm's names, or by names that timm itself translates for this family.
        source: What to call the file in messages.
        new_head: Whether a classifier of other classes may be left out, so that the model keeps its own.

    Returns:
        Whether the model kept its own, untrained head.

    Raises:
        CheckpointError: Tensors are missing, left over or of another shape.
    """
    own = model.state_dict()
    given = dict(tensors)
    heads = head_names(model)
    if _differs(own, given, heads):
        given = _translated(model, given)
    # A backbone that was saved without a head has nothing to lose.
    headless = not any(name in given for name in heads)
    other_head = not headless and any(name not in given or _shape(given[name]) != _shape(own[name]) for name in heads)
    if other_head and not new_head and not _differs(own, given, heads):
        if (rows := _classes_of(own, given, heads)) is None:
            _refuse(own, given, source)  # of as many classes, or of none: a tensor of it is absent or mis-shaped
        raise CheckpointError(
            f"{source} has a head of {rows} classes, but the model is to have {_rows(own, heads)}; "
            "give the data it was trained on, or ask for a new head"
        )
    fresh = headless or other_head
    if fresh:
        given = {name: tensor for name, tensor in given.items() if not _of_head(name, heads)}
        given |= {name: own[name] for name in heads}
    _refuse(own, given, source)
    model.load_state_dict(given, strict=True)
    return fresh and bool(heads)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's own tensors: ``head.weight``, ``head.bias`` (and DeiT's second head)."""
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    classifiers = config.get("classifier") or "head"
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    prefixes = tuple(f"{name}." for name in classifiers)
    return tuple(name for name in model.state_dict() if name.startswith(prefixes))


def _of_head(name: str, heads: tuple[str, ...]) -> bool:
    return name in heads or name.rpartition(".")[0] in {head.rpartition(".")[0] for head in heads}


def _differs(own: Mapping[str, Tensor], given: Mapping[str, Tensor], heads: tuple[str, ...]) -> bool:
    """Whether anything but the head does not fit."""
    mine = {name: _shape(tensor) for name, tensor in own.items() if not _of_head(name, heads)}
    theirs = {name: _shape(tensor) for name, tensor in given.items() if not _of_head(name, heads)}
    return mine != theirs


def _translated(model: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's own translation of foreign names and position tables; what it cannot translate is given back."""
    patches, own = given.get("patch_embed.proj.weight"), model.state_dict().get("patch_embed.proj.weight")
    if patches is not None and own is not None and _shape(patches) != _shape(own):
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
        if name in given and _shape(given[name]) != _shape(tensor):
            _log.info("%s resized from %s to %s", name, list(given[name].shape), list(tensor.shape))
    return translated


def _refuse(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    problems = []
    if missing := [name for name in own if name not in given]:
        problems.append(f"lacks {_some(missing)}")
    if unexpected := [name for name in given if name not in own]:
        problems.append(f"has {_some(unexpected)} too many")
    shapes = [
        f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in given and _shape(given[name]) != _shape(own[name])
    ]
    if shapes:
        problems.append(f"has other shapes: {_some(shapes)}")
    if problems:
        raise CheckpointError(
            f"{source} does not fit this architecture: it {' and '.join(problems)}; "
            "name the model that the file was made with"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _classes_of(own: Mapping[str, Tensor], given: Mapping[str, Tensor], heads: tuple[str, ...]) -> int | None:
    """How many classes a whole head of other classes than the model's is of; ``None`` if it is no such head."""
    shapes = [_shape(given[name]) if name in given else () for name in heads]
    counts = {
        shape[0] if shape and shape[1:] == _shape(own[name])[1:] else None
        for name, shape in zip(heads, shapes, strict=True)
    }
    (count,) = counts if len(counts) == 1 else (None,)
    return count if count != _rows(own, heads) else None


def _rows(own: Mapping[str, Tensor], heads: tuple[str, ...]) -> int:
    return next((own[name].shape[0] for name in heads), 0)
