"""onnxruntime as a runtime, and a torch module as the bytes of an .onnx file, for which alone torch is imported.

What is shipped is written by ``exporters.to_onnx``.
"""

from __future__ import annotations

import io
import mmap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import DataError, ExportError, TargetError, first_line
from tavt_kit.runtimes.available import Runtime, runtime_of
from tavt_kit.runtimes.session import LENGTHS, Clock, FileSession, Images, Lengths, PartClocks, Session

if TYPE_CHECKING:
    from torch import nn

_OPSET = 17
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntime(Runtime):
    """``.onnx`` files, whose precision is their own."""

    package, takes, files = "onnxruntime", "onnx", (".onnx",)
    processors = tuple(_PROVIDERS)

    def check(self, target: TargetDevice) -> None:
        import onnxruntime

        provider, available = _PROVIDERS[target.processor], onnxruntime.get_available_providers()
        if provider not in available:
            raise TargetError(
                f"target {target} needs onnxruntime's {provider}, but this build has {', '.join(available)}; "
                "choose onnxruntime:cpu or install onnxruntime-gpu"
            )

    def open(self, model: Any, target: TargetDevice, begin: float, shape: tuple[int, int, int, int]) -> Session:
        return OnnxSession(model, target, begin=begin)

    def open_file(self, path: Path, target: TargetDevice, lengths: Lengths | None) -> FileSession:
        return OnnxSession(path, target, lengths)

    def part_clocks(self, part: Callable[[str], Any], target: TargetDevice) -> PartClocks:
        """One session of each part runs all lengths, as fast as one for a fixed length."""
        session = cache(lambda name: open_session(part(name), target))

        def clock(name: str, inputs: Sequence[npt.NDArray[Any]], kept: int | None) -> Clock:
            return run_clock(session(name), [*([] if kept is None else [np.array(kept, dtype=np.int64)]), *inputs])

        return clock

    def accelerator_name(self, target: TargetDevice) -> str | None:
        return runtime_of("torch").accelerator_name(target)


RUNTIME = OnnxRuntime()


class OnnxSession(FileSession):
    """The file alone decides the precision; asking for another one is refused. ``begin`` is when loading began."""

    def __init__(
        self, source: Path | bytes, target: TargetDevice, lengths: Lengths | None = None, begin: float | None = None
    ) -> None:
        begin = time.perf_counter() if begin is None else begin
        target = target.resolved()
        self._session: Any = open_session(source, target)
        first, *others = self._session.get_inputs()
        output = self._session.get_outputs()[0]
        self._output, self._half = output.name, first.type == "tensor(float16)"
        self.classes = output.shape[-1] if output.shape and isinstance(output.shape[-1], int) else None
        takes_bytes = first.type == "tensor(uint8)"
        pixels = read_metadata(source).pixels if takes_bytes and isinstance(source, Path) else None
        layers = next((each.shape[0] for each in others if each.name == LENGTHS), None)
        target = replace(target, precision=_precision(source, target, self._half))
        super().__init__(target, _name(source), first.shape, layers, lengths, pixels)
        self.load_ms = (time.perf_counter() - begin) * 1e3  # making a session reads and prepares in one step

    def _run(self, inputs: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        feed = {node.name: array for node, array in zip(self._session.get_inputs(), inputs, strict=True)}
        return np.asarray(self._session.run([self._output], feed)[0], dtype=np.float32)

    @property
    def told_threads(self) -> int | None:
        """CPU threads that onnxruntime says it uses for an operator; its 0 is a choice that it does not tell."""
        return int(self._session.get_session_options().intra_op_num_threads) or None if self.target.is_cpu else None

    def timer(self, images: Images) -> Clock:
        return run_clock(self._session, self._inputs(images))

    def _inputs(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        first, *others = super()._inputs(images)
        return [first.astype(np.float16) if self._half else first, *others]


def open_session(source: Path | bytes, target: TargetDevice) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file or of its bytes.

    Raises:
        DataError: onnxruntime cannot read it.
        TargetError: The target's provider does not load here.
    """
    import onnxruntime

    provider, options = _PROVIDERS[target.processor], onnxruntime.SessionOptions()
    options.log_severity_level = 4  # unused initialisers are not for users, and what fails is raised too
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    # Idle threads would spin for tens of milliseconds, on the very cores on which another candidate is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if target.threads is not None:
        options.intra_op_num_threads = target.threads
    device = {} if target.is_cpu else {"device_id": str(target.index)}
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, device)])
    except Exception as error:  # onnxruntime's own exception classes have no common parent but this
        raise DataError(f"onnxruntime cannot load {_name(source)}: {first_line(error)}") from None
    if provider not in session.get_providers():
        raise TargetError(
            f"onnxruntime fell back to {', '.join(session.get_providers())} instead of {provider}; "
            "its CUDA or TensorRT libraries do not load on this machine"
        )
    return session


def run_clock(session: Any, inputs: Sequence[npt.NDArray[Any]]) -> Clock:
    """A function that runs one inference on fixed inputs, in the graph's order; its milliseconds."""
    feed = {node.name: array for node, array in zip(session.get_inputs(), inputs, strict=True)}
    run_model = session.run

    def run() -> float:
        begin = time.perf_counter()
        run_model(None, feed)
        return (time.perf_counter() - begin) * 1e3

    return run


def _precision(source: Path | bytes, target: TargetDevice, half: bool) -> str:
    """What the file computes in; the target must not contradict it (f32, the default, asks for nothing)."""
    word = b"QuantizeLinear"  # operator names stand in an .onnx file as plain text
    if isinstance(source, bytes):
        is_quantized = word in source
    else:
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            is_quantized = view.find(word) >= 0
    precision = "int8" if is_quantized else "f16" if half else "f32"
    if target.precision not in ("f32", precision):
        raise TargetError(
            f"the precision of an .onnx file is fixed by its export: {Path(_name(source)).name} is {precision}, got "
            f"{target}; export it in that precision, or leave the precision out"
        )
    return precision


def _name(source: Path | bytes) -> str:
    return "the graph" if isinstance(source, bytes) else str(source)


def module_to_onnx(
    module: nn.Module, example: Sequence[Any], names: Sequence[str], axes: Mapping[str, Mapping[int, str]]
) -> bytes:
    """The ``.onnx`` file of a module in eval mode, by torch's tracing exporter.

    The module selects tokens by TopK where it drops any; the example has two images or more, because a batch of one
    would be baked in. Raises ExportError where the exporter cannot write it.
    """
    import torch

    from tavt_kit.runtimes.suppress_output import quiet_exporters

    file: Any = io.BytesIO()  # taken by this exporter, though its types speak of paths only
    try:
        with quiet_exporters(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(example),
                file,
                dynamo=False,
                opset_version=_OPSET,
                input_names=list(names),
                dynamic_axes={name: dict(of) for name, of in axes.items()},
            )
    except Exception as error:  # the exporter raises whatever the failing operator raises
        raise ExportError(
            f"torch cannot write {type(module).__name__} as an ONNX graph ({first_line(error)}); choose target "
            "openvino or torch"
        ) from error
    written: bytes = file.getvalue()
    return written
