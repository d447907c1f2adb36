"""MemoryFit: what the peak memory of a schedule on a target will be, from a few fresh processes that were measured.

A runtime holds one layer's activations at a time and frees them for the next, and counts never grow. So of a schedule
no more matters than how many tokens the first feed-forward sees, which is the widest, and how many layers choose tokens
at all: each has operators of its own, and kernels made for them, of which the first few weigh most. Where loading the
weights takes more than running them ever does, not even that matters: then the fit is a constant, and says so. A joint
search changes what matters more, the size of the image and the layers that are there; each precision has its own fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.errors import RecordError, TavtError

__all__ = ["IS", "MemoryFit", "MemoryPoint", "gene_terms", "memory_terms"]

IS = (
    "bytes at the high-water mark of a fresh process that loads the model and runs it three times, its runtime "
    "included; on a CUDA device of torch's allocator there"
)
"""What every figure is, as ``bench --memory`` has it."""


@dataclass(frozen=True, slots=True)
class MemoryPoint:
    """A schedule that was measured in a process of its own.

    Args:
        schedule: The tokens kept.
        predicted: Bytes, by the fit.
        measured: Bytes; the median of several processes.
    """

    schedule: Choice
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Prediction over measurement, minus one."""
        return self.predicted / self.measured - 1


def memory_terms(choice: Choice, tokens: int, at_size: int | None = None) -> tuple[float, float, float, float]:
    """What the coefficients of a fit multiply.

    That is 1, whether any layer drops, the doublings of how many do, and the share kept by the first layer that runs.

    Args:
        choice: Of a model.
        tokens: Of the model, before anything is dropped.
        at_size: The same of an image of the schedule's size, where that is another than the model's own.

    Example:
        >>> from tavt_kit.core.schedule import TokenSchedule
        >>> memory_terms(TokenSchedule((8, 8, 4)), 16)
        (1.0, 1.0, 1.0, 0.5)
    """
    schedule = Configuration.of(choice).schedule
    before = (tokens if at_size is None else at_size, *schedule.counts[:-1])
    drops = sum(kept < count for kept, count in zip(schedule.counts, before, strict=True))
    first = schedule.executed[0] if schedule.executed else 0
    return 1.0, float(drops > 0), math.log2(max(1, drops)), schedule.counts[first] / tokens


