"""What must be cut together: which axes of which tensors belong to a hidden channel, a head, an embedding channel.

For the channels torch-pruning's dependency graph says it (Fang et al., DepGraph, CVPR 2023): it traces each
feed-forward network by itself, and for the embedding width the whole model, in which a linear layer stands for every
attention, because rotary positions and packed biases inside an attention are not traced rightly. What belongs to a head
is written out for the two attention classes of timm whose heads are free of the embedding width.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones import make_adapter
from tavt_kit.models.backbones.fusion import FusionViT
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.backbones.pruned import find_blocks
from tavt_kit.models.backbones.vitae import Vitae
from tavt_kit.models.timm_import import timm

_FREE = (timm.layers.Attention, timm.layers.AttentionRope)
"""Attention whose heads need not fill the width; the others of timm reshape to the width of what came in."""

_MLPS = (timm.layers.Mlp, timm.layers.GluMlp, timm.layers.SwiGLU)


@dataclass(frozen=True, slots=True)
class Cut:
    """One axis of one tensor, and the unit that each position on it belongs to."""

    tensor: str
    axis: int
    owner: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Coupled:
    """Units of a kind (``mlp``, ``heads`` or ``width``) that can be pruned, in the module of that name if in one.

    A unit has as many channels as its size: those of a head, else 1. Groups that are ``tied`` by the same word keep the
    same units.
    """

    kind: str
    name: str
    units: int
    size: int
    cuts: tuple[Cut, ...]
    tied: str = ""


def coupled(model: nn.Module, kind: str) -> list[Coupled]:
    """All units of one kind in a bare model in eval mode, from the first block to the last."""
    if not all(make_adapter(model).joint):
        raise UnsupportedBackbone(
            f"{kind} cannot be pruned where attention and feed-forward half share one projection, as in "
            f"{type(find_blocks(model)[1][0]).__name__}; prune whole layers with `depth`"
        )
    return {"mlp": _mlps, "heads": _heads, "width": _width}[kind](model)


def _in_blocks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module of the blocks, by its name in the model."""
    name, blocks = find_blocks(model)
    return ((f"{name}.{below}", module) for below, module in blocks.named_modules())


def _mlps(model: nn.Module) -> list[Coupled]:
    # Relative positions may come from a small network inside an attention; it has nothing to do with this one.
    inside = tuple(f"{name}." for name, module in _in_blocks(model) if hasattr(module, "fused_attn"))
    found = []
    for name, module in _in_blocks(model):
        if isinstance(module, _MLPS) and not name.startswith(inside):
            twin: Any = copy.deepcopy(module).requires_grad_(True)
            example = torch.zeros(2, 3, twin.fc2.out_features, device=twin.fc2.weight.device)
            cuts = _traced(twin, example, twin.fc2, {}, f"{name}.")
            found.append(Coupled("mlp", name, twin.fc2.in_features, 1, cuts))
    if not found:
        raise UnsupportedBackbone(f"{type(model).__name__} has no feed-forward network whose width could be pruned")
    return found


def _heads(model: nn.Module) -> list[Coupled]:
    attentions = _free_attentions(model, "heads")
    if getattr(model, "rope_mixed", False):
        raise UnsupportedBackbone(
            f"heads cannot be pruned from {type(model).__name__} with mixed rotary positions, which are learned for "
            "each head of all layers together; prune with `mlp` or `depth`"
        )
    # TransFG multiplies the maps of a head through the layers, so a head is the same one in all of them.
    tied = len(attentions) - 1 if type(make_adapter(model)).__name__ == "TransFgBackbone" else 0
    found = []
    for number, (name, attention) in enumerate(attentions):
        heads, size = int(attention.num_heads), int(attention.head_dim)
        once = tuple(head for head in range(heads) for _ in range(size))
        into = {"qkv": once * 3, "q_proj": once, "k_proj": once, "v_proj": once, "gate": once, "norm": once}
        cuts = []
        for part, owner in into.items():
            cuts += [Cut(f"{name}.{part}.{leaf}", 0, owner) for leaf in _leaves(getattr(attention, part, None))]
        cuts.append(Cut(f"{name}.proj.weight", 1, once))
        found.append(Coupled("heads", name, heads, size, tuple(cuts), "rollout" if number < tied else ""))
    return found


def _free_attentions(model: nn.Module, kind: str) -> list[tuple[str, Any]]:
    found = [(name, module) for name, module in _in_blocks(model) if hasattr(module, "fused_attn")]
    if bound := [one for _, one in found if type(one) not in _FREE or getattr(one, "num_kv_groups", 1) != 1]:
        raise UnsupportedBackbone(
            f"{kind} cannot be pruned from {type(model).__name__}: its {type(bound[0]).__name__} needs heads that fill "
            "the embedding width exactly; prune with `mlp` or `depth`"
        )
    return found


