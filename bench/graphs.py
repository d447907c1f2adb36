"""Parts and whole passes of a model as graphs of a runtime, converted once and in int8 where that is asked for.

Int8 is calibrated on random data: what a product takes does not hang on its values, so the times are those of a file
calibrated on pictures, but the answers of such a graph mean nothing. It never leaves the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tavt_kit.bench.parts import DropPart, Part
from tavt_kit.bench.table_plan import Array, TablePlan
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError
from tavt_kit.models.wrap import AdaptiveViT, LeanViT

__all__ = ["CALIBRATION", "Graphs", "calibration_of", "module_graph", "whole_graph"]

CALIBRATION = "random data: good for times, not for answers"
"""What records say of int8 in a latency table."""


def calibration_of(target: TargetDevice) -> str | None:
    """What a table's record says of its int8; ``None`` in floating point."""
    return CALIBRATION if target.precision == "int8" else None


class Graphs:
    """The parts of a plan as ``openvino.Model`` or ``.onnx`` bytes, each converted when it is first asked for."""

    def __init__(self, parts: Mapping[str, Part], plan: TablePlan) -> None:
        self._parts, self._plan, self._made = parts, plan, dict[str, Any]()

    def __call__(self, name: str) -> Any:
        """The graph of a part, open in batch and length; a DropPart's number of kept tokens is its first input."""
        if name not in self._made:
            cell, arrays = self._plan.example(name)
            kept = cell.kept if isinstance(self._parts[name], DropPart) else None
            self._made[name] = _graph(self._parts[name], arrays, kept, self._plan.target)
        return self._made[name]


def whole_graph(model: AdaptiveViT, schedule: TokenSchedule, target: TargetDevice) -> Any:
    """The model under one schedule by the lean path, as ``openvino.Model`` or ``.onnx`` bytes with an open batch."""
    selection: Any = "topk" if target.runtime == "onnxruntime" else "argsort"
    lean = LeanViT(model, schedule, selection=selection).eval()
    return module_graph(lean, model.backbone.image_size, target)


def module_graph(module: torch.nn.Module, image_size: tuple[int, int], target: TargetDevice) -> Any:
    """Any model of images (B, 3, H, W), as ``whole_graph``."""
    images = np.random.default_rng(0).standard_normal((1, 3, *image_size), dtype=np.float32)
    return _graph(module, [images], None, target)


def _graph(module: torch.nn.Module, arrays: Sequence[Array], kept: int | None, target: TargetDevice) -> Any:
    tensors = [torch.from_numpy(np.repeat(array[:1], 2, axis=0)) for array in arrays]  # one sample would be baked in
    counts = [] if kept is None else [kept]
    if target.runtime == "openvino":
        graph: Any = _to_openvino(module, tensors, counts)
    else:
        graph = _to_onnx(module, tensors, counts)
    if target.precision != "int8":
        return graph
    feeds = [*(np.array(count, dtype=np.int64) for count in counts), *(array[:1] for array in arrays)]
    return _quantized(graph, feeds)


def _quantized(graph: Any, feeds: Sequence[Array]) -> Any:
    """The graph in int8, by the settings of shipped files."""
    if not isinstance(graph, bytes):
        from tavt_kit.exporters.quantize import quantize_fed

        return quantize_fed(graph, [dict(enumerate(feeds))], smooth=True)
    import onnx

    from tavt_kit.exporters.narrow_onnx import quantize_statically_fed

    model = onnx.load_from_string(graph)
    names = [one.name for one in model.graph.input]
    made: bytes = quantize_statically_fed(model, [dict(zip(names, feeds, strict=True))]).SerializeToString()
    return made


def _to_openvino(module: torch.nn.Module, tensors: Sequence[torch.Tensor], counts: Sequence[int]) -> Any:
    from tavt_kit.runtimes.on_openvino import convert_module

    shapes: list[tuple[int, ...]] = [(), *map(_open_shape, tensors)] if counts else [*map(_open_shape, tensors)]
    return convert_module(module, (*map(torch.tensor, counts), *tensors), shapes)


def _to_onnx(module: torch.nn.Module, tensors: Sequence[torch.Tensor], counts: Sequence[int]) -> bytes:
    from tavt_kit.runtimes.onnx_graph import module_to_onnx

    names = [f"input{place}" for place in range(len(tensors))]
    axes = {
        name: {place: ("batch", "tokens")[place] for place, size in enumerate(_open_shape(tensor)) if size == -1}
        for name, tensor in zip(names, tensors, strict=True)
    }
    example = (*map(torch.tensor, counts), *tensors)
    graph = module_to_onnx(module, example, [*["kept" for _ in counts], *names], axes)
    _try(graph, [*(np.array(count, dtype=np.int64) for count in counts), *(one[:1].numpy() for one in tensors)])
    return graph


def _try(graph: bytes, feeds: Sequence[Array]) -> None:
    """Run a graph once on a batch that it was not traced with: of some operators torch writes what cannot run.

    Raises:
        ExportError: It does not run.
    """
    from tavt_kit.runtimes.on_onnxruntime import open_session, run_clock

    try:
        run_clock(open_session(graph, TargetDevice("onnxruntime", "cpu")), feeds)()
    except Exception as error:  # onnxruntime's own exception classes have no common parent but this
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ExportError(
            f"onnxruntime cannot run what torch wrote of the model as ONNX ({reason}); choose target openvino or torch"
        ) from error


def _open_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Images are open in their batch, tokens and places in batch and length."""
    return (-1, *tensor.shape[1:]) if tensor.dim() == 4 else (-1, -1, *tensor.shape[2:])
