"""At which depth each parameter of a model works, found by following what its tokens were computed from.

So position tables, registers, shared biases, pyramids and convolutions between layers are found in every backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["parameter_depths"]


def parameter_depths(model: AdaptiveViT) -> dict[str, int]:
    """The depth of every parameter by its name.

    0 is what the tokens before the first layer depend on, ``i`` what only those after ``i`` layers do, and the number
    of layers + 1 everything after the last one: norm, head, and a branch that only training uses.
    """
    first = next(model.parameters())
    height, width = model.backbone.image_size
    blank = torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, int] = {}
    seen: set[Any] = set()
    with _everything_trains(model):
        state = model.start(blank)
        for depth in range(model.layers + 1):
            if depth:
                state = model.advance(state, [depth - 1], model.dense_schedule.counts)
            for parameter in _leaves(state.tokens, seen):
                found.setdefault(names[id(parameter)], depth)
    return {name: found.get(name, model.layers + 1) for name in names.values()}


@contextmanager
def _everything_trains(model: AdaptiveViT) -> Iterator[None]:
    """Every parameter differentiable, nothing random, no statistics updated; then as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was_training = model.training
    model.eval()
    for parameter, _ in before:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, trains in before:
            parameter.requires_grad_(trains)
        model.train(was_training)


def _leaves(tokens: Tensor, seen: set[Any]) -> Iterator[nn.Parameter]:
    """The parameters that ``tokens`` were computed from, without those below what was ``seen``."""
    waiting = [tokens.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [before for before, _ in node.next_functions]
