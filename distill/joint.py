"""A joint: a state that several networks go on from, computed once and differentiated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tavt_kit.models.tokens import TokenState

__all__ = ["Joint"]


class Joint:
    """Cuts the graph after a state, so that every network that goes on from it can be differentiated on its own.

    The networks' gradients add up at the cut; ``close`` sends their sum through what lies before it, which by the
    linearity of differentiation is what all of them together would have sent, for the price of one.

    Args:
        state: What the networks share.
    """

    def __init__(self, state: TokenState) -> None:
        self._cuts: dict[int, tuple[Tensor, Tensor]] = {}
        self.state = replace(
            state,
            tokens=self._cut(state.tokens),
            last=None if state.last is None else self._cut(state.last),
            along=MappingProxyType({name: self._cut(each) for name, each in state.along.items()}),
            notes=MappingProxyType(_mapped(state.notes, self._cut)),
        )

    def _cut(self, tensor: Tensor) -> Tensor:
        """The same values as a leaf; a tensor that stands in two places stays one."""
        if not tensor.requires_grad:
            return tensor
        if id(tensor) not in self._cuts:
            self._cuts[id(tensor)] = (tensor, tensor.detach().requires_grad_())
        return self._cuts[id(tensor)][1]

    def close(self) -> None:
        """Differentiate what lies before the cut; what is scaled in the networks' own gradients stays so."""
        ends = [(before, leaf.grad) for before, leaf in self._cuts.values() if leaf.grad is not None]
        self._cuts.clear()
        if ends:
            torch.autograd.backward([before for before, _ in ends], [gradient for _, gradient in ends])


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A note with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(each, change) for each in value)
    return value
