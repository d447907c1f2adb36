"""When memory runs out: how many pictures at once would fit, found by trying fewer."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

from tavt_kit.errors import TrainingError
from tavt_kit.runtimes.out_of_memory import is_out_of_memory

__all__ = ["fitting"]

T = TypeVar("T")


def fitting(attempt: Callable[[int], T], size: int, parts: int, *, cleanup: Callable[[], None]) -> tuple[T, int]:
    """Call ``attempt`` with more and more parts until its memory suffices.

    Args:
        attempt: Given a number of equal parts that ``size`` pictures are cut into; it may run out of memory.
        size: Pictures.
        parts: To begin with.
        cleanup: Frees what a failed attempt left.

    Returns:
        Its answer, and the parts it took.

    Raises:
        TrainingError: Not even single pictures fit.
    """
    from accelerate.utils.memory import clear_device_cache

    while True:
        try:
            return attempt(parts), parts
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback holds on to the tensors of the attempt.
        cleanup()
        gc.collect()
        clear_device_cache()
        parts = _more(size, parts)


def _more(size: int, parts: int) -> int:
    """At least twice as many parts, all equal."""
    if parts >= size:
        raise TrainingError(
            "not even one picture at a time fits into the memory; choose a smaller `image_size` or model, or train "
            "fewer of its layers"
        )
    return next(more for more in range(min(2 * parts, size), size + 1) if size % more == 0)
