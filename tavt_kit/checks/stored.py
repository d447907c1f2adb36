"""In what an exported file stores its weights, read off the file itself."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1}
_NAMES = {"i8": "int8", "u8": "int8"}


def stored_precision(path: Path) -> str | None:
    """``f32 f16 bf16 int8``: that of most weights; ``None`` of a file that is neither ``.onnx`` nor ``.xml``.

    Quantized ONNX files may keep their weights in f32 and round them when they are loaded.
    """
    found = {".onnx": _onnx, ".xml": _openvino}.get(path.suffix, lambda _: Counter[str]())(path)
    return found.most_common(1)[0][0] if found else None


def _openvino(path: Path) -> Counter[str]:
    """Elements of each type among the constants of a graph."""
    found: Counter[str] = Counter()
    for _, layer in ElementTree.iterparse(path, events=("end",)):
        if layer.tag == "layer" and layer.get("type") == "Const" and (data := layer.find("data")) is not None:
            kind = data.get("element_type", "")
            if kind in _BYTES:
                found[_NAMES.get(kind, kind)] += int(data.get("size", "0")) // _BYTES[kind]
    return found


def _onnx(path: Path) -> Counter[str]:
    """Elements of each type among initializers and constants; weights that lie in another file are not read."""
    import onnx
    from onnx import TensorProto

    kinds = {
        TensorProto.FLOAT: "f32",
        TensorProto.FLOAT16: "f16",
        TensorProto.BFLOAT16: "bf16",
        TensorProto.INT8: "int8",
        TensorProto.UINT8: "int8",
    }
    graph = onnx.load(str(path), load_external_data=False).graph
    tensors = [*graph.initializer, *(one.t for node in graph.node for one in node.attribute if one.HasField("t"))]
    found: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.data_type in kinds:
            found[kinds[tensor.data_type]] += math.prod(tensor.dims)
    return found
