"""Many graphs of one model in one folder: every weight is written once, to a file that all of them refer to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

WEIGHTS_FILE = "weights.bin"

_ALIGN = 64
"""Bytes that runtimes want a mapped tensor to begin at a multiple of."""

_SMALL = 1024
"""Bytes up to which a tensor stays in its ONNX graph."""


class GraphFolder:
    """Writes graphs into a folder that shares its weights.

    Args:
        folder: Empty; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._places, self._end = folder, dict[str, int](), 0
        (folder / WEIGHTS_FILE).touch()

    def add(self, name: str, graph: Any) -> str:
        """Write one graph, and the weights that are not there yet; the file's name.

        Args:
            name: Without suffix.
            graph: An ``openvino.Model``, or the bytes of an ``.onnx`` file.
        """
        file = f"{name}.onnx" if isinstance(graph, bytes) else f"{name}.xml"
        write = self._add_onnx if isinstance(graph, bytes) else self._add_openvino
        write(self._folder / file, graph)
        return file

    def _add_onnx(self, path: Path, graph: bytes) -> None:
        import onnx
        from onnx.external_data_helper import set_external_data

        model = onnx.load_from_string(graph)
        for tensor in model.graph.initializer:
            data = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(data) <= _SMALL:
                continue
            tensor.raw_data = data  # what set_external_data wants, however the values were held
            set_external_data(tensor, WEIGHTS_FILE, offset=self._place(data), length=len(data))
            for held in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(held)
        path.write_bytes(model.SerializeToString())

    def _add_openvino(self, path: Path, graph: Any) -> None:
        import openvino

        openvino.save_model(graph, path, compress_to_fp16=False)
        own = path.with_suffix(".bin")
        weights, tree = own.read_bytes(), ElementTree.parse(path)
        for layer in tree.iter("layer"):
            held = layer.find("data") if layer.get("type") == "Const" else None
            if held is not None:
                offset, size = int(held.attrib["offset"]), int(held.attrib["size"])
                held.set("offset", str(self._place(weights[offset : offset + size])))
        tree.write(path)
        own.unlink()

    def _place(self, data: bytes) -> int:
        """Where a tensor's bytes begin in the file of weights; they are appended if they are new."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self._places:
            self._end += -self._end % _ALIGN
            with (self._folder / WEIGHTS_FILE).open("r+b") as file:
                file.seek(self._end)
                file.write(data)
            self._places[key] = self._end
            self._end += len(data)
        return self._places[key]
