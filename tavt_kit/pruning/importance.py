"""How much each unit matters: torch-pruning's measures over the tensors that are cut with it.

    magnitude   the mean of the squared weights (Li et al., 2017; over a group as in DepGraph, CVPR 2023)
    taylor      |weight x gradient|: what leaving it out would change of the loss (Molchanov et al., 2019)
    random      none at all; what the others must beat

Gradients are of the cross-entropy on training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import UnknownName
from tavt_kit.pruning.coupled import Coupled, Cut

IMPORTANCES = ("magnitude", "taylor", "random")
_CHUNK = 16
"""Images in one backward pass."""


def check_importance(name: str) -> None:
    """Refuse a measure that nobody knows."""
    if name not in IMPORTANCES:
        raise UnknownName(f"importance is one of {', '.join(IMPORTANCES)}, got {name!r}")


def needs_images(name: str) -> bool:
    """Whether the measure rests on gradients."""
    return name == "taylor"


def scores_of(
    model: nn.Module, groups: Sequence[Coupled], name: str, images: tuple[Tensor, Tensor] | None, seed: int
) -> list[Tensor]:
    """The importance (units,) of every unit of each group; means of a group are 1.

    Args:
        model: Bare, in eval mode; its gradients are gone afterwards.
        groups: What is to be judged.
        name: One of ``IMPORTANCES``.
        images: Images (n, 3, H, W) and labels (n,), where the measure needs them.
        seed: Of ``random``.
    """
    check_importance(name)
    if needs_images(name):
        assert images is not None  # the caller has read them
        _differentiate(model, *images)
    measure = _measure(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return [_scores(model, group, measure) for group in groups]
    finally:
        model.zero_grad(set_to_none=True)


def _measure(name: str) -> Any:
    from torch_pruning.pruner import importance

    if name == "random":
        return importance.RandomImportance()
    kinds = {"magnitude": importance.GroupMagnitudeImportance, "taylor": importance.GroupTaylorImportance}
    return kinds[name](normalizer=None)


def _scores(model: nn.Module, group: Coupled, measure: Any) -> Tensor:
    found: Tensor = measure(_as_group(model, group))[: group.units].float().cpu()  # the first entries are the units'
    mean = found.mean()
    return found / mean if mean > 0 else found


def _as_group(model: nn.Module, group: Coupled) -> Any:
    """The cuts as torch-pruning's group, which its measures read."""
    from torch_pruning.dependency.dependency import Dependency
    from torch_pruning.dependency.group import Group
    from torch_pruning.dependency.node import Node

    made = Group()
    for item in group.cuts:
        path, _, leaf = item.tensor.rpartition(".")
        module = model.get_submodule(path)
        handler = _handler(module, item) if leaf == "weight" else None
        if handler is None:
            continue
        node = Node(module, None, path)
        made.add_dep(Dependency(handler, handler, node, node), list(range(len(item.owner))))
        made[len(made) - 1].root_idxs = list(item.owner)
    return made


def _handler(module: nn.Module, item: Cut) -> Any:
    """torch-pruning's function for this side of a layer, by which its measures tell the sides apart."""
    import torch_pruning as tp

    if isinstance(module, nn.Linear):
        return tp.prune_linear_in_channels if item.axis else tp.prune_linear_out_channels
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return tp.prune_conv_in_channels if item.axis else tp.prune_conv_out_channels
    return tp.prune_layernorm_out_channels if isinstance(module, nn.LayerNorm) else None


def _differentiate(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Leave the gradient of the mean loss in every parameter."""
    parameters = list(model.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    model.requires_grad_(True)
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, len(images), _CHUNK):
        with torch.enable_grad():
            logits = model(images[start : start + _CHUNK])
            loss = F.cross_entropy(logits, labels[start : start + _CHUNK], reduction="sum")
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(totals, found, strict=True):
            if gradient is not None:
                total += gradient
    for parameter, total, learns in zip(parameters, totals, wanted, strict=True):
        parameter.requires_grad_(learns)
        parameter.grad = total / len(images)
