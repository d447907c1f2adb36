"""Letting what is left take over from what is cut, as far as it can: least squares on training pictures.

What a feed-forward network's second layer, or an attention's output projection, received through the cut channels is
predicted linearly from those that are left, and the prediction is added to the layer's weights and bias (the
reconstruction step of He, Zhang and Sun, Channel Pruning, ICCV 2017). Nothing is trained, and nothing gets slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tavt_kit.pruning.coupled import Coupled, Cut

__all__ = ["refit_readers"]

_RIDGE = 1e-2
"""Of the mean variance: keeps channels that vary with one another from getting large weights of opposite sign."""

_CHUNK = 16
"""Pictures at a time."""

_NUMBERS = 2**27
"""Entries of the moments that are held at once (512 MB); more are gathered in further passes."""


@torch.no_grad()
def refit_readers(model: nn.Module, chosen: Sequence[tuple[Coupled, Tensor]], images: Tensor) -> None:
    """Change the weights of the layers that read what will be cut; the cutting itself comes afterwards.

    Args:
        model: Bare, in eval mode; whole yet.
        chosen: Groups, and of each the units (k,) that stay.
        images: Training pictures (n, 3, H, W).
    """
    readers = [
        (reader, keep)
        for group, keep in chosen
        if len(keep) < group.units and (reader := _reader(model, group)) is not None
    ]
    for part in _portions(model, readers):
        layers = {cut.tensor: model.get_submodule(cut.tensor.removesuffix(".weight")) for cut, _ in part}
        moments = _moments(model, layers, images)
        for cut, keep in part:
            _take_over(layers[cut.tensor], cut, keep, *moments[cut.tensor])


def _reader(model: nn.Module, group: Coupled) -> Cut | None:
    """The linear layer that reads the group's channels; the embedding width has many, and is left as it is."""
    if group.kind == "width":
        return None
    return next(cut for cut in group.cuts if cut.axis == 1)


def _portions(model: nn.Module, readers: Sequence[tuple[Cut, Tensor]]) -> Iterator[list[tuple[Cut, Tensor]]]:
    part: list[tuple[Cut, Tensor]] = []
    for cut, keep in readers:
        if part and sum(len(one.owner) ** 2 for one, _ in part) + len(cut.owner) ** 2 > _NUMBERS:
            yield part
            part = []
        part.append((cut, keep))
    if part:
        yield part


def _moments(model: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of what each layer receives the mean (C,), and the mean of its products (C, C)."""
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def gather(name: str, received: Tensor) -> None:
        rows = received.flatten(0, -2).float()
        total, products = rows.sum(dim=0), rows.T @ rows
        if name in sums:
            before = sums[name]
            total, products = total.add_(before[0]), products.add_(before[1])
        sums[name] = (total, products, len(rows) + (sums[name][2] if name in sums else 0))

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: gather(name, given[0]))
        for name, layer in layers.items()
    ]
    try:
        for start in range(0, len(images), _CHUNK):
            model(images[start : start + _CHUNK])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / count, products / count) for name, (total, products, count) in sums.items()}


def _take_over(layer: nn.Module, cut: Cut, keep: Tensor, mean: Tensor, products: Tensor) -> None:
    assert isinstance(layer, nn.Linear)
    chosen = set(keep.tolist())
    stays = torch.tensor([unit in chosen for unit in cut.owner], device=mean.device)
    mean, products = mean.double(), products.double()
    if layer.bias is None:
        mean = torch.zeros_like(mean)  # there is nowhere to put what the cut channels give on average
    covariance = products - mean[:, None] * mean
    own = covariance[stays][:, stays]
    own.diagonal().add_(_RIDGE * own.diagonal().mean() + torch.finfo(torch.float32).tiny)
    share = torch.linalg.solve(own, covariance[stays][:, ~stays]).T  # (cut, left)
    lost = layer.weight[:, ~stays].double()
    layer.weight[:, stays] += (lost @ share).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias.add_((lost @ (mean[~stays] - share @ mean[stays])).to(layer.bias.dtype))
