"""LatencyTable: how long each half of a layer takes on a target, by token count, and what that predicts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

from tavt_kit.device import TargetDevice
from tavt_kit.errors import MeasurementError, RecordError
from tavt_kit.host import HostFacts
from tavt_kit.schedule import TokenSchedule

__all__ = ["Curve", "DropCell", "HeldOut", "LatencyTable", "LayerCells"]


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds at some token counts, ascending; between and beyond them interpolated.

    Args:
        counts: Tokens.
        ms: Time at each.
        width: Of a part whose work is ``n * (2 * width + n)``, such as attention: the interpolation is linear
            in that work, so that a constant, a linear and a quadratic share are met together. 0 for a part
            whose work is linear in n.

    Raises:
        MeasurementError: No points, unordered counts, or a time that is not above zero.
    """

    counts: tuple[int, ...]
    ms: tuple[float, ...]
    width: int = 0

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.counts, self.counts[1:], strict=False))
        if not self.counts or len(self.counts) != len(self.ms) or not ascending:
            raise MeasurementError(f"a latency curve needs one time for each ascending count, got {self.counts}")
        if not all(ms > 0 for ms in self.ms):
            raise MeasurementError(f"a latency curve needs times above 0 ms, got {self.ms}")

    def at(self, count: float) -> float:
        """Milliseconds at any token count; never below zero."""
        if len(self.counts) == 1:
            return self.ms[0]
        above = min(max(bisect_right(self.counts, count), 1), len(self.counts) - 1)
        low, high = self._work(self.counts[above - 1]), self._work(self.counts[above])
        share = (self._work(count) - low) / (high - low)
        return max(self.ms[above - 1] + share * (self.ms[above] - self.ms[above - 1]), 0.0)

    def _work(self, count: float) -> float:
        return count * (2 * self.width + count) if self.width else count


@dataclass(frozen=True, slots=True)
class DropCell:
    """Attention, score, selection and gather from ``count`` tokens, measured at two numbers of kept tokens.

    At a fixed length all that depends on the kept tokens is linear in them (projection, gather, queries).
    """

    count: int
    few: int
    few_ms: float
    many: int
    many_ms: float

    def at(self, kept: float) -> float:
        """Milliseconds when ``kept`` tokens stay."""
        if self.many == self.few:
            return (self.few_ms + self.many_ms) / 2
        slope = (self.many_ms - self.few_ms) / (self.many - self.few)
        return max(self.few_ms + slope * (kept - self.few), 0.0)