def _leaves(module: nn.Module | None) -> list[str]:
    return [] if module is None else [name for name in ("weight", "bias") if getattr(module, name, None) is not None]


class _StandIn(nn.Linear):
    """Stands for an attention while the model is traced: it reads and writes the embedding."""

    def forward(self, input: Tensor, **_: Any) -> Tensor:
        """(B, N, D) -> (B, N, D); what an attention is told beside is of no account."""
        return super().forward(input)


def _width(model: nn.Module) -> list[Coupled]:
    inner, reason = model.backbone if isinstance(model, Pim) else model, None
    if isinstance(model, Vitae):
        reason = "its convolutions join the channels in groups"
    elif getattr(inner, "attn_pool", None) is not None:
        reason = "its attention pool needs heads that fill the embedding width exactly"
    if reason is not None:
        raise UnsupportedBackbone(
            f"the embedding width of {type(model).__name__} cannot be pruned: {reason}; prune with `mlp`, `heads` or "
            "`depth`"
        )
    attentions = _free_attentions(model, "width")
    twin: Any = copy.deepcopy(model).requires_grad_(True).eval()
    width = attentions[0][1].proj.out_features
    first: Any = None
    device = next(model.parameters()).device
    stands: dict[nn.Module, str] = {}
    for name, _ in attentions:
        parent, _, leaf = name.rpartition(".")
        stand = _StandIn(width, width, device=device)
        setattr(twin.get_submodule(parent), leaf, stand)
        first = first or stand
        stands[stand] = name
    if isinstance(twin, FusionViT):  # what it fuses is chosen by attention, which has a stand-in here
        twin.__class__ = timm.models.vision_transformer.VisionTransformer
    images = torch.zeros(2, 3, *make_adapter(model).image_size, device=device)
    cuts = _traced(twin, images, first, stands, "")
    beside: list[Cut] = []
    all_units = tuple(range(width))
    for name, attention in attentions:
        parts = [part for part in ("qkv", "q_proj", "k_proj", "v_proj", "gate") if getattr(attention, part, None)]
        beside += [Cut(f"{name}.{part}.weight", 1, all_units) for part in parts]
        beside += [Cut(f"{name}.proj.{leaf}", 0, all_units) for leaf in _leaves(attention.proj)]
    return [Coupled("width", "", width, 1, (*cuts, *beside))]


def _traced(
    root: nn.Module, example: Tensor, into: nn.Linear, stands: dict[nn.Module, str], prefix: str
) -> tuple[Cut, ...]:
    """What is cut with the channels that go into the module ``into`` of ``root``, by torch-pruning's graph."""
    import torch_pruning as tp

    channels = into.in_features
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(root, example_inputs=example, verbose=False)
        group = graph.get_pruning_group(into, tp.prune_linear_in_channels, list(range(channels)))
    names = {module: name for name, module in root.named_modules()}
    parameters = {parameter: name for name, parameter in root.named_parameters()}
    cuts: dict[tuple[str, int], Cut] = {}
    for item in group:
        module, owner = item.dep.target.module, tuple(item.root_idxs)
        if isinstance(module, nn.Parameter):
            said, edges = item.dep.target.pruning_dim, enumerate(module.shape)
            axis = said if said >= 0 else max(i for i, edge in edges if edge == len(owner))
            found = [(parameters[module], axis)]
        elif module in stands or not isinstance(module, nn.Module) or not any(True for _ in module.parameters(False)):
            continue
        else:
            has_inputs = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
            into_it = has_inputs and graph.is_in_channel_pruning_fn(item.dep.handler)
            # Otherwise everything of a layer that has one row for each channel.
            leaves = ["weight"] if into_it else ["weight", "bias", "running_mean", "running_var"]
            has = [leaf for leaf in leaves if isinstance(getattr(module, leaf, None), Tensor)]
            found = [(f"{names[module]}.{leaf}", int(into_it)) for leaf in has]
        for name, axis in found:
            cuts[name, axis] = Cut(prefix + name, axis, _sorted_owner(owner, item.idxs, channels, prefix + name))
    return tuple(cuts.values())


def _sorted_owner(owner: tuple[int | None, ...], positions: list[int], channels: int, name: str) -> tuple[int, ...]:
    """The unit of each position in turn; every position of the axis must have one, and every unit as many."""
    by_place = dict(zip(positions, owner, strict=True))
    units = tuple(by_place.get(place) for place in range(len(by_place)))
    counts = Counter(units)
    if None in units or len(counts) != channels or len(set(counts.values())) != 1:
        raise UnsupportedBackbone(f"torch-pruning cannot tell which channels of {name} belong together")
    return units  # type: ignore[return-value]
