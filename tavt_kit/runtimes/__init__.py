"""Run a model on a TargetDevice: modules anywhere, files through onnxruntime or OpenVINO, without torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tavt_kit.core.device import RUNTIMES, TargetDevice
from tavt_kit.errors import DataError, ExportError, TargetError, first_line
from tavt_kit.runtimes.available import Runtime, check_available, runtime_of
from tavt_kit.runtimes.session import FileSession, Images, Lengths, Session

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FileSession", "Images", "Lengths", "Runtime", "Session", "check_available", "open_file", "open_module",
    "runtime_of", "runtimes_of", "to_graph",
]  # fmt: skip


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
    runtime, begin, model = runtime_of(target.runtime), time.perf_counter(), module
    if runtime.takes != "modules":
        if target.precision == "int8":
            raise TargetError(
                f"int8 needs an exported, calibrated file, got a live model for {target}; "
                "export it first (fgvc-kit export `precision` int8) and pass the file"
            )
        image = np.random.default_rng(0).random((1, *example_shape[1:]), dtype=np.float32)
        model = to_graph(module, [image], None, runtime.takes)
    return runtime.open(model, target, begin, example_shape)


def to_graph(module: nn.Module, inputs: Sequence[npt.NDArray[Any]], kept: int | None, form: str) -> Any:
    """A module in f32 as the bytes of an ``.onnx`` file or an ``openvino.Model``, of images, or of tokens and places.

    Args:
        inputs: An example of each, whose first sample is looked at. The batch stays open, and of what is no image
            (B, 3, H, W) the number of tokens.
        kept: How many tokens a part keeps that takes this as its first input.
        form: ``"onnx"`` or ``"openvino"``.

    Raises:
        ExportError: It cannot be converted, or not to what runs.
    """
    import torch

    examples = [torch.from_numpy(np.repeat(array[:1], 2, axis=0)) for array in inputs]  # one sample would be baked in
    shapes = [(-1, *example.shape[1:]) if example.dim() == 4 else (-1, -1, *example.shape[2:]) for example in examples]
    counts = [] if kept is None else [torch.tensor(kept)]
    if form == "openvino":
        from tavt_kit.runtimes.on_openvino import convert_module

        return convert_module(module, (*counts, *examples), [*(() for _ in counts), *shapes])
    from tavt_kit.runtimes.on_onnxruntime import module_to_onnx, open_session, run_clock

    axes = {
        f"input{index}": {axis: ("batch", "tokens")[axis] for axis, size in enumerate(shape) if size == -1}
        for index, shape in enumerate(shapes)
    }
    graph = module_to_onnx(module, (*counts, *examples), [*("kept" for _ in counts), *axes], axes)
    feeds = [*(count.numpy() for count in counts), *(array[:1] for array in inputs)]
    try:  # once, on a batch that it was not traced with: of some operators torch writes what cannot run
        run_clock(open_session(graph, TargetDevice("onnxruntime", "cpu")), feeds)()
    except Exception as error:  # onnxruntime's own exception classes have no common parent but this
        raise ExportError(
            f"onnxruntime cannot run what torch wrote of the model as ONNX ({first_line(error)}); choose target "
            "openvino or torch"
        ) from error
    return graph


def open_file(path: Path, target: TargetDevice, lengths: Lengths | None = None) -> FileSession:
    """Make an exported model ready: ``.onnx`` on onnxruntime, ``.xml`` on OpenVINO (which reads .onnx too).

    Raises:
        DataError: There is no such file, or it is damaged.
        TargetError: The target is not on this machine, or its runtime cannot read this kind of file.
        ScheduleError: Counts are missing, not wanted, or such as the graph cannot run.
    """
    path, runtime = Path(path), runtime_of(target.runtime)
    if path.suffix not in runtime.files:
        able = runtimes_of(path.suffix)
        advice = f"choose {' or '.join(able)}" if able else "a model file ends in .onnx or .xml"
        raise TargetError(f"{target.runtime} cannot run {path.name}; {advice}")
    if not path.is_file():
        raise DataError(f"there is no model file {path}; export one first (fgvc-kit export)")
    check_available(target)
    return runtime.open_file(path, target, lengths)


def runtimes_of(suffix: str) -> list[str]:
    """The runtimes that open files with this ending."""
    return [name for name in RUNTIMES if suffix in runtime_of(name).files]
