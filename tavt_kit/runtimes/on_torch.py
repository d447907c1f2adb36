"""A torch module as a session, on CPU or CUDA; eager."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tavt_kit.device import TargetDevice
from tavt_kit.runtimes.session import Images, InputShape, check_images

__all__ = ["TorchSession", "torch_threads"]

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class TorchSession:
    """See ``Session``. The module is copied where precision, device or mode would change it.

    On CUDA the clock is a pair of events on the stream; on a CPU it is the monotonic clock.
    """

    def __init__(
        self, module: nn.Module, target: TargetDevice, example_shape: tuple[int, int, int, int]
    ) -> None:
        begin = time.perf_counter()
        self.target = target.resolved()
        self._device = torch.device("cpu") if target.is_cpu else torch.device("cuda", target.index)
        self._dtype = _DTYPES[target.precision]
        self._module = self._placed(module)
        self.input_shape: InputShape = (None, *example_shape[1:])
        self.load_ms = (time.perf_counter() - begin) * 1e3

    def _placed(self, module: nn.Module) -> nn.Module:
        parameter = next(module.parameters(), None)
        fits = parameter is None or (parameter.device == self._device and parameter.dtype == self._dtype)
        if fits and not any(part.training for part in module.modules()):
            return module
        return copy.deepcopy(module).eval().to(self._device, self._dtype)

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        inputs = self._inputs(images)
        with self._ready():
            logits: npt.NDArray[np.float32] = self._module(inputs).float().cpu().numpy()
        return logits

    def timer(self, images: Images) -> Callable[[], float]:
        inputs = self._inputs(images)
        return self._cuda_timer(inputs) if self._device.type == "cuda" else self._cpu_timer(inputs)

    def _inputs(self, images: Images) -> Tensor:
        return torch.from_numpy(check_images(images, self.input_shape)).to(self._device, self._dtype)

    def _cpu_timer(self, inputs: Tensor) -> Callable[[], float]:
        def run() -> float:
            with self._ready():
                begin = time.perf_counter()
                self._module(inputs)
                return (time.perf_counter() - begin) * 1e3

        return run

    def _cuda_timer(self, inputs: Tensor) -> Callable[[], float]:
        def run() -> float:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            with self._ready(), torch.cuda.device(self._device):
                begin.record()
                self._module(inputs)
                end.record()
                end.synchronize()
            return float(begin.elapsed_time(end))

        return run

    @contextmanager
    def _ready(self) -> Iterator[None]:
        with torch.inference_mode(), torch_threads(self.target.threads):
            yield


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use this many CPU threads, and put the former number back; ``None`` changes nothing."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
