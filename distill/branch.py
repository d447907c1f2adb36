"""A branch that only training uses: a part of the model while it trains, and of no file that is written of it.

So it is optimised, clipped, averaged and saved with the state (under ``training_branch.``) as every weight is, and a
run that goes on has it again. ``model.safetensors`` never has it, as evaluation does not run it; training that starts
from a finished run begins with a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["BRANCH", "attached"]

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
