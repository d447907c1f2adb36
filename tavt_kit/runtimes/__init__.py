"""Run a model on a TargetDevice: modules anywhere, files through onnxruntime or OpenVINO, without torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import DataError, TargetError
from tavt_kit.runtimes.available import check_available
from tavt_kit.runtimes.session import FileSession, Images, Lengths, Session

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FileSession", "Images", "Lengths", "Session", "check_available", "open_file", "open_module"]


def open_module(module: nn.Module, target: TargetDevice, example_shape: tuple[int, int, int, int]) -> Session:
    """Make a torch module ready to be timed. The module itself is not changed.

    Args:
        module: Maps images (B, 3, H, W) to logits (B, classes); a ``LeanViT`` for onnxruntime selects by TopK.
        example_shape: (B, 3, H, W) of the images to come; the batch may differ later.

    Raises:
        TargetError: The target is not on this machine, or cannot run a module in this precision.
        ExportError: OpenVINO or torch's ONNX exporter cannot convert the module.
    """
    check_available(target)
    if target.runtime == "torch":
        from tavt_kit.runtimes.on_torch import TorchSession

        return TorchSession(module, target, example_shape)
    if target.precision == "int8":
        raise TargetError(
            f"int8 needs an exported, calibrated file, got a live model for {target}; "
            "export it first (fgvc-kit export `precision` int8) and pass the file"
        )
    import torch

    begin = time.perf_counter()
    example = torch.rand((max(2, example_shape[0]), *example_shape[1:]))  # a batch of one would be baked in
    if target.runtime == "onnxruntime":  # written in memory
        from tavt_kit.runtimes.on_onnxruntime import OnnxSession, module_to_onnx

        graph = module_to_onnx(module, [example], ["images"], {"images": {0: "batch"}})
        return OnnxSession(graph, target, begin=begin)
    from tavt_kit.runtimes.on_openvino import OpenvinoSession, convert_module

    model = convert_module(module, (example,), [(-1, *example_shape[1:])])
    return OpenvinoSession(model, target, begin, of_file=False)


def open_file(path: Path, target: TargetDevice, lengths: Lengths | None = None) -> FileSession:
    """Make an exported model ready: ``.onnx`` on onnxruntime, ``.xml`` on OpenVINO (which reads .onnx too).

    Raises:
        DataError: There is no such file, or it is damaged.
        TargetError: The target is not on this machine, or its runtime cannot read this kind of file.
        ScheduleError: Counts are missing, not wanted, or such as the graph cannot run.
    """
    path = Path(path)
    kinds = {"onnxruntime": (".onnx",), "openvino": (".xml", ".onnx"), "torch": ()}[target.runtime]
    if path.suffix not in kinds:
        runs_on = {".onnx": "onnxruntime or openvino", ".xml": "openvino"}.get(path.suffix)
        advice = f"choose {runs_on}" if runs_on else "a model file ends in .onnx or .xml"
        raise TargetError(f"{target.runtime} cannot run {path.name}; {advice}")
    if not path.is_file():
        raise DataError(f"there is no model file {path}; export one first (fgvc-kit export)")
    check_available(target)
    if target.runtime == "onnxruntime":
        from tavt_kit.runtimes.on_onnxruntime import OnnxSession

        return OnnxSession(path, target, lengths)
    from tavt_kit.runtimes.on_openvino import open_openvino_file

    return open_openvino_file(path, target, lengths)
