"""Packs: one zip with graphs and the runner that measures them on a device without torch and without this package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tavt_kit.bench.edge import GRAPHS, PACK_FILE, WEIGHTS_FILE
from tavt_kit.bench.latency_table import plan_table
from tavt_kit.bench.parts import Graphs, whole_graph
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.progress import Progress
from tavt_kit.core.records import atomic_path, label_record, sha256_file
from tavt_kit.errors import TargetError
from tavt_kit.models.wrap import AdaptiveViT

CARRIED = (
    "tavt_kit", "bench", "bench.edge", "bench.protocol", "bench.timing",
    "core", "core.accuracy", "core.artifact_card", "core.budget", "core.callable_module",
    "core.codec", "core.device", "core.host", "core.latency_table",
    "core.latency_bounds", "core.layout", "core.measurement", "core.model_card",
    "core.parsing", "core.records", "core.schedule", "errors",
    "runtimes", "runtimes.available", "runtimes.on_onnxruntime", "runtimes.on_openvino", "runtimes.session",
)  # fmt: skip
"""The modules that measure: what the runner imports, and no more."""

_MAIN = '''"""Measure on this machine: python {name} --help"""

import sys


def refuse(sentence):
    sys.stderr.write("{name}: " + sentence + "\\n")
    sys.exit(2)


if sys.version_info < (3, 11):
    refuse("this pack needs Python 3.11 or newer, not " + sys.version.split()[0])

from importlib.util import find_spec

for package in ("numpy", "{runtime}"):
    if find_spec(package) is None:
        refuse("this pack needs the package " + package + "; install it (pip install " + package + ")")

from tavt_kit.bench.edge import main

sys.exit(main(sys.argv[0], sys.argv[1:]))
'''


def refuse_live(target: TargetDevice) -> None:
    """Raise TargetError for a target whose models are no graphs that could be packed."""
    if target.runtime == "torch":
        raise TargetError(
            f"a pack runs without torch, so it is made for onnxruntime or openvino, got {target}; measure torch on its "
            "own machine (fgvc-kit profile)"
        )


def pack_profile(
    model: AdaptiveViT, target: TargetDevice, path: Path, *, name: str, progress: Progress, points: int = 12
) -> str:
    """Write a pack whose runner measures the latency table of a model; its SHA-256.

    Args:
        target: Where it will be measured; threads that it does not name are the device's.

    Raises:
        TargetError: The target is torch.
        ExportError: A part cannot be converted.
        OutputError: The zip cannot be written.
    """
    refuse_live(target)
    parts, plan = plan_table(model, target, name=name, points=points)
    graphs = Graphs(parts.parts, plan)
    with tempfile.TemporaryDirectory(prefix="fgvc-kit-pack-") as temporary:
        files, folder = dict[str, str](), GraphFolder(Path(temporary))
        for part in dict.fromkeys(cell.part for cell in plan.cells):
            progress.update(f"converting {part}")
            files[part] = folder.add(part, graphs(part))
        wholes = []
        for index, schedule in enumerate(plan.wholes):
            progress.update(f"converting whole pass {index + 1} of {len(plan.wholes)}")
            wholes.append(folder.add(f"whole{index}", whole_graph(model, schedule, target)))
        record = {"plan": plan.as_record(), "graphs": files, "wholes": wholes}
        return _zip(path, Path(temporary), record, target)


def _zip(path: Path, graphs: Path, record: Mapping[str, Any], target: TargetDevice) -> str:
    files = {f"{GRAPHS}/{file.name}": file for file in sorted(graphs.iterdir())}
    digests = {name: sha256_file(file) for name, file in files.items()}
    body = label_record("pack", {**record, "files": digests})
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w") as zipped:  # stored: weights do not shrink
            zipped.writestr("__main__.py", _MAIN.format(name=path.name, runtime=target.runtime))
            zipped.writestr(PACK_FILE, json.dumps(body, indent=1, allow_nan=False))
            for name in CARRIED:
                full = name if name == "tavt_kit" else f"tavt_kit.{name}"
                spec = importlib.util.find_spec(full)
                assert spec is not None and spec.origin is not None  # our own modules are there
                ending = "/__init__.py" if Path(spec.origin).name == "__init__.py" else ".py"
                zipped.writestr(full.replace(".", "/") + ending, Path(spec.origin).read_bytes())
            for name, file in files.items():
                zipped.write(file, name)
        digest = sha256_file(temporary)
    return digest


_ALIGN = 64  # Bytes that runtimes want a mapped tensor to begin at a multiple of
_SMALL = 1024  # Bytes up to which a tensor stays in its ONNX graph


class GraphFolder:
    """Writes graphs into a folder that shares its weights."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._places, self._end = folder, dict[str, int](), 0
        (folder / WEIGHTS_FILE).touch()

    def add(self, name: str, graph: Any) -> str:
        """Write one graph, and the weights that are not there yet; the file's name.

        Args:
            graph: An ``openvino.Model``, or the bytes of an ``.onnx`` file.
        """
        path = self._folder / (f"{name}.onnx" if isinstance(graph, bytes) else f"{name}.xml")
        if isinstance(graph, bytes):
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
            return path.name
        import openvino

        openvino.save_model(graph, path, compress_to_fp16=False)
        own = path.with_suffix(".bin")
        weights, tree = own.read_bytes(), ElementTree.parse(path)
        for layer in tree.iter("layer"):
            held_data = layer.find("data") if layer.get("type") == "Const" else None
            if held_data is not None:
                offset, size = int(held_data.attrib["offset"]), int(held_data.attrib["size"])
                held_data.set("offset", str(self._place(weights[offset : offset + size])))
        tree.write(path)
        own.unlink()
        return path.name

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
