"""Typed views of raw records: what is missing or of another type is None, so that a report never breaks on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.configuration import genes_text
from tavt_kit.core.schedule import counts_text
from tavt_kit.reports.numbers import interval_text, ms_text, peak_text, percent_text, significant

__all__ = ["AccuracyView", "CandidateView", "MemoryView", "TimeView", "mapping", "number", "sequence", "text", "whole"]


def number(record: Any, *path: str | int) -> float | None:
    """The finite number at ``path``."""
    value = _at(record, path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def whole(record: Any, *path: str | int) -> int | None:
    """The whole number at ``path``."""
    value = _at(record, path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(record: Any, *path: str | int) -> str | None:
    """The text at ``path``, if it is not empty."""
    value = _at(record, path)
    return value if isinstance(value, str) and value else None


def mapping(record: Any, *path: str | int) -> Mapping[str, Any]:
    """The object at ``path``; empty where there is none."""
    value = _at(record, path)
    return value if isinstance(value, Mapping) else {}


def sequence(record: Any, *path: str | int) -> Sequence[Any]:
    """The list at ``path``; empty where there is none."""
    value = _at(record, path)
    return value if isinstance(value, list | tuple) else ()


def _at(record: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        if isinstance(record, Mapping) and isinstance(step, str):
            record = record.get(step)
        elif isinstance(record, list | tuple) and isinstance(step, int) and -len(record) <= step < len(record):
            record = record[step]
        else:
            return None
    return record


@dataclass(frozen=True, slots=True)
class AccuracyView:
    """A share of images with its interval."""

    value: float
    n: int | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, record: Any, name: str) -> AccuracyView | None:
        """From ``{name: 0.84, "n": 512, "ci95": [0.81, 0.87]}``."""
        value = number(record, name)
        if value is None:
            return None
        return cls(value, whole(record, "n"), number(record, "ci95", 0), number(record, "ci95", 1))

    @property
    def interval(self) -> str:
        """``81.0–87.0``, or nothing."""
        return interval_text(self.low, self.high)

    def __str__(self) -> str:
        return percent_text(self.value)


@dataclass(frozen=True, slots=True)
class TimeView:
    """Latency in ms: predicted, measured, and how sure."""

    predicted: float | None
    median: float | None
    p10: float | None
    p90: float | None
    p99: float | None
    low: float | None
    high: float | None
    samples: int | None
    steady: bool | None
    quantiles: Mapping[str, tuple[float | None, float | None]]

    @classmethod
    def of(cls, record: Any) -> TimeView | None:
        """From the ``latency_ms`` of a candidate, or a measurement's own record."""
        if not isinstance(record, Mapping):
            return None
        samples = record.get("samples")
        steady = record.get("steady")
        view = cls(
            number(record, "predicted"),
            number(record, "median"),
            number(record, "p10"),
            number(record, "p90"),
            number(record, "p99"),
            number(record, "interval95", 0),
            number(record, "interval95", 1),
            len(samples) if isinstance(samples, list) else whole(record, "samples"),
            steady if isinstance(steady, bool) else None,
            {
                name: (number(record, f"{name}_bounds", 0), number(record, f"{name}_bounds", 1))
                for name in ("p50", "p90", "p99")
            },
        )
        return None if view.predicted is None and view.median is None else view

    def of_statistic(self, statistic: str) -> float | None:
        """The quantile named ``p50``, ``p90`` or ``p99``."""
        return {"p50": self.median, "p90": self.p90, "p99": self.p99}.get(statistic)

    def bounds(self, statistic: str) -> tuple[float, float]:
        """Of the true quantile, as far as they are recorded: it is no less than the first, no more than the second."""
        low, high = self.quantiles.get(statistic, (None, None))
        if statistic == "p50":
            low, high = (self.low, self.high) if high is None else (low, high)
        # No quantile from the 50th upwards lies below the median's own bound; that it ends somewhere is not known.
        least = next((value for value in (low, self.low, self.median) if value is not None), 0.0)
        return least, math.inf if high is None else high

    def doubt_of(self, statistic: str) -> str:
        """``± 2.0 %`` of the quantile: half of its bounds; empty where they are not recorded."""
        value, (low, high) = self.of_statistic(statistic), self.bounds(statistic)
        if not value or not math.isfinite(high):
            return ""
        return f"±\u00a0{significant(50 * (high - low) / value, 2)}\u00a0%"

    @property
    def half_width(self) -> float | None:
        """Half of the median's 95 % interval, as a share of the median."""
        if self.median is None or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.median

    @property
    def doubt(self) -> str:
        """``± 1.2 %`` of the median, or ``unsteady``."""
        if self.steady is False:
            return "unsteady"
        return "" if self.half_width is None else f"± {significant(100 * self.half_width, 2)} %"

    def __str__(self) -> str:
        return ms_text(self.median)


@dataclass(frozen=True, slots=True)
class MemoryView:
    """Peak memory in bytes, measured in fresh processes; a record of an earlier search may have a prediction alone."""

    predicted: float | None
    median: float | None
    least: float | None
    most: float | None

    @classmethod
    def of(cls, record: Any) -> MemoryView | None:
        """From the ``memory_bytes`` of a candidate; ``None`` where memory was not asked about."""
        view = cls(*(number(record, name) for name in ("predicted", "median", "least", "most")))
        return None if view.predicted is None and view.median is None else view

    def __str__(self) -> str:
        if self.median is None:
            return f"predicted {peak_text(self.predicted)}"
        return peak_text(self.median)


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One candidate of a front.

    ``place`` is that in the run's ``front.json``, where a report's own budget has put it elsewhere.
    """

    counts: tuple[int, ...]
    macs: float | None
    accuracy: AccuracyView | None
    time: TimeView | None
    verdict: str
    origin: str
    difference: Mapping[str, Any]
    others: Mapping[str, Any]
    genes: str = ""
    memory: MemoryView | None = None
    place: int | None = None

    @classmethod
    def of(cls, record: Any, metric: str) -> CandidateView:
        """From an entry of ``front.json``."""
        return cls(
            tuple(count for count in sequence(record, "schedule") if isinstance(count, int)),
            number(record, "macs"),
            AccuracyView.of(record, metric),
            TimeView.of(mapping(record, "latency_ms")),
            text(record, "verdict") or "",
            text(record, "origin") or "",
            mapping(record, "against_dense"),
            mapping(record, "others"),
            genes_text(
                len(sequence(record, "schedule")),
                sequence(record, "executed") or None,
                sequence(record, "image_size") or None,
                text(record, "score"),
                text(record, "precision"),
                text(record, "reduction"),
            ),
            MemoryView.of(mapping(record, "memory_bytes")),
            whole(record, "place"),
        )

    @property
    def schedule(self) -> str:
        """``65x4,50x4,33x4``, and what a joint search chose beside the counts."""
        return counts_text(self.counts) + self.genes
