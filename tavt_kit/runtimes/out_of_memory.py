"""Memory that ran out, as each device says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tavt_kit.errors import MeasurementError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, of the processor or of an accelerator."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


def free_memory() -> None:
    """Give back what a failed attempt left; to be called when its error is gone, which holds on to its tensors."""
    import gc

    from accelerate.utils.memory import clear_device_cache

    gc.collect()
    clear_device_cache()


@contextmanager
def memory_for(doing: str) -> Iterator[None]:
    """Turns memory that runs out into a MeasurementError that says what it was ``doing``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0] if str(error) else "MemoryError"
        raise MeasurementError(f"the memory ran out {doing}: {said}") from None
