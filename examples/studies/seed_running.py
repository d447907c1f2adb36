"""A network of the seeds' tables in one mode of torch: eager, compiled, or as a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.device import TargetDevice
from tavt_kit.runtimes.on_torch import placed, torch_clock, torch_device, torch_threads

__all__ = ["Ran", "reason"]


class Ran:
    """A network in one mode with the pictures it is timed on, as a session of ``bench``; it has run once.

    Args:
        module: In eval mode.
        target: torch's.
        mode: ``"eager"``, ``"compile"``, or ``"graph"`` (a CUDA graph of the whole pass).
        images: (B, 3, H, W).
    """

    def __init__(self, module: nn.Module, target: TargetDevice, mode: str, images: NDArray[np.float32]) -> None:
        begin = time.perf_counter()
        self.target, self.input_shape = target, images.shape
        module = placed(module, target)
        inputs = torch.from_numpy(images).to(torch_device(target), next(module.parameters()).dtype)
        if mode == "graph":
            self.once = replayed(module, inputs)
        else:
            run = torch.compile(module) if mode == "compile" else module
            self.once = lambda: run(inputs)
        with torch.inference_mode(), torch_threads(target.threads):
            self.once().float().cpu()
        self.load_ms = (time.perf_counter() - begin) * 1e3

    def __call__(self, images: object) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = self.once().float().cpu().numpy()
        return logits

    def timer(self, images: object) -> Callable[[], float]:
        """See ``Session``; the pictures are those it was made with."""
        return torch_clock(self.once, self.target)


def replayed(module: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """The pass as a CUDA graph, after three on a stream of their own, as torch asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            module(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        outputs: Tensor = module(inputs)

    def replay() -> Tensor:
        graph.replay()
        return outputs

    return replay


def reason(error: Exception, mode: str) -> str:
    """Why a row does not run; an error that is neither of memory nor of a compiler is ours."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, MemoryError) or should_reduce_batch_size(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "memory ran out"
    if mode == "eager":
        raise error
    return str(error).splitlines()[0]
