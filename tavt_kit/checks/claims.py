"""What an artifact's card says of it, against what is found: a false card fails whatever the answers are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tavt_kit.checks.source import Source
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import RecordError


def false_claim(
    card: ArtifactCard,
    source: Source,
    *,
    stored: str | None = None,
    executed: TargetDevice | None = None,
    choice: TokenChoice | None = None,
) -> str:
    """One clause of the first thing that is not as the card says, or nothing.

    The weights are ``stored`` in a precision, and what really ran was ``executed`` in one, where they are known.
    """
    made_from, present = card.model.weights_sha256, source.card.weights_sha256
    if made_from and present and made_from != present:
        return (
            f"it was made from other weights ({made_from[:8]}...) than those it is checked against ({present[:8]}...); "
            "export it again, or check it against the run it was made from"
        )
    own, wanted = card.preprocessing, source.card.preprocessing
    if odd := sorted(name for name in {*own, *wanted} if own.get(name) != wanted.get(name)):
        differences = "; ".join(f"{name} {own.get(name)} instead of {wanted.get(name)}" for name in odd)
        return f"it prepares images in another way than its source ({differences})"
    # Of a quantized file the precision that ran tells more.
    if stored is not None and card.precision in ("f32", "f16") and stored != card.precision:
        return f"its card says {card.precision}, but most of its weights are stored in {stored}"
    is_int8 = card.precision == "int8"
    # A GPU or NPU does not say in what it computes; there the card is believed.
    if executed is not None and executed.is_cpu and is_int8 != (executed.precision == "int8"):
        return f"its card says {card.precision}, but most of its matrix products ran in {executed.precision}"
    if is_int8 and (card.calibration is None or not card.calibration.get("images")):
        return "it is int8, but its card names no images that its ranges were calibrated on"
    if is_int8 and card.calibration is not None and card.calibration.get("split") == source.split:
        return (
            f"it was calibrated on the {source.split} split, which checks it here; an accuracy on these images says "
            "nothing of others"
        )
    return "" if choice is None else choice.reason


_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1}


def stored_precision(path: Path) -> str | None:
    """``f32 f16 bf16 int8``: that of most weights; ``None`` of a file that is neither ``.onnx`` nor ``.xml``.

    Quantized ONNX files may keep their weights in f32 and round them when they are loaded.

    Raises:
        RecordError: The file is damaged.
    """
    try:
        weights = _stored_precisions(path)
    except (ElementTree.ParseError, ValueError) as error:
        raise RecordError(f"{path} is damaged ({error}); export it again") from None
    return weights.most_common(1)[0][0] if weights else None


def _stored_precisions(path: Path) -> Counter[str]:
    """How many weights a file has in each."""
    weights: Counter[str] = Counter()
    if path.suffix == ".onnx":
        import onnx
        from google.protobuf.message import DecodeError

        kinds = {"FLOAT": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "INT8": "int8", "UINT8": "int8"}
        by_number = {getattr(onnx.TensorProto, name): kind for name, kind in kinds.items()}
        try:
            graph = onnx.load(str(path), load_external_data=False).graph
        except DecodeError as error:
            raise ValueError(str(error)) from None
        constants = (attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t"))
        for tensor in (*graph.initializer, *constants):
            if tensor.data_type in by_number:
                weights[by_number[tensor.data_type]] += math.prod(tensor.dims)
    elif path.suffix == ".xml":
        with path.open("rb") as file:
            for _, layer in ElementTree.iterparse(file, events=("end",)):
                if layer.tag == "layer" and layer.get("type") == "Const" and (data := layer.find("data")) is not None:
                    kind = data.get("element_type", "")
                    if kind in _BYTES:
                        weights["int8" if kind in ("i8", "u8") else kind] += int(data.get("size", "0")) // _BYTES[kind]
    return weights


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """Patches kept by each choice of a graph, where it says so; one clause, where they are not what the card says."""

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
    """How many tokens a file keeps; ``None`` of one that drops nothing, is switchable, or is no graph."""
    readers = {".onnx": _in_onnx, ".xml": _in_openvino}
    if card.is_dense or card.is_switchable or path.suffix not in readers:
        return None
    kept = readers[path.suffix](path)
    counts = [count for layer, count in enumerate(card.schedule.counts) if card.schedule.runs(layer)]
    before = [card.tokens, *counts[:-1]]
    wanted = tuple(count - card.prefix for count, old in zip(counts, before, strict=True) if count < old)
    if kept is None or _holds(kept, wanted):
        return TokenChoice(kept)
    kept_text, said = (", ".join(map(str, each)) or "none" for each in (kept, wanted))
    return TokenChoice(kept, f"it keeps {kept_text} patches, where its card says {said}")


def _in_onnx(path: Path) -> tuple[int, ...] | None:
    """The sizes of the TopK nodes that look for the largest along the second axis; sorts look for the smallest."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path), load_external_data=False)  # sizes are too small to lie in another file
    known = onnx_constants(model.graph)
    sizes = [known.get(node.input[1]) for node in largest_choices(model)]
    if not sizes or any(size is None for size in sizes):
        return None
    return tuple(int(numpy_helper.to_array(size).reshape(-1)[0]) for size in sizes)


def onnx_constants(graph: Any) -> dict[str, Any]:
    """The tensors of an ONNX graph that are known before it runs, by name."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return known


def largest_choices(model: Any) -> list[Any]:
    """The TopK nodes of an ONNX model that look for the largest along the second axis, in order."""
    nodes = []
    for node in model.graph.node:
        given = {"largest": 1, "axis": -1} | {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "TopK" and given["largest"] == 1 and given["axis"] in (1, -1):
            nodes.append(node)
    return nodes


_ANY_SIDE = 64  # pixels a side, for a file that takes images of any size


def _in_openvino(path: Path) -> tuple[int, ...] | None:
    """The sizes at a batch of 1 of what picks along (B, n) scores."""
    from tavt_kit.runtimes.on_openvino import openvino_core

    model = openvino_core().read_model(path)
    sides = list(model.inputs[0].get_partial_shape())[1:]
    model.reshape({0: [1, *(size.get_length() if size.is_static else _ANY_SIDE for size in sides)]})
    sizes: dict[str, list[Any]] = {"min": [], "max": []}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "TopK" and node.input(0).get_partial_shape().rank == 2:
            given = node.get_attributes()
            if given["axis"] in (1, -1):
                sizes[given["mode"]].append(node.output(0).get_partial_shape()[1])
    # A stable sort is a TopK of everything; how many of it stay shows where their indices are put in order.
    chosen = sizes["min"] or sizes["max"]
    if not chosen or any(size.is_dynamic for size in chosen):
        return None
    return tuple(size.get_length() for size in chosen)


def _holds(kept: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the choices are among those found, in order: a family may have choices of its own beside them.

    The last one may be missing: a head that reads only the class token makes none in the last layer.
    """
    if len(kept) == len(wanted) and tuple(kept[:-1]) == tuple(wanted[:-1]):
        return kept[-1] == wanted[-1]
    rest = iter(kept)
    return all(count in rest for count in wanted[:-1])
