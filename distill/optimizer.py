"""Optimisers, and which parameters they move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tavt_kit.distill.options import OptimizerOptions
from tavt_kit.errors import TrainingError
from tavt_kit.models.wrap import AdaptiveViT

_SCALE = "lr_scale"


def make_optimiser(model: AdaptiveViT, settings: OptimizerOptions) -> torch.optim.Optimizer:
    """An optimiser over the parameters that train, in groups of one learning rate and one weight decay each.

    With layer decay d a parameter at depth i of L layers (see ``parameter_depths``) learns at the rate times
    d^(L + 1 - i), so the head at the full rate (Clark et al., ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022). The
    loop sets the rate before every update by ``set_rate``.

    Raises:
        TrainingError: Nothing trains.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise TrainingError("every parameter of the model is frozen, so nothing can be trained; freeze fewer layers")
    # Position tables and extra tokens, which the model says are not to decay.
    tables = {"cls_token", "pos_embed", "reg_token", "dist_token", "relative_position_bias_table"}
    tables |= {name.rpartition(".")[2] for name in getattr(model.bare, "no_weight_decay", set)()}
    depths = parameter_depths(model) if settings.layer_decay < 1 else {}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained.items():
        decays = settings.decay_all or (parameter.dim() >= 2 and name.rpartition(".")[2] not in tables)
        decay = settings.weight_decay if decays else 0.0
        start = max((start for start in settings.lr_scale if _begins(name, start)), key=len, default=None)
        scale = 1.0 if start is None else settings.lr_scale[start]
        if depths:
            scale *= settings.layer_decay ** (model.layers + 1 - depths[name])
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, _SCALE: scale})
        group["params"].append(parameter)
    if settings.optimiser == "adamw":
        # fused: half the time of the loop over tensors on a CPU.
        return torch.optim.AdamW(groups.values(), lr=settings.lr, fused=True)
    return torch.optim.SGD(groups.values(), lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group[_SCALE]


def check_scales(model: AdaptiveViT, settings: OptimizerOptions) -> None:
    """Raise TrainingError for a name of ``lr_scale`` that no parameter's begins with."""
    names = [name for name, _ in model.named_parameters()]
    # A recipe names its branch whether the loss needs one or not.
    asked = [start for start in settings.lr_scale if not _begins(start, BRANCH)]
    if idle := [start for start in asked if not any(_begins(name, start) for name in names)]:
        known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
        raise TrainingError(f"no parameter's name begins with {', '.join(idle)}; those of the model begin with {known}")


def _begins(name: str, start: str) -> bool:
    return name == start or name.startswith(f"{start}.")


def freeze(model: AdaptiveViT, layers: int) -> int:
    """Stop training the embedding and the first ``layers`` layers; 0 trains everything.

    What lies below a layer is everything that the tokens which leave it depend on.

    Returns:
        How many parameters (numbers, not tensors) still train.

    Raises:
        TrainingError: The number of layers is not below the model's.
    """
    if not 0 <= layers < model.layers:
        raise TrainingError(f"0 to {model.layers - 1} of the model's {model.layers} layers can be frozen, got {layers}")
    depths = parameter_depths(model) if layers else {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not layers or depths[name] > layers)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parameter_depths(model: AdaptiveViT) -> dict[str, int]:
    """The depth of every parameter by its name.

    0 is what the tokens before the first layer depend on, ``i`` what only those after ``i`` layers do, and the number
    of layers + 1 everything after the last one: norm, head, and a branch that only training uses.
    """
    first = next(model.parameters())
    height, width = model.backbone.image_size
    blank = torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    depths: dict[str, int] = {}
    seen: set[Any] = set()
    before, was_training = [(parameter, parameter.requires_grad) for parameter in model.parameters()], model.training
    try:
        model.eval().requires_grad_(True)  # nothing random, no statistics updated
        with torch.enable_grad():
            state = model.start(blank)
            for depth in range(model.layers + 1):
                if depth:
                    state = model.advance(state, [depth - 1], model.dense_schedule.counts)
                waiting: list[Any] = [state.tokens.grad_fn]
                while waiting:
                    node = waiting.pop()
                    if node is None or node in seen:
                        continue
                    seen.add(node)
                    if hasattr(node, "variable"):
                        depths.setdefault(names[id(node.variable)], depth)
                    waiting += [below for below, _ in node.next_functions]
    finally:
        for parameter, trains in before:
            parameter.requires_grad_(trains)
        model.train(was_training)
    return {name: depths.get(name, model.layers + 1) for name in names.values()}


BRANCH = "training_branch"


@contextmanager
def attached(model: AdaptiveViT, branch: nn.Module | None) -> Iterator[None]:
    """The model with its branch; without one nothing happens."""
    if branch is None:
        yield
        return
    model.add_module(BRANCH, branch)
    try:
        yield
    finally:
        delattr(model, BRANCH)
