"""An .onnx file, or a module written as one, as a session; imports neither torch nor onnx."""

from __future__ import annotations

import copy
import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import DataError, TargetError
from tavt_kit.runtimes.available import name_provider
from tavt_kit.runtimes.session import (
    LENGTHS,
    Images,
    InputShape,
    Lengths,
    image_shape,
    input_images,
    lengths_for,
    run_images,
)

if TYPE_CHECKING:
    from torch import nn


class OnnxSession:
    """See ``FileSession``. The file alone decides the precision; asking for another one is refused.

    Args:
        begin: ``time.perf_counter()`` when loading began, where that was before.
    """

    def __init__(
        self, source: Path | bytes, target: TargetDevice, lengths: Lengths | None = None, begin: float | None = None
    ) -> None:
        begin = time.perf_counter() if begin is None else begin
        target = target.resolved()
        self._session: Any = open_session(source, target)
        self._input, *others = self._session.get_inputs()
        self._name = _name(source)
        self._layers = next((each.shape[0] for each in others if each.name == LENGTHS), None)
        self._lengths = lengths_for(self._name, self._layers, lengths)
        output = self._session.get_outputs()[0]
        self._output = output.name
        self.classes = output.shape[-1] if output.shape and isinstance(output.shape[-1], int) else None
        self._half = self._input.type == "tensor(float16)"
        takes_bytes = self._input.type == "tensor(uint8)"
        self.pixels = read_metadata(source).pixels if takes_bytes and isinstance(source, Path) else None
        self.target = replace(target, precision=_precision(source, target, self._half))
        self.input_shape: InputShape = image_shape(self._input.shape, self._name, self.pixels)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self.compile_ms: float | None = None  # making a session reads and prepares in one step

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        return run_images(self._run, images, self.pixels)

    def _run(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(self._session.run([self._output], self._feed(images))[0], dtype=np.float32)

    def at(self, lengths: Lengths) -> OnnxSession:
        other = copy.copy(self)
        other._lengths = lengths_for(self._name, self._layers, lengths)
        return other

    @property
    def told_threads(self) -> int | None:
        """CPU threads that onnxruntime says it uses for an operator; its 0 is a choice that it does not tell."""
        return int(self._session.get_session_options().intra_op_num_threads) or None if self.target.is_cpu else None

    def timer(self, images: Images) -> Callable[[], float]:
        return run_clock(self._session, list(self._feed(images).values()))

    def _feed(self, images: Images) -> dict[str, npt.NDArray[Any]]:
        given = input_images(images, self.input_shape, self.pixels)
        first = given.astype(np.float16) if self._half else given
        return dict(zip((self._input.name, LENGTHS), (first, *self._lengths), strict=False))


def open_onnx_module(module: nn.Module, target: TargetDevice, example_shape: tuple[int, int, int, int]) -> OnnxSession:
    """Write a torch module as a graph with a dynamic batch, in memory, and load it; to be timed, not to be shipped.

    Raises:
        ExportError: torch cannot write it.
    """
    import torch

    from tavt_kit.runtimes.onnx_graph import module_to_onnx

    begin = time.perf_counter()
    example = torch.rand((max(2, example_shape[0]), *example_shape[1:]))
    return OnnxSession(module_to_onnx(module, [example], ["images"], {"images": {0: "batch"}}), target, begin=begin)


def open_session(source: Path | bytes, target: TargetDevice, optimised: Path | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file or of its bytes.

    Args:
        optimised: File for the graph that it will run.

    Raises:
        DataError: onnxruntime cannot read it.
        TargetError: The target's provider does not load here.
    """
    provider, options = name_provider(target), _options(target)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, _provider_options(target))])
    except Exception as error:  # onnxruntime's own exception classes have no common parent but this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"onnxruntime cannot load {_name(source)}: {reason}") from None
    if provider not in session.get_providers():
        raise TargetError(
            f"onnxruntime fell back to {', '.join(session.get_providers())} instead of {provider}; "
            "its CUDA or TensorRT libraries do not load on this machine"
        )
    return session


def run_clock(session: Any, inputs: Sequence[npt.NDArray[Any]]) -> Callable[[], float]:
    """A function that runs one inference on fixed inputs, in the graph's order; its milliseconds."""
    feed = {one.name: array for one, array in zip(session.get_inputs(), inputs, strict=True)}
    run_model = session.run

    def run() -> float:
        begin = time.perf_counter()
        run_model(None, feed)
        return (time.perf_counter() - begin) * 1e3

    return run


def _options(target: TargetDevice) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # unused initialisers are not for users, and what fails is raised too
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    # Idle threads would spin for tens of milliseconds, on the very cores on which another candidate is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if target.threads is not None:
        options.intra_op_num_threads = target.threads
    return options


def _provider_options(target: TargetDevice) -> dict[str, str]:
    return {} if target.is_cpu else {"device_id": str(target.index)}


def _precision(source: Path | bytes, target: TargetDevice, half: bool) -> str:
    """What the file computes in; the target must not contradict it (f32, the default, asks for nothing)."""
    found = "int8" if _mentions(source, b"QuantizeLinear") else "f16" if half else "f32"
    if target.precision not in ("f32", found):
        raise TargetError(
            f"the precision of an .onnx file is fixed by its export: {Path(_name(source)).name} is {found}, got "
            f"{target}; export it in that precision, or leave the precision out"
        )
    return found


def _name(source: Path | bytes) -> str:
    return "the graph" if isinstance(source, bytes) else str(source)


def _mentions(source: Path | bytes, word: bytes) -> bool:
    """Whether the file holds a byte string: operator names stand in an .onnx file as plain text."""
    if isinstance(source, bytes):
        return word in source
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.find(word) >= 0
