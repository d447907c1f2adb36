"""Optimisers, and which parameters they move."""

from __future__ import annotations

import torch
from torch import nn

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.distill.recipe import OPTIMISERS
from tavt_kit.errors import TrainingError

__all__ = ["freeze", "make_optimiser"]


def make_optimiser(
    model: nn.Module,
    kind: str,
    *,
    rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """An optimiser over the parameters that train, in the model's own order.

    Args:
        model: Frozen parameters are left out.
        kind: ``"adamw"``, or ``"sgd"`` with momentum.
        rate: Learning rate; the loop sets another before every update.
        weight_decay: Of matrices; of everything with ``decay_all``, as the official code does.
        momentum: Of SGD.
        decay_all: See there.

    Raises:
        TrainingError: No such optimiser, or nothing trains.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise TrainingError("every parameter of the model is frozen, so nothing can be trained; freeze fewer layers")
    matrices = [p for _, p in trained if decay_all or p.dim() == 2]
    others = [p for _, p in trained if not decay_all and p.dim() != 2]
    groups = [
        {"params": group, "weight_decay": decay} for group, decay in ((matrices, weight_decay), (others, 0.0)) if group
    ]
    if kind == "adamw":
        # fused: half the time of the loop over tensors on a CPU.
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum)
    raise TrainingError(f"the optimiser must be one of {', '.join(OPTIMISERS)}, got {kind!r}")


def freeze(model: AdaptiveViT, layers: int) -> int:
    """Stop training the embedding and the first ``layers`` layers; 0 trains everything.

    What lies below a layer is found by differentiating: a parameter is frozen if the tokens that leave the last frozen
    layer depend on it. So position tables, registers and shared biases are found in every backbone.

    Args:
        model: Changed: ``requires_grad`` of its parameters.
        layers: Below the model's layer count.

    Returns:
        How many parameters (numbers, not tensors) still train.

    Raises:
        TrainingError: The number of layers does not fit the model.
    """
    if not 0 <= layers < model.layers:
        raise TrainingError(f"0 to {model.layers - 1} of the model's {model.layers} layers can be frozen, got {layers}")
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    if layers:
        for parameter, gradient in zip(parameters, _reach(model, layers, parameters), strict=True):
            parameter.requires_grad_(not gradient)
    return sum(p.numel() for p in parameters if p.requires_grad)


def _reach(model: AdaptiveViT, layers: int, parameters: list[nn.Parameter]) -> list[bool]:
    """Whether the tokens after ``layers`` layers depend on each parameter."""
    first = parameters[0]
    height, width = model.backbone.image_size
    blank = torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype)
    was_training = model.training
    model.eval()
    try:
        state = model.advance(model.start(blank), range(layers), model.dense_schedule.counts)
    finally:
        model.train(was_training)
    found = torch.autograd.grad(state.tokens.sum(), parameters, allow_unused=True)
    return [gradient is not None for gradient in found]
