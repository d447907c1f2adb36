"""The parts of a model that its time is told apart by: stem, each layer by its number, head, and what is neither."""

from __future__ import annotations

__all__ = ["HEAD", "OTHER", "STEM", "layer_scope"]

STEM, HEAD, OTHER = "stem", "head", "other"


def layer_scope(layer: int) -> str:
    """The name of a layer in a traced graph: the nodes of layer 3 are called ``.../layer.3/...``."""
    return f"layer.{layer}"
