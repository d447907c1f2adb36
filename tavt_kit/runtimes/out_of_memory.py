"""Memory that ran out, as each device says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tavt_kit.errors import MeasurementError, first_line

_SAID = ("out of memory", "can't allocate memory", "CUDNN_STATUS_NOT_SUPPORTED")
"""Of torch: a GPU, its allocator on a CPU, and cuDNN, which says so where its workspace does not fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, of the processor or of an accelerator."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
    return said or isinstance(error, MemoryError)


def free_memory() -> None:
    """Give back what a failed attempt left; to be called when its error is gone, which holds on to its tensors."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def memory_for(doing: str) -> Iterator[None]:
    """Turns memory that runs out into a MeasurementError that says what it was ``doing``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MeasurementError(f"the memory ran out {doing}: {first_line(error)}") from None
