"""Which part of the model each node of a runtime's graph belongs to: by its names, else by what it reads from.

A runtime fuses, splits and renames what an exporter wrote; what is left of the names is

    /layer.3/attn/qkv/MatMul                                   the scopes of ``part_scope``, in ONNX
    __module.adaptive.blocks.3.norm1/aten::layer_norm/MVN      modules, in OpenVINO
    adaptive.blocks.3.norm1.weight                             weights; a node that alone reads one is of its layer

ONNX files of torch's other exporter, and those from before there were such scopes, have the last ones only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tavt_kit.core.part_names import HEAD, OTHER, STEM

__all__ = ["Node", "Placed", "layers_named", "place"]

_SCOPE = re.compile(r"(?:^|[/:])(?:(stem|head)|layer\.(\d+))/")
_MODULE = re.compile(r"(?<![A-Za-z0-9])adaptive\.(\w+(?:\.\w+)*)")
_LAYER = re.compile(r"(.*\.)?(blocks|NC)\.(\d+)(?:\.|$)")
_OUTSIDE = "outside"  # of the layers: of the stem or of the head, which the graph tells


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph, or a constant.

    Args:
        name: Unique in the graph.
        text: Every name that it carries: its own, and those of what was fused into it.
        inputs: Names of the nodes that it reads, as far as they are nodes.
        constant: Whether it is one, and computes nothing.
    """

    name: str
    text: str
    inputs: tuple[str, ...] = ()
    constant: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """The part of a node.

    Args:
        part: ``stem``, the number of a layer, ``head`` or ``other``.
        by_name: Whether its own names say so, or those of the weights that it reads; else it was placed with what it
            reads from.
    """

    part: str
    by_name: bool


def place(nodes: Sequence[Node]) -> dict[str, Placed]:
    """The part of every node that is no constant, by its name.

    A node that names one part belongs to it; one that names two (fused across a border) to ``other``. One that names
    none belongs to the last part whose result it reads: attention between two named norms, the sum after the MLP. What
    reads from nothing named is ``other``. A constant that several nodes read says nothing of them: exporters keep one
    of equal weights, under the name of the first.

    Args:
        nodes: In an order in which each comes after what it reads.
    """
    readers = Counter(name for node in nodes for name in set(node.inputs))
    container = _container(nodes)
    said: dict[str, frozenset[str]] = {}
    constant: dict[str, bool] = {}
    found: dict[str, Placed] = {}
    for node in nodes:
        own = _named(node.text, container)
        fixed = [name for name in node.inputs if constant.get(name, False)]
        data = [found[name].part for name in node.inputs if name in found]
        constant[node.name] = node.constant or (bool(fixed) and len(fixed) == len(node.inputs))
        said[node.name] = own or frozenset().union(*(said[name] for name in fixed if readers[name] == 1))
        if not node.constant:
            placed = _placed(said[node.name], data)
            twin = found.get(node.name, placed)  # profiles know nodes by their names, and would add the two up
            found[node.name] = placed if twin.part == placed.part else Placed(OTHER, False)
    return found


def _container(nodes: Iterable[Node]) -> str | None:
    """The list of the layers, as a path of modules: of several (stages), the last one that the graph comes to."""
    last = None
    for node in nodes:
        for path in _MODULE.findall(node.text):
            if match := _LAYER.match(path):
                last = f"{match[1] or ''}{match[2]}."
    return last


def _named(text: str, container: str | None) -> frozenset[str]:
    """The parts that the names of a node name."""
    parts = {match[1] or match[2] for match in _SCOPE.finditer(text)}
    for path in _MODULE.findall(text):
        inside = container is not None and path.startswith(container)
        parts.add(path[len(container or "") :].partition(".")[0] if inside else _OUTSIDE)
    if parts & {STEM, HEAD}:
        parts.discard(_OUTSIDE)
    return frozenset(parts)


def _placed(parts: frozenset[str], data: Sequence[str]) -> Placed:
    known = [part for part in data if part != OTHER]
    if len(parts) > 1:
        return Placed(OTHER, True)
    if parts == {_OUTSIDE}:
        return Placed(HEAD if any(part != STEM for part in known) else STEM, True)
    if parts:
        return Placed(next(iter(parts)), True)
    return Placed(max(known, key=_depth, default=OTHER), False)


def _depth(part: str) -> float:
    """Where a part stands in the model."""
    if part == STEM:
        return -1.0
    return math.inf if part == HEAD else int(part)


def layers_named(placed: Mapping[str, Placed]) -> set[int]:
    """The layers that some node names."""
    return {int(one.part) for one in placed.values() if one.by_name and one.part.isdigit()}
