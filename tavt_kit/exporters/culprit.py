"""Which layer of a model a converter refuses: the parts are offered to it one by one, the smallest first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Convert = Callable[[nn.Module, tuple[Tensor, ...]], object]
"""Converts a module with its example inputs, or raises."""


def refused_layer(model: nn.Module, images: Tensor, convert: Convert) -> str | None:
    """The smallest part of a model that cannot be converted alone, such as ``blocks.0.norm1 (RmsNorm)``.

    One part of each class is tried, with what it is given in a pass over ``images``; None where each of them converts,
    so that only their combination is at fault.

    Args:
        model: Any module.
        images: (B, 3, H, W).
        convert: See ``Convert``.
    """
    for name, part, inputs in _calls(model, images):
        try:
            convert(part, inputs)
        except Exception:  # a converter raises whatever the failing operator raises
            return f"{name} ({type(part).__name__})"
    return None


def _calls(model: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """The first part of each class that is called with tensors alone, and its inputs; small parts come first."""
    found: dict[type[nn.Module], tuple[str, nn.Module, tuple[Tensor, ...]]] = {}
    names = {part: name for name, part in model.named_modules() if part is not model}

    def note(part: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        plain = all(isinstance(value, Tensor) for value in inputs)
        if inputs and plain and all(value is None for value in keywords.values()):
            found.setdefault(type(part), (names[part], part, tuple(value.detach().clone() for value in inputs)))

    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in names]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(found.values(), key=lambda call: sum(1 for _ in call[1].modules()))