@dataclass(frozen=True, slots=True)
class LayerCells:
    """One layer, averaged over the layers of the model, and what stands before and after the layers.

    Args:
        attend: Attention half-block that keeps every token.
        drop: Attention half-blocks that drop, by ascending count.
        feed: Feed-forward half-block.
        last: The whole last layer of a head that reads leading tokens only; ``None`` for pooling heads.
        stem_ms: Patch and position embedding.
        head: Final norm, pooling and classifier.
    """

    attend: Curve
    drop: tuple[DropCell, ...]
    feed: Curve
    last: Curve | None
    stem_ms: float
    head: Curve

    def drop_ms(self, count: int, kept: int) -> float:
        """Attention from ``count`` tokens to ``kept``: both neighbouring lengths at the same share kept."""
        counts = [cell.count for cell in self.drop]
        above = min(max(bisect_right(counts, count), 1), len(counts) - 1)
        cells = self.drop[max(above - 1, 0) : above + 1]
        times = tuple(max(cell.at(cell.count * kept / count), 1e-6) for cell in cells)
        return Curve(tuple(cell.count for cell in cells), times, self.attend.width).at(count)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A schedule that had no part in the table, predicted and measured end to end.

    Args:
        schedule: Drawn at random.
        predicted_ms: By the table as it is.
        measured_ms: Median.
        steady: Whether the measurement was sure.
        drift: The dense model's time in the same measurement over its prediction: what the machine's own speed did
            since the table was made.
    """

    schedule: TokenSchedule
    predicted_ms: float
    measured_ms: float
    steady: bool = True
    drift: float = 1.0

    @property
    def error(self) -> float:
        """Prediction over measurement at the same speed of the machine, minus one."""
        return self.predicted_ms * self.drift / self.measured_ms - 1

    @property
    def raw_error(self) -> float:
        """Prediction over measurement, minus one; the machine's drift included."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """The per-layer latency of one model on one target.

    Args:
        target: Where it was measured, with threads and precision resolved.
        model: Name of the model, for people.
        tokens: Tokens before anything is dropped.
        layers: Layers of the model.
        prefix: Tokens that are no patches.
        score: Which score the dropping cells compute.
        cells: The measured parts.
        scale: Factor that makes sums of parts meet end-to-end runs.
        cached: Share of its weights that a whole pass was found to have in the caches; the cells include it.
        taps: Tokens that the last layer takes, at most, from each layer before it; 0 where it takes what is left.
        held_out: What the table was tested on.
        seconds: How long it took to build.
        host: Where and when.
    """

    target: TargetDevice
    model: str
    tokens: int
    layers: int
    prefix: int
    score: str
    cells: LayerCells
    scale: float = 1.0
    cached: float = 0.0
    taps: int = 0
    held_out: tuple[HeldOut, ...] = ()
    seconds: float = 0.0
    host: HostFacts | None = None

    def predict(self, schedule: TokenSchedule) -> float:
        """Milliseconds of one inference (of ``target.batch`` images) by the lean path.

        Raises:
            ScheduleError: The schedule does not fit the model.
        """
        schedule.check(tokens=self.tokens, layers=self.layers, prefix=self.prefix)
        return self.scale * self._sum(schedule)

    def parts(self, schedule: TokenSchedule) -> tuple[float, ...]:
        """Where ``predict`` comes from: milliseconds of the stem, of each layer (0 if it does not run), of the head."""
        schedule.check(tokens=self.tokens, layers=self.layers, prefix=self.prefix)
        return tuple(self.scale * ms for ms in self._parts(schedule))

    def _sum(self, schedule: TokenSchedule) -> float:
        return sum(self._parts(schedule))

    def _parts(self, schedule: TokenSchedule) -> list[float]:
        cells, count, parts = self.cells, self.tokens, [self.cells.stem_ms]
        fused = 1
        for layer, kept in enumerate(schedule.counts):
            if not schedule.runs(layer):
                parts.append(0.0)
                continue
            if cells.last is not None and layer == self.layers - 1:
                parts.append(cells.last.at(fused if self.taps else count))
            elif kept == count:
                parts.append(cells.attend.at(count) + cells.feed.at(count))
            else:
                parts.append(cells.drop_ms(count, kept) + cells.feed.at(kept))
            count, fused = kept, fused + min(self.taps, kept)
        return [*parts, cells.head.at(count)]

    def calibrated(self, measured: Iterable[tuple[TokenSchedule, float]]) -> LatencyTable:
        """The same table with its scale set by end-to-end runs: the median of measured over predicted.

        Args:
            measured: Schedules and their milliseconds.
        """
        ratios = [ms / self._sum(schedule) for schedule, ms in measured]
        return self if not ratios else replace(self, scale=median(ratios))

    def tested(self, held_out: Iterable[HeldOut]) -> LatencyTable:
        """The same table with the schedules it was tested on."""
        return replace(self, held_out=tuple(held_out))

    @property
    def mean_error(self) -> float | None:
        """Mean absolute ``error`` of the held-out schedules; ``None`` before any was measured."""
        return fmean(abs(run.error) for run in self.held_out) if self.held_out else None

    @property
    def worst_error(self) -> float | None:
        """Largest absolute ``error`` of the held-out schedules."""
        return max(abs(run.error) for run in self.held_out) if self.held_out else None

    @property
    def mean_raw_error(self) -> float | None:
        """Mean absolute ``raw_error`` of the held-out schedules."""
        return fmean(abs(run.raw_error) for run in self.held_out) if self.held_out else None

    def as_record(self) -> dict[str, Any]:
        """For ``profile.json`` (schema fgvc-kit/profile, version 1)."""
        return {
            "model": self.model,
            "target": self.target.as_record(),
            "tokens": self.tokens,
            "layers": self.layers,
            "prefix": self.prefix,
            "score": self.score,
            "scale": self.scale,
            "cached": self.cached,
            "taps": self.taps,
            "seconds": self.seconds,
            "cells": asdict(self.cells),
            "held_out": [
                {
                    "schedule": list(run.schedule.counts),
                    "predicted_ms": run.predicted_ms,
                    "measured_ms": run.measured_ms,
                    "steady": run.steady,
                    "drift": run.drift,
                }
                for run in self.held_out
            ],
            "mean_error": self.mean_error,
            "worst_error": self.worst_error,
            "host": None if self.host is None else self.host.as_record(),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LatencyTable:
        """From ``as_record``.

        Raises:
            RecordError: A field is missing or of the wrong kind.
        """
        try:
            return cls(
                target=TargetDevice.from_record(record["target"]),
                model=record["model"],
                tokens=record["tokens"],
                layers=record["layers"],
                prefix=record["prefix"],
                score=record["score"],
                cells=_cells(record["cells"]),
                scale=record["scale"],
                cached=record.get("cached", 0.0),
                taps=record.get("taps", 0),
                held_out=tuple(
                    HeldOut(
                        TokenSchedule(tuple(run["schedule"])),
                        run["predicted_ms"],
                        run["measured_ms"],
                        run["steady"],
                        run.get("drift", 1.0),
                    )
                    for run in record["held_out"]
                ),
                seconds=record["seconds"],
                host=None if record["host"] is None else HostFacts.from_record(record["host"]),
            )
        except (KeyError, TypeError) as error:
            raise RecordError(f"a latency table lacks or misuses a field: {error}; measure it again") from None


def _cells(record: Mapping[str, Any]) -> LayerCells:
    return LayerCells(
        attend=_curve(record["attend"]),
        drop=tuple(DropCell(**cell) for cell in record["drop"]),
        feed=_curve(record["feed"]),
        last=None if record["last"] is None else _curve(record["last"]),
        stem_ms=record["stem_ms"],
        head=_curve(record["head"]),
    )


def _curve(record: Mapping[str, Any]) -> Curve:
    return Curve(tuple(record["counts"]), tuple(record["ms"]), record["width"])
