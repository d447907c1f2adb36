"""An .onnx file as a session; imports neither torch nor onnx."""

from __future__ import annotations

import copy
import mmap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tavt_kit.device import TargetDevice
from tavt_kit.errors import DataError, TargetError
from tavt_kit.runtimes.available import provider_of
from tavt_kit.runtimes.session import LENGTHS, Images, InputShape, Lengths, check_images, lengths_for

__all__ = ["OnnxSession"]


class OnnxSession:
    """See ``FileSession``. The file alone decides the precision; asking for another one is refused."""

    def __init__(self, path: Path, target: TargetDevice, lengths: Lengths | None = None) -> None:
        begin = time.perf_counter()
        target = target.resolved()
        provider = provider_of(target)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path, _options(target), providers=[(provider, _provider_options(target))]
            )
        except Exception as error:  # onnxruntime's own exception classes have no common parent but this
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"onnxruntime cannot load {path}: {reason}") from None
        if provider not in self._session.get_providers():
            raise TargetError(
                f"onnxruntime fell back to {', '.join(self._session.get_providers())} instead of {provider}; "
                "its CUDA or TensorRT libraries do not load on this machine"
            )
        self._input, *others = self._session.get_inputs()
        self._name, self._layers = path.name, next((each.shape[0] for each in others if each.name == LENGTHS), None)
        self._lengths = lengths_for(self._name, self._layers, lengths)
        self._output = self._session.get_outputs()[0].name
        self._half = self._input.type == "tensor(float16)"
        self.target = replace(target, precision=_precision(path, target, self._half))
        self.input_shape: InputShape = _shape(self._input.shape)
        self.load_ms = (time.perf_counter() - begin) * 1e3

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        logits = self._session.run([self._output], self._feed(images))[0]
        return np.asarray(logits, dtype=np.float32)

    def at(self, lengths: Lengths) -> OnnxSession:
        other = copy.copy(self)
        other._lengths = lengths_for(self._name, self._layers, lengths)
        return other

    def timer(self, images: Images) -> Callable[[], float]:
        feed, wanted, run_model = self._feed(images), [self._output], self._session.run

        def run() -> float:
            begin = time.perf_counter()
            run_model(wanted, feed)
            return (time.perf_counter() - begin) * 1e3

        return run

    def _feed(self, images: Images) -> dict[str, npt.NDArray[Any]]:
        checked = check_images(images, self.input_shape)
        first = checked.astype(np.float16) if self._half else checked
        return dict(zip((self._input.name, LENGTHS), (first, *self._lengths), strict=False))


def _options(target: TargetDevice) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings about unused initialisers are not for users
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    if target.threads is not None:
        options.intra_op_num_threads = target.threads
    return options


def _provider_options(target: TargetDevice) -> dict[str, str]:
    return {} if target.is_cpu else {"device_id": str(target.index)}


def _precision(path: Path, target: TargetDevice, half: bool) -> str:
    """What the file computes in; the target must not contradict it (f32, the default, asks for nothing)."""
    found = "int8" if _mentions(path, b"QuantizeLinear") else "f16" if half else "f32"
    if target.precision not in ("f32", found):
        raise TargetError(
            f"the precision of an .onnx file is fixed by its export: {path.name} is {found}, got {target}; "
            "export it in that precision, or leave the precision out"
        )
    return found


def _mentions(path: Path, word: bytes) -> bool:
    """Whether the file holds a byte string: operator names stand in an .onnx file as plain text."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.find(word) >= 0


def _shape(shape: list[int | str | None]) -> InputShape:
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shape)
    return batch, channels, height, width