def gene_terms(choice: Choice, tokens: int, at_size: int | None = None) -> tuple[float, float]:
    """Further ones, 0 in a search of token counts alone: the share of tokens that a smaller image lacks, absent layers.

    Example:
        >>> from tavt_kit.core.schedule import TokenSchedule
        >>> gene_terms(TokenSchedule((8, 8, 8), executed=(0, 1)), 16, at_size=12)
        (0.25, 1.0)
    """
    schedule = Configuration.of(choice).schedule
    absent = 0 if schedule.executed is None else schedule.layers - len(schedule.executed)
    return 1 - (tokens if at_size is None else at_size) / tokens, float(absent)


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """The peak memory of one model's schedules on one target.

    Args:
        target: Where it was measured.
        model: Name of the model, for people.
        tokens: Tokens before anything is dropped.
        layers: Layers of the model.
        prefix: Tokens that are no patches.
        fixed: Bytes of any schedule: runtime, weights, and what loading them takes.
        choosing: Bytes more where any layer drops; 0, like the next two, where nothing of it could be told from noise.
        doubling: Bytes more for each doubling of the layers that drop.
        widest: Bytes for all tokens in the first feed-forward.
        points: What it was fitted to.
        held_out: What it was tested on.
        repeated: Bytes between the least and the most that one file took in several processes.
        seconds: How long it took.
        host: Where and when.
        smaller: Bytes, mostly below 0, for an image of which nothing were left; a smaller one has its share of them.
        absent: Bytes, mostly below 0, for each layer that is left out.
    """

    target: TargetDevice
    model: str
    tokens: int
    layers: int
    prefix: int
    fixed: float
    choosing: float
    doubling: float
    widest: float
    points: tuple[MemoryPoint, ...] = ()
    held_out: tuple[MemoryPoint, ...] = ()
    repeated: int = 0
    seconds: float = 0.0
    host: HostFacts | None = None
    smaller: float = 0.0
    absent: float = 0.0

    def predict(self, schedule: Choice, at_size: int | None = None) -> float:
        """Bytes.

        Args:
            schedule: Of the model.
            at_size: Tokens of an image of the schedule's size, where that is another than the model's own.

        Raises:
            ScheduleError: The schedule does not fit the model.
        """
        Configuration.of(schedule).schedule.check(tokens=at_size or self.tokens, layers=self.layers, prefix=self.prefix)
        terms = *memory_terms(schedule, self.tokens, at_size), *gene_terms(schedule, self.tokens, at_size)
        return sum(a * b for a, b in zip(self._coefficients, terms, strict=True))

    @property
    def _coefficients(self) -> tuple[float, ...]:
        return self.fixed, self.choosing, self.doubling, self.widest, self.smaller, self.absent

    @property
    def mean_error(self) -> float | None:
        """Mean absolute error of the held-out schedules; ``None`` before any was measured."""
        return fmean(abs(one.error) for one in self.held_out) if self.held_out else None

    @property
    def worst_error(self) -> float | None:
        """Largest absolute error of the held-out schedules."""
        return max(abs(one.error) for one in self.held_out) if self.held_out else None

    @property
    def is_constant(self) -> bool:
        """Whether schedules could not be told apart."""
        return not any(self._coefficients[1:])

    @property
    def span(self) -> float:
        """Bytes between the largest and the smallest of all that was measured: what dropping can change at all."""
        measured = [one.measured for one in (*self.points, *self.held_out)]
        return max(measured) - min(measured) if measured else 0.0

    @property
    def slack(self) -> float:
        """By how much a prediction may exceed a ceiling: as far as it was seen to err."""
        return max((abs(one.error) for one in (*self.points, *self.held_out)), default=0.0)

    def __str__(self) -> str:
        """For people."""
        fixed, choosing, doubling, widest, smaller, absent = (f"{value / 1e6:+.1f} MB" for value in self._coefficients)
        if self.is_constant:
            law = (
                f"about {fixed[1:]}, whatever is dropped or left out (schedules differ by {self.span / 1e6:.1f} MB, "
                f"processes of one by up to {self.repeated / 1e6:.1f} MB)"
            )
        else:
            law = (
                f"{fixed[1:]}, {choosing} if any layer drops, {doubling} for each doubling of their number, {widest} "
                "times the share of tokens in the first feed-forward"
            )
            law += f", {smaller} times the share of tokens that a smaller image lacks" if self.smaller else ""
            law += f", {absent} for each layer left out" if self.absent else ""
        if self.mean_error is None or self.worst_error is None:
            return law
        return (
            f"{law}; wrong by {100 * self.mean_error:.1f} % on average and {100 * self.worst_error:.1f} % at worst on "
            f"{len(self.held_out)} held-out schedules"
        )

    def as_record(self) -> dict[str, Any]:
        """JSON-ready: the ``memory`` of ``front.json``."""
        return {
            "is": IS,
            "model": self.model,
            "target": self.target.as_record(),
            "tokens": self.tokens,
            "layers": self.layers,
            "prefix": self.prefix,
            "fixed": self.fixed,
            "choosing": self.choosing,
            "doubling": self.doubling,
            "widest": self.widest,
            "points": [_point(one) for one in self.points],
            "held_out": [_point(one) for one in self.held_out],
            "mean_error": self.mean_error,
            "worst_error": self.worst_error,
            "span": self.span,
            "constant": self.is_constant,
            "repeated": self.repeated,
            "seconds": self.seconds,
            "host": None if self.host is None else self.host.as_record(),
            "smaller": self.smaller,
            "absent": self.absent,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> MemoryFit:
        """From ``as_record``.

        Raises:
            RecordError: A field is missing or of the wrong kind.
        """
        numbers = ("tokens", "layers", "prefix", "fixed", "choosing", "doubling", "widest", "repeated", "seconds")
        try:
            return cls(
                target=TargetDevice.from_record(record["target"]),
                model=record["model"],
                points=tuple(map(_of_point, record["points"])),
                held_out=tuple(map(_of_point, record["held_out"])),
                host=None if record["host"] is None else HostFacts.from_record(record["host"]),
                smaller=record.get("smaller", 0.0),
                absent=record.get("absent", 0.0),
                **{name: record[name] for name in numbers},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, TavtError):
                raise
            raise RecordError(f"a memory fit lacks or misuses a field: {error}; measure it again") from None


def _point(point: MemoryPoint) -> dict[str, Any]:
    return {**Configuration.of(point.schedule).as_record(), "predicted": point.predicted, "measured": point.measured}


def _of_point(record: Mapping[str, Any]) -> MemoryPoint:
    return MemoryPoint(Configuration.from_record(record).choice, record["predicted"], record["measured"])
