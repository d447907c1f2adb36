"""What an exported file answers when its choices of tokens get scores that tie, and the same ones with ties resolved.

The scores of a choice over n tokens are 0 for even positions and -1 for odd ones, so that they tie in halves; resolved,
every position has its own, in the same order: whole numbers up to 2 n, which half precision holds exactly. Where of
equal scores the first stay, both give the same logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tavt_kit.core.device import TargetDevice
from tavt_kit.runtimes.on_onnxruntime import open_session
from tavt_kit.runtimes.on_openvino import compile_for, openvino_core

_STEPS = (
    ("Shape", "@", "shape"), ("Gather", "shape", "one", "n"), ("Range", "zero", "n", "one", "row"),
    ("Mod", "row", "two", "odd"), ("Sub", "n", "one", "less"), ("Mul", "odd", "less", "spread"),
    ("Add", "spread", "row", "finer"), ("Mul", "finer", "resolved", "added"), ("Add", "odd", "added", "level"),
    ("Neg", "level", "down"), ("CastLike", "down", "@", "pattern"), ("Sub", "@", "@", "nothing"),
    ("Add", "nothing", "pattern", "scores"),
)  # fmt: skip
"""Operators with their inputs and output; ``@`` are the scores of the graph, (B, n)."""


def tied_and_resolved(
    path: Path, target: TargetDevice, images: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The logits (B, classes) under tied and under resolved scores, of an ``.onnx`` or ``.xml`` file on a target."""
    tied, resolved = (_openvino if target.runtime == "openvino" else _onnx)(path, target, images)
    return tied, resolved


def _onnx(path: Path, target: TargetDevice, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    model = onnx.load(str(path))
    graph = model.graph
    for place, choice in enumerate([node for node in graph.node if node.op_type == "TopK" and _largest(node)]):
        names, at = {"@": choice.input[0], "resolved": "resolved"}, list(graph.node).index(choice)
        nodes = []
        for label, value in (("zero", 0), ("one", 1), ("two", 2)):
            names[label] = f"made_{place}_{label}"
            tensor = numpy_helper.from_array(np.asarray(np.int64(value)))
            nodes.append(helper.make_node("Constant", [], [names[label]], value=tensor))
        for kind, *inputs, output in _STEPS:
            given = [names[one] for one in inputs]
            names[output] = f"made_{place}_{output}"
            nodes.append(helper.make_node(kind, given, [names[output]]))
        for node in reversed(nodes):
            graph.node.insert(at, node)
        choice.input[0] = names["scores"]
    graph.input.append(helper.make_tensor_value_info("resolved", TensorProto.INT64, []))
    session = open_session(model.SerializeToString(), target)
    image = session.get_inputs()[0].name
    return [session.run(None, {image: images, "resolved": np.array(on, np.int64)})[0] for on in (0, 1)]


def _largest(node: Any) -> bool:
    given = {one.name: one.i for one in node.attribute}
    return given.get("largest", 1) == 1 and given.get("axis", -1) in (1, -1)


def _openvino(path: Path, target: TargetDevice, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    from openvino import opset13 as ops

    def whole(value: int) -> Any:
        return ops.constant(value, np.int64)

    model: Any = openvino_core().read_model(path)
    resolved = ops.parameter([], np.int64, name="resolved")
    for choice in model.get_ordered_ops():
        if choice.get_type_name() != "TopK" or choice.get_attributes()["mode"] != "max":
            continue
        if choice.input(0).get_partial_shape().rank != 2:  # a family may pick along others
            continue
        scores = choice.input_value(0)
        n = ops.gather(ops.shape_of(scores), whole(1), whole(0))
        row = ops.range(whole(0), n, whole(1), output_type="i64")
        odd = ops.mod(row, whole(2))
        finer = ops.add(ops.multiply(odd, ops.subtract(n, whole(1))), row)
        level = ops.add(odd, ops.multiply(finer, resolved))
        pattern = ops.convert_like(ops.multiply(level, whole(-1)), scores)
        choice.input(0).replace_source_output(ops.add(ops.subtract(scores, scores), pattern).output(0))
    model.add_parameters([resolved])
    model.validate_nodes_and_infer_types()
    compiled = compile_for(model, target)
    return [compiled({0: images, 1: np.array(on, np.int64)})[0].copy() for on in (0, 1)]
