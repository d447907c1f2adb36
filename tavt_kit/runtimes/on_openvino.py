"""OpenVINO as a runtime: graphs of modules, and files; everything that changes the speed is set explicitly."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.interrupts import noted_interrupts
from tavt_kit.errors import DataError, ExportError, TargetError
from tavt_kit.runtimes.available import Runtime
from tavt_kit.runtimes.session import Clock, FileSession, Images, Lengths, PartClocks, Session

if TYPE_CHECKING:
    from torch import nn


_COMPUTE = ("FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention")
_NAMES = {"f32": "f32", "f16": "f16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


@cache
def openvino_core() -> Any:
    """The ``openvino.Core`` that everything here reads and compiles by: one for the process, for as long as it lives.

    Each core's CPU plugin gives the thread that makes it a signal stack, and puts the one before it back when it goes.
    Of several cores that do not go in the opposite order, one puts back a stack that is no longer there, and the next
    signal (Ctrl-C) ends the process by a segmentation fault. Seen with OpenVINO 2026.4.1 on Linux.
    """
    import openvino

    return openvino.Core()


class OpenVino(Runtime):
    """OpenVINO's own files, and ``.onnx`` files."""

    package, takes, files = "openvino", "openvino", (".xml", ".onnx")
    processors, compiles_by_length = ("cpu", "gpu", "npu"), True

    def check(self, target: TargetDevice) -> None:
        core, device = openvino_core(), _device(target)
        devices = core.available_devices
        if device not in devices and not (target.index == 0 and target.processor.upper() in devices):
            raise TargetError(
                f"target {target} needs OpenVINO device {device}, but this machine has {', '.join(devices)}; "
                "choose openvino:cpu"
            )
        if not target.is_cpu:
            return
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        names = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}
        able = [precision for precision, name in names.items() if name in capabilities]
        if target.precision not in able:
            # What its CPU plugin falls back to, without a word; measured for f16 on a CPU with bf16.
            instead = "bf16" if target.precision == "f16" and "bf16" in able else "f32"
            raise TargetError(
                f"this CPU cannot compute in {target.precision} (OpenVINO would silently run {instead} instead); "
                f"choose {', '.join(able)}"
            )

    def open(self, model: Any, target: TargetDevice, begin: float, shape: tuple[int, int, int, int]) -> Session:
        return OpenvinoSession(model, target, begin, of_file=False)

    def open_file(self, path: Path, target: TargetDevice, lengths: Lengths | None) -> FileSession:
        begin = time.perf_counter()
        try:
            model = openvino_core().read_model(path)
        except RuntimeError as error:
            raise DataError(f"OpenVINO cannot read {path}: {_last_line(error)}") from None
        takes_bytes = model.inputs[0].get_element_type().get_type_name() == "u8"
        pixels = read_metadata(path).pixels if takes_bytes else None
        return OpenvinoSession(model, target, begin, of_file=True, name=path.name, lengths=lengths, pixels=pixels)

    def part_clocks(self, part: Callable[[str], Any], target: TargetDevice) -> PartClocks:
        """Each is compiled for its length, and for the number of tokens that it keeps."""
        import openvino

        def clock(name: str, inputs: Sequence[npt.NDArray[Any]], kept: int | None) -> Clock:
            model = part(name).clone()
            if kept is not None:
                _fix_first_input(model, kept)
            model.reshape({i: openvino.PartialShape([-1, *array.shape[1:]]) for i, array in enumerate(inputs)})
            return request_clock(compile_for(model, target), inputs)

        return clock

    def accelerator_name(self, target: TargetDevice) -> str | None:
        return str(openvino_core().get_property(_device(target), "FULL_DEVICE_NAME"))


RUNTIME = OpenVino()


def _device(target: TargetDevice) -> str:
    """OpenVINO's name of the target's processor."""
    return "CPU" if target.is_cpu else f"{target.processor.upper()}.{target.index}"


def _fix_first_input(model: Any, value: int) -> None:
    """Turn the first input, a whole number, into a constant: the static count of a real schedule."""
    import openvino

    constant = openvino.opset13.constant(np.int64(value))
    parameter = model.inputs[0].get_node()
    for reader in parameter.output(0).get_target_inputs():
        reader.replace_source_output(constant.output(0))
    model.remove_parameter(parameter)


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

    def timer(self, images: Images) -> Clock:
        return request_clock(self._compiled, self._inputs(images))


def convert_module(module: nn.Module, example: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> Any:
    """An ``openvino.Model`` of a module in f32; -1 in ``shapes`` is any size. Raises ExportError where it cannot."""
    import openvino
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
        return openvino_core().compile_model(model, _device(target), settings)
    except RuntimeError as error:
        raise TargetError(f"OpenVINO cannot compile the model for {target}: {_last_line(error)}") from None


def request_clock(compiled: Any, inputs: Sequence[npt.NDArray[Any]]) -> Clock:
    """A function that runs one inference of a compiled model on fixed inputs; its milliseconds."""
    import openvino

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
