"""Memory that ran out, as each device says it."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, of the processor or of an accelerator."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))
