"""The parts of a model that its time is told apart by: stem, each layer by its number, and head."""

from __future__ import annotations

STEM, HEAD = "stem", "head"


def layer_scope(layer: int) -> str:
    """The name of a layer in a traced graph: the nodes of layer 3 are called ``.../layer.3/...``."""
    return f"layer.{layer}"


def part_names(layers: int) -> tuple[str, ...]:
    """Of a model with so many layers, in order: ``stem``, ``0``, ``1``, ..., ``head``."""
    return (STEM, *map(str, range(layers)), HEAD)


def part_words(name: str) -> str:
    """For people: ``layer 3``, ``stem``."""
    return f"layer {name}" if name.isdigit() else name
