"""The targets and image sizes of one bench: every combination of what the flags list."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.parsing import parse_numbers
from tavt_kit.errors import ParameterError

if TYPE_CHECKING:
    from tavt_kit.bench.protocol import Protocol

__all__ = ["Sweep", "warn_of_many"]

_log = logging.getLogger(__name__)

_MANY = 12
"""Candidates in one run that are measured without a word."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is varied; an empty list leaves it to the target, or to the model.

    Args:
        precisions, threads, batches: Of the targets.
        sizes: Pixels a side, of the images.
    """

    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    @classmethod
    def parse(cls, *, precision: str | None, threads: str | None, batch: str | None, image_size: str | None) -> Sweep:
        """Read the flags: one value, or several with commas between them; a value twice counts once.

        Raises:
            ParameterError: Something else.
        """
        precisions = None if precision is None else [part.strip() for part in precision.split(",")]
        if precisions is not None and not all(precisions):
            raise ParameterError(
                f"`precision` is f32, f16, bf16 or int8, or several such as f32,bf16, got {precision!r}"
            )
        return cls(
            tuple(dict.fromkeys(precisions or ())),
            _unique(parse_numbers(threads, "threads", "1,2")),
            _unique(parse_numbers(batch, "batch", "1,8")),
            _unique(parse_numbers(image_size, "image_size", "224,448")),
        )

    @property
    def combinations(self) -> int:
        """How many candidates become of one thing on one target."""
        return math.prod(max(1, len(each)) for each in (self.precisions, self.threads, self.batches, self.sizes))

    def targets(self, texts: Sequence[str]) -> list[TargetDevice]:
        """Each target with each precision, number of threads and batch.

        Raises:
            TargetError: A text is wrong, or contradicts a flag.
        """
        found = [
            TargetDevice.parse(text, precision=precision, threads=threads, batch=batch)
            for text, precision, threads, batch in product(
                texts, self.precisions or (None,), self.threads or (None,), self.batches or (None,)
            )
        ]
        return list(dict.fromkeys(found))


def warn_of_many(candidates: int, protocol: Protocol) -> None:
    """Say how long it will take, where that may be long."""
    if candidates <= _MANY:
        return
    least, most = (candidates * seconds for seconds in (protocol.min_seconds, protocol.max_seconds))
    _log.warning(
        "up to %d candidates will be measured together, %.3g s to %.3g s each: %s to %s in all, and all of them are in "
        "memory at once; list fewer values, or lower `max_time`",
        candidates,
        protocol.min_seconds,
        protocol.max_seconds,
        _time(least),
        _time(most),
    )


def _unique(numbers: list[int] | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers or ()))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
