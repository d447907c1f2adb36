"""A torch module as a session, on CPU or CUDA: op by op, compiled, or as a recorded CUDA graph that is replayed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import processor
from tavt_kit.errors import TargetError, first_line
from tavt_kit.runtimes.out_of_memory import is_out_of_memory
from tavt_kit.runtimes.session import Clock, Images, InputShape, PartClocks, check_images
from tavt_kit.runtimes.suppress_output import suppress_output

# Compiled forms of one piece of code that torch keeps; its own 8 are few for the schedules of one model.
_VARIANTS = 256
_WARM = 3  # Runs before a recording: the first ones choose kernels and allocate their work space


def compiled(module: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The module through ``torch.compile`` in one piece, compiled by a first run on ``example``.

    To be called as it will be run: torch compiles anew for another number of threads, or outside inference mode.
    Raises TargetError where the compiler cannot take the module, or has no C++ compiler here.
    """
    dynamo: Any = torch._dynamo
    call: Callable[[Tensor], Tensor] = torch.compile(module, fullgraph=True, dynamic=False)
    try:
        with suppress_output("torch"), dynamo.config.patch(recompile_limit=_VARIANTS):
            call(example)
    except Exception as error:  # the compiler raises whatever its many parts raise
        if is_out_of_memory(error):
            raise
        raise TargetError(
            f"torch cannot compile {type(module).__name__} here: {first_line(error)}; choose mode=eager, or install a "
            "C++ compiler"
        ) from error
    return call


class CudaGraph:
    """A module's kernels, recorded once for one shape and launched together.

    Raises TargetError where the module waits for the device on its way, which no graph can record.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        self._images = example.clone()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM):
                module(self._images)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph):
                self._logits: Tensor = module(self._images)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise TargetError(
                f"{type(module).__name__} cannot be recorded as a CUDA graph: {first_line(error)}; choose mode=eager"
            ) from error

    def load(self, images: Tensor) -> None:
        """Put images where the graph reads them."""
        with torch.inference_mode():  # in which they were made, and outside of which torch does not change them
            self._images.copy_(images)

    def replay(self) -> None:
        """Run it on what was loaded."""
        self._graph.replay()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes), overwritten by the next call."""
        self.load(images)
        self.replay()
        return self._logits


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class TorchSession:
    """See ``Session``. The module is copied where precision, device or mode would change it."""

    def __init__(self, module: nn.Module, target: TargetDevice, begin: float, shape: tuple[int, int, int, int]) -> None:
        self.target = target.resolved()
        self._module = placed(module, self.target)
        self._call: Callable[[Tensor], Tensor] = self._module
        self.compile_ms: float | None = None
        if not self.target.is_usual:  # compiled or recorded, for images of this shape
            example = torch.rand(shape, device=torch_device(self.target), dtype=DTYPES[self.target.precision])
            preparing = time.perf_counter()
            with torch.inference_mode(), torch_threads(self.target.threads):
                if self.target.mode == "compile":
                    self._call = compiled(self._module, example)
                else:
                    with torch.cuda.device(self.target.index):
                        self._call = CudaGraph(self._module, example)
            self.compile_ms = (time.perf_counter() - preparing) * 1e3
        batch = shape[0] if isinstance(self._call, CudaGraph) else None
        self.input_shape: InputShape = (batch, *shape[1:])
        self.load_ms = (time.perf_counter() - begin) * 1e3

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        inputs = self._inputs(images)
        with torch.inference_mode(), torch_threads(self.target.threads):
            logits: npt.NDArray[np.float32] = self._call(inputs).float().cpu().numpy()
        return logits

    @property
    def told_threads(self) -> int | None:
        """CPU threads that torch says it uses during a call."""
        if not self.target.is_cpu:
            return None
        with torch_threads(self.target.threads):
            return torch.get_num_threads()

    def timer(self, images: Images) -> Callable[[], float]:
        inputs, call = self._inputs(images), self._call
        if isinstance(call, CudaGraph):
            call.load(inputs)
            return torch_clock(call.replay, self.target)
        return torch_clock(lambda: call(inputs), self.target)

    def _inputs(self, images: Images) -> Tensor:
        checked = torch.from_numpy(check_images(images, self.input_shape))
        return checked.to(torch_device(self.target), DTYPES[self.target.precision])


def torch_clock(call: Callable[[], object], target: TargetDevice) -> Callable[[], float]:
    """A function that runs ``call`` once, under inference mode and the target's threads; its milliseconds.

    On CUDA the clock is a pair of events on the stream, on a CPU the monotonic clock.
    """

    def on_cpu() -> float:
        with torch.inference_mode(), torch_threads(target.threads):
            begin = time.perf_counter()
            call()
            return (time.perf_counter() - begin) * 1e3

    def on_cuda() -> float:
        with torch.inference_mode(), torch.cuda.device(target.index):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            call()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end))

    return on_cpu if target.is_cpu else on_cuda


def part_clocks(part: Callable[[str], nn.Module], target: TargetDevice) -> PartClocks:
    """Parts run eagerly, on the target's device and in its precision; they share one model's weights."""

    def clock(name: str, inputs: Sequence[npt.NDArray[Any]], kept: int | None) -> Clock:
        module = part(name)
        parameter = next(module.parameters())
        tensors = [torch.from_numpy(array).to(parameter.device) for array in inputs]
        tensors = [tensor.to(parameter.dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        arguments = tensors if kept is None else [kept, *tensors]
        return torch_clock(lambda: module(*arguments), target)

    return clock


def placed(module: nn.Module, target: TargetDevice) -> nn.Module:
    """The module in the target's precision, on its device and in eval mode: itself if it is, else a copy."""
    device, dtype = torch_device(target), DTYPES[target.precision]
    parameter = next(module.parameters(), None)
    fits = parameter is None or (parameter.device == device and parameter.dtype == dtype)
    if fits and not any(part.training for part in module.modules()):
        return module
    return copy.deepcopy(module).eval().to(device, dtype)


def is_bf16_faster(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 faster than float32, by what it is, so that every run answers alike.

    On a CPU its instructions alone do not settle it: with AVX-512 BF16 but no AMX, an Intel Xeon reaches 0.6 of its
    float32 speed (torch 2.13), an AMD EPYC nearly twice.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    name, flags = processor()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and name.startswith("AMD"))


def torch_device(target: TargetDevice) -> torch.device:
    """torch's name of the target's processor."""
    return torch.device("cpu") if target.is_cpu else torch.device("cuda", target.index)


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
