"""ONNX for TensorRT: operators it parses, and the command that builds an engine. Unverified: no device was at hand.

The list is a part of what onnx-tensorrt's ``docs/operators.md`` has called supported since TensorRT 8.4, with
``LayerNormalization``, which came with 8.6: layer norms stay one node. Kept positions are sorted by a TopK over int64,
which takes TensorRT 10.
"""

from __future__ import annotations

import shlex
from typing import Any

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.errors import ExportError

OPERATORS = frozenset(
    "Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos "
    "DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm "
    "GlobalAveragePool Greater GreaterOrEqual HardSigmoid Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Less LessOrEqual Log MatMul Max MaxPool Min Mul Neg Not Or Pad Pow QuantizeLinear Range "
    "ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize ScatterElements ScatterND Shape Sigmoid "
    "Sign Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where".split()
)


def refuse_operators(model: Any) -> None:
    """Return if TensorRT should take the graph.

    Args:
        model: An ``onnx.ModelProto``.

    Raises:
        ExportError: It holds an operator that is not on the list, which is named with its node, or a layer norm that
            fell apart.
    """
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise ExportError(
                f"TensorRT is not known to take operator {name} (node {node.name or 'without a name'}); choose another "
                "precision, `exporter` tracing and `opset` 17, or leave out `for` tensorrt"
            )


def trtexec_line(file: str, card: ArtifactCard) -> str:
    """The command that builds an engine from a file for batches 1 to 16, on a machine with TensorRT.

    Types are taken from the graph (``--stronglyTyped``), so that f16 and int8 are what the file says.
    """
    height, width = card.image_size
    shapes = {key: f"images:{batch}x3x{height}x{width}" for key, batch in (("min", 1), ("opt", 4), ("max", 16))}
    ranges = [f"--{key}Shapes={shape}" for key, shape in shapes.items()]
    engine = file.removesuffix(".onnx") + ".engine"
    return shlex.join(["trtexec", f"--onnx={file}", *ranges, "--stronglyTyped", f"--saveEngine={engine}"])
