"""OpenVINO sessions, from a module or from a file; everything that changes the speed is set explicitly."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import openvino

from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.interrupts import noted_interrupts
from tavt_kit.errors import DataError, ExportError, TargetError
from tavt_kit.runtimes.available import name_device, openvino_core
from tavt_kit.runtimes.session import FileSession, Images, Lengths

if TYPE_CHECKING:
    from torch import nn


_COMPUTE = ("FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention")
_NAMES = {"f32": "f32", "f16": "f16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


class OpenvinoSession(FileSession):
    """``target.precision`` is read back from the compiled graph, not believed.

    Loading began at ``begin``, by ``time.perf_counter()``; the target need not repeat the quantisation of a file.
    """

    def __init__(
        self,
        model: Any,
        target: TargetDevice,
        begin: float,
        *,
        of_file: bool,
        name: str = "the model",
        lengths: Lengths | None = None,
        pixels: str | None = None,
    ) -> None:
        target, shape = target.resolved(), model.inputs[0].get_partial_shape()
        sizes = [] if shape.rank.is_dynamic else [None if size.is_dynamic else size.get_length() for size in shape]
        layers = model.inputs[1].shape[0] if len(model.inputs) > 1 else None
        super().__init__(target, name, sizes, layers, lengths, pixels)
        width = model.outputs[0].get_partial_shape()[-1]
        self.classes = None if width.is_dynamic else int(width.get_length())
        compiling = time.perf_counter()
        self._compiled = compile_for(model, target)
        self.compile_ms = (time.perf_counter() - compiling) * 1e3
        self._request = self._compiled.create_infer_request()
        executed = executed_precision(self._compiled)
        if executed != target.precision and not (of_file and executed == "int8" and target.precision == "f32"):
            if of_file and target.precision == "int8":
                raise TargetError(
                    "the model file is not quantised, but the target asks for int8; export it with int8 first"
                )
            raise TargetError(
                f"OpenVINO ran {executed} where {target.precision} was asked for ({target}); ask for {executed}"
            )
        self.target = replace(target, precision=executed)
        self.load_ms = (time.perf_counter() - begin) * 1e3

    def _run(self, inputs: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        self._request.infer(dict(enumerate(inputs)), share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)

    @property
    def told_threads(self) -> int | None:
        """CPU threads that OpenVINO says it uses."""
        return int(self._compiled.get_property("INFERENCE_NUM_THREADS")) if self.target.is_cpu else None

    def timer(self, images: Images) -> Callable[[], float]:
        return request_clock(self._compiled, self._inputs(images))


def open_openvino_file(path: Path, target: TargetDevice, lengths: Lengths | None = None) -> OpenvinoSession:
    """Read and compile an .xml (with its .bin) or .onnx file; raises DataError where it is damaged."""
    begin = time.perf_counter()
    try:
        model = openvino_core().read_model(path)
    except RuntimeError as error:
        raise DataError(f"OpenVINO cannot read {path}: {_last_line(error)}") from None
    takes_bytes = model.inputs[0].get_element_type() == openvino.Type.u8
    pixels = read_metadata(path).pixels if takes_bytes else None
    return OpenvinoSession(model, target, begin, of_file=True, name=path.name, lengths=lengths, pixels=pixels)


def convert_module(module: nn.Module, example: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> Any:
    """An ``openvino.Model`` of a module in f32; -1 in ``shapes`` is any size. Raises ExportError where it cannot."""
    import torch

    from tavt_kit.runtimes.suppress_output import suppress_output

    if any(part.training for part in module.modules()):
        module = copy.deepcopy(module).eval()
    # Where logging is at INFO the converter prints its arguments on stdout, the verbs' own, and tracing warns
    # of each token count of a schedule, which is a constant of its graph.
    with suppress_output(), torch.inference_mode(), noted_interrupts() as interrupts:
        try:
            # Traced here without the second trace that only compares itself with the first: half of the time.
            trace: Callable[..., Any] = torch.jit.trace
            traced = trace(module, example, check_trace=False)
            return openvino.convert_model(traced, input=[openvino.PartialShape(list(shape)) for shape in shapes])
        except Exception as error:
            if interrupts:
                raise KeyboardInterrupt from None
            raise ExportError(
                f"OpenVINO cannot convert {type(module).__name__}: {_last_line(error)}; try target torch:cpu"
            ) from error


def compile_for(model: Any, target: TargetDevice) -> Any:
    """Compile for one inference at a time, as fast as that one can be."""
    # Without this OpenVINO silently picks bf16 where the CPU has it. A quantised graph runs the rest in f32.
    precision = "f32" if target.precision == "int8" else target.precision
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if target.is_cpu:
        settings |= {"INFERENCE_NUM_THREADS": str(target.resolved().threads), "NUM_STREAMS": "1"}
    try:
        return openvino_core().compile_model(model, name_device(target), settings)
    except RuntimeError as error:
        raise TargetError(f"OpenVINO cannot compile the model for {target}: {_last_line(error)}") from None


def request_clock(compiled: Any, inputs: Sequence[npt.NDArray[Any]]) -> Callable[[], float]:
    """A function that runs one inference of a compiled model on fixed inputs; its milliseconds."""
    request = compiled.create_infer_request()
    for index, array in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(array)))

    def run() -> float:
        begin = time.perf_counter()
        request.infer(share_outputs=True)
        return (time.perf_counter() - begin) * 1e3

    return run


def executed_precision(compiled: Any) -> str:
    """The precision in which most matrix products of the compiled graph run: ``f32 f16 bf16 int8``."""
    kernels: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in _COMPUTE:
            # The kernel's name ends in what it computes in ("brgemm_avx512_f32"). The node's own precision is that of
            # its weights: f16 for a file that stores them so, even where they are widened and computed in f32.
            kernel = facts["primitiveType"].astype(str).rpartition("_")[2].lower() if "primitiveType" in facts else ""
            kernels[_NAMES.get(kernel) or _NAMES.get(facts["runtimePrecision"].astype(str), "f32")] += 1
    if kernels:
        return kernels.most_common(1)[0][0]
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return _NAMES.get(hint, "f32")


def _last_line(error: Exception) -> str:
    """OpenVINO's messages end in the reason, after the places in its own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
