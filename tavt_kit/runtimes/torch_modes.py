"""The other ways torch runs a module: through its compiler, and as a recorded CUDA graph that is replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import TargetError
from tavt_kit.runtimes.out_of_memory import is_out_of_memory
from tavt_kit.runtimes.suppress_output import suppress_output

_VARIANTS = 256
"""Compiled forms of one piece of code that torch keeps; its own 8 are few for the schedules of one model."""

_WARM = 3
"""Runs before a recording: the first ones choose kernels and allocate their work space."""


def compiled(module: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The module through ``torch.compile`` in one piece, compiled by a first run on ``example``.

    To be called as it will be run: torch compiles anew for another number of threads, or outside inference mode.

    Raises:
        TargetError: The compiler cannot take the module, or has no C++ compiler here.
    """
    dynamo: Any = torch._dynamo
    call: Callable[[Tensor], Tensor] = torch.compile(module, fullgraph=True, dynamic=False)
    try:
        with suppress_output("torch"), dynamo.config.patch(recompile_limit=_VARIANTS):
            call(example)
    except Exception as error:  # the compiler raises whatever its many parts raise
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise TargetError(
            f"torch cannot compile {type(module).__name__} here: {reason}; choose mode=eager, or install a C++ compiler"
        ) from error
    return call


class CudaGraph:
    """A module's kernels, recorded once for one shape and launched together.

    Args:
        module: On a CUDA device, in eval mode.
        example: (B, 3, H, W) there; later images have its shape.

    Raises:
        TargetError: The module waits for the device on its way, which no graph can record.
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
            reason = str(error).splitlines()[0][:200]
            raise TargetError(
                f"{type(module).__name__} cannot be recorded as a CUDA graph: {reason}; choose mode=eager"
            ) from error

    @property
    def batch(self) -> int:
        """Images that it was recorded for."""
        return self._images.shape[0]

    def load(self, images: Tensor) -> None:
        """Put images where the graph reads them."""
        self._images.copy_(images)

    def replay(self) -> None:
        """Run it on what was loaded."""
        self._graph.replay()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes), overwritten by the next call."""
        self.load(images)
        self.replay()
        return self._logits
