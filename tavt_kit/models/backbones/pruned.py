"""Models with parts cut out: taking the parts out of the modules, and building such a model again from its card.

A pruned model is the architecture of its name with fewer blocks, heads or channels. What differs is its structure, a
JSON object that stands among the arguments of its model card as ``pruned``:

    blocks   the blocks that are left, by their places in the whole architecture; absent where all are
    heads    attention module -> its heads, where they are fewer
    sizes    tensor -> its sizes, null where the architecture's own holds (which the classes and the image may change)

Names are those of the pruned model. Which channels were left is in the weights; the structure only says how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.core.codec import Record, decode
from tavt_kit.errors import CheckpointError, RecordError, UnsupportedBackbone
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.backbones.vitae import Vitae
from tavt_kit.models.backbones.vitae_adapter import VitaeBackbone


@dataclass(frozen=True)
class Structure(Record):
    """See the module."""

    blocks: tuple[int, ...] | None = None
    heads: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


def find_blocks(model: nn.Module) -> tuple[str, nn.Sequential | nn.ModuleList]:
    """The name and the list of the blocks that tokens are dropped in."""
    name = f"layers.{VitaeBackbone(model).stage}.NC" if isinstance(model, Vitae) else "blocks"
    name = f"backbone.{name}" if isinstance(model, Pim) else name
    blocks: Any = model
    for part in name.split("."):
        blocks = getattr(blocks, part, None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise UnsupportedBackbone(
            f"what is pruned are the blocks of a Vision Transformer, and {type(model).__name__} has no list of them; "
            "make it smaller by fgvc-kit export `precision` int8"
        )
    return name, blocks


def keep_blocks(model: nn.Module, kept: Sequence[int]) -> None:
    """Leave the blocks at these places, in this order, and remove the others."""
    name, blocks = find_blocks(model)
    parent, _, leaf = name.rpartition(".")
    left = [blocks[index] for index in kept]
    setattr(
        model.get_submodule(parent),
        leaf,
        nn.Sequential(*left) if isinstance(blocks, nn.Sequential) else type(blocks)(left),
    )


def cut(model: nn.Module, name: str, axis: int, keep: Tensor) -> None:
    """Leave the positions ``keep`` (k,) of one axis of a tensor; the module that owns it is told its new sizes."""
    path, _, leaf = name.rpartition(".")
    owner: Any = model.get_submodule(path)
    tensor: Tensor = getattr(owner, leaf)
    left = tensor.detach().index_select(axis, keep.to(tensor.device))
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(left, requires_grad=tensor.requires_grad)
    else:
        owner._buffers[leaf] = left
    if isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = owner.weight.shape
    elif isinstance(owner, nn.Conv1d | nn.Conv2d):
        owner.out_channels, owner.in_channels = owner.weight.shape[0], owner.weight.shape[1] * owner.groups
    elif isinstance(owner, nn.BatchNorm1d | nn.BatchNorm2d):
        owner.num_features = len(owner.weight)
    elif hasattr(owner, "normalized_shape"):
        owner.normalized_shape = tuple(owner.weight.shape)


def set_heads(model: nn.Module, name: str, heads: int) -> None:
    """Tell an attention module how many heads its weights have now; a head keeps its size, and so the scale."""
    attention: Any = model.get_submodule(name)
    attention.num_heads = heads
    attention.attn_dim = heads * attention.head_dim
    if hasattr(attention, "num_kv_heads"):  # a rotary one; grouped queries are never pruned
        attention.num_kv_heads, attention.kv_dim = heads, attention.attn_dim


def record_structure(whole: nn.Module, model: nn.Module, blocks: Sequence[int]) -> dict[str, Any]:
    """What ``reshape`` needs to make ``model`` of the whole architecture, which loses blocks here.

    The blocks are the positions of the model's in the whole.
    """
    structure: dict[str, Any] = {}
    if list(blocks) != list(range(len(find_blocks(whole)[1]))):
        structure["blocks"] = list(blocks)
        keep_blocks(whole, blocks)
    before, after = whole.state_dict(), model.state_dict()
    heads = {
        name: module.num_heads
        for name, module in model.named_modules()
        if getattr(module, "num_heads", None) != getattr(whole.get_submodule(name), "num_heads", None)
    }
    sizes = {
        name: [None if new == old else new for new, old in zip(tensor.shape, before[name].shape, strict=True)]
        for name, tensor in after.items()
        if tensor.shape != before[name].shape
    }
    return structure | ({"heads": heads} if heads else {}) | ({"sizes": sizes} if sizes else {})


def reshape(model: nn.Module, recorded: Any) -> nn.Module:
    """Cut a freshly created architecture to the structure on its card, if there is one, and return it.

    Which channels stay does not matter, for weights follow.

    Raises:
        CheckpointError: The structure is malformed or does not fit the architecture.
    """
    if recorded is None:
        return model
    try:
        structure = decode(Structure, recorded, "the structure of a pruned model")
    except RecordError as error:
        raise CheckpointError(f"{error} (restore model.json from its run)") from None
    if (blocks := structure.blocks) is not None:
        depth = len(find_blocks(model)[1])
        if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
            raise CheckpointError(f"a pruned model keeps some of its {depth} blocks in order, got {list(blocks)}")
        keep_blocks(model, blocks)
    owned = dict(model.state_dict(keep_vars=True))
    for name, sizes in structure.sizes.items():
        tensor = owned.get(name)
        if tensor is None or len(sizes) != tensor.dim():
            raise CheckpointError(f"the pruned tensor {name} is not one of this architecture; restore model.json")
        for axis, size in enumerate(sizes):
            if size is None or size == tensor.shape[axis]:
                continue
            if not 0 < size < tensor.shape[axis]:
                raise CheckpointError(
                    f"a pruned tensor is smaller than that of its architecture, but the card says {size} for axis "
                    f"{axis} of {name}, which has {tensor.shape[axis]}; restore model.json"
                )
            cut(model, name, axis, torch.arange(size))
    parts = dict(model.named_modules())
    for name, heads in structure.heads.items():
        own: Any = getattr(parts.get(name), "num_heads", 0)
        if not hasattr(parts.get(name), "head_dim") or not 0 < heads <= own:
            raise CheckpointError(
                f"the card gives {heads} heads to {name}, which has {own or 'none'} in its architecture; restore "
                "model.json"
            )
        set_heads(model, name, heads)
    inner: Any = model.backbone if isinstance(model, Pim) else model
    first = find_blocks(model)[1][0]
    width = next(module for module in first.modules() if isinstance(module, nn.Linear)).in_features
    if getattr(inner, "embed_dim", width) != width:  # which only timm's own models keep of themselves
        inner.embed_dim = inner.num_features = inner.head_hidden_size = width
    return model
