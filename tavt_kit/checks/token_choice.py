"""How many tokens an exported graph keeps, read off its TopK nodes: as many as its card says.

A rounded graph may keep one token too many without anyone seeing it in its accuracy. Which of equal scores stay is not
tried on a file: images hardly ever tie, those that nearly do are not held against it (``near_ties``), and the tests
of the exporters hold the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.artifact_card import ArtifactCard


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What was found of a graph's choice of tokens.

    Args:
        kept: Patches kept by each choice, in the order of the graph; ``None`` where it does not say.
        reason: One clause, where it is not what the card says.
    """

    kept: tuple[int, ...] | None
    reason: str = ""

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; ``ties_difference`` and ``untried`` are of the time when ties were tried on every file."""
        return {
            "kept": None if self.kept is None else list(self.kept),
            "ties_difference": None,
            "reason": self.reason,
            "untried": "ties are tried by the tests of the exporters",
        }


def choice_of(path: Path, card: ArtifactCard) -> TokenChoice | None:
    """Read how many tokens a file keeps.

    Args:
        path: The file.
        card: What it says of itself.

    Returns:
        ``None`` of a file that drops nothing, that takes more than images (a switchable one), or that is no graph.
    """
    readers = {".onnx": _in_onnx, ".xml": _in_openvino}
    if card.is_dense or card.is_switchable or path.suffix not in readers:
        return None
    kept, wanted = readers[path.suffix](path), _wanted(card)
    if kept is None or _holds(kept, wanted):
        return TokenChoice(kept)
    return TokenChoice(kept, f"it keeps {_list(kept)} patches, where its card says {_list(wanted)}")


def _in_onnx(path: Path) -> tuple[int, ...] | None:
    """The sizes of the TopK nodes that look for the largest along the second axis; sorts look for the smallest."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    known = {one.name: one for one in graph.initializer}
    sizes = []
    for node in graph.node:
        given = {one.name: one for one in node.attribute}
        if node.op_type == "Constant" and "value" in given:
            known[node.output[0]] = given["value"].t
        if node.op_type == "TopK":
            largest, axis = (
                (given[name].i if name in given else usual) for name, usual in (("largest", 1), ("axis", -1))
            )
            if largest == 1 and axis in (1, -1):
                sizes.append(known.get(node.input[1]))
    if not sizes or any(size is None for size in sizes):
        return None
    return tuple(int(numpy_helper.to_array(size).reshape(-1)[0]) for size in sizes)


def _in_openvino(path: Path) -> tuple[int, ...] | None:
    """The sizes at a batch of 1 of what picks along (B, n) scores."""
    from tavt_kit.runtimes.available import openvino_core

    model = openvino_core().read_model(path)
    shape = [
        1,
        *(size.get_length() if size.is_static else -1 for size in list(model.inputs[0].get_partial_shape())[1:]),
    ]
    if -1 in shape:
        return None
    model.reshape({0: shape})
    sizes: dict[str, list[Any]] = {"min": [], "max": []}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "TopK" and node.input(0).get_partial_shape().rank == 2:
            given = node.get_attributes()
            if given["axis"] in (1, -1):
                sizes[given["mode"]].append(node.output(0).get_partial_shape()[1])
    # A stable sort is a TopK of everything; how many of it stay shows where their indices are put in order.
    found = sizes["min"] or sizes["max"]
    if not found or any(size.is_dynamic for size in found):
        return None
    return tuple(size.get_length() for size in found)


def _wanted(card: ArtifactCard) -> tuple[int, ...]:
    """Patches that stay after each layer that drops some."""
    counts, runs = card.schedule.counts, card.schedule.runs
    executed = [count for layer, count in enumerate(counts) if runs(layer)]
    before = [card.tokens, *executed[:-1]]
    return tuple(count - card.prefix for count, old in zip(executed, before, strict=True) if count < old)


def _holds(kept: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the choices are among those found, in order: a family may have choices of its own beside them.

    The last one may be missing: a head that reads only the class token makes none in the last layer.
    """
    if len(kept) == len(wanted) and tuple(kept[:-1]) == tuple(wanted[:-1]):
        return kept[-1] == wanted[-1]
    rest = iter(kept)
    return all(count in rest for count in wanted[:-1])


def _list(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) or "none"
