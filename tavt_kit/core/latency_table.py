"""LatencyTable: how long each half of a layer takes on a target, by token count, and what that predicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any, ClassVar

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.layer_cells import Curve as Curve
from tavt_kit.core.layer_cells import DropCell as DropCell
from tavt_kit.core.layer_cells import LayerCells as LayerCells
from tavt_kit.core.layer_cells import ShapePenalty as ShapePenalty
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import sha256_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError

_MACS = 0.01
"""By how much, relatively, the multiply-adds of one backbone may differ between two heads."""


@dataclass(frozen=True, slots=True)
class TimedModel(Record):
    """What a latency table says of the model that was timed.

    Args:
        name: Name of the model, for people.
        layout: Layout of the model.
        score: Score that the dropping cells compute.
        pool: Whether the head pools over kept or restored tokens; ``None``, like ``macs`` and ``image_size``, in tables
            of older versions.
        taps: Tokens that the last layer takes, at most, from each layer before it; 0 where it takes what is left.
        macs: Multiply-adds of the dense model, which tell backbones of one name apart.
        image_size: (H, W) in pixels.
        reduction: What becomes of the tokens that a layer does not keep.
    """

    name: str = field(metadata=recorded_as("model"))
    layout: TokenLayout = field(metadata=recorded_as(inline=True))
    score: str = "column"
    pool: str | None = None
    taps: int = 0
    macs: int | None = None
    image_size: tuple[int, int] | None = None
    reduction: str = field(default="drop", metadata=recorded_as(omit_default=True))
    """Left out of records where tokens drop, so that the digests of older profiles stay what they were."""

    def with_pooling(self, token_pooled: bool) -> TimedModel:
        """The same, of a head that reads prefix tokens only, or not."""
        return replace(self, layout=replace(self.layout, token_pooled=token_pooled))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A schedule that had no part in the table, predicted and measured end to end.

    Args:
        schedule: Drawn at random.
        predicted_ms: By the table as it is.
        measured_ms: Median.
        steady: Whether the measurement was sure.
        drift: What the machine's own speed did since the table was made, by the dense model's time then and in the
            same rounds.
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
class LatencyTable(Record):
    """The per-layer latency of one model on one target.

    Args:
        target: Where it was measured, with threads and precision resolved.
        model: The model that was timed.
        cells: The measured parts.
        scale: Factor that makes sums of parts meet end-to-end runs.
        cached: Share of its weights that a whole pass was found to have in the caches; the cells include it.
        held_out: What the table was tested on.
        seconds: How long it took to build.
        host: Where and when.
        tails: Latency quantiles (``p90``, ``p99``) of whole passes as multiples of their median, where they were
            looked at: a table that is carried to another machine brings them along.
        calibration: What int8 was calibrated on; ``None`` in floating point.
        dense_ms: What the dense model took while the parts were timed.
    """

    target: TargetDevice
    model: TimedModel = field(metadata=recorded_as(inline=True))
    cells: LayerCells
    scale: float = 1.0
    cached: float = 0.0
    held_out: tuple[HeldOut, ...] = ()
    seconds: float = 0.0
    host: HostFacts | None = None
    tails: Mapping[str, float] = field(default_factory=dict)
    calibration: str | None = None
    dense_ms: float | None = None
    VIEWS: ClassVar[tuple[str, ...]] = ("mean_error", "worst_error")
    BESIDE: ClassVar[tuple[str, ...]] = ("schema", "version", "command")

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.with_pooling(self.cells.last is not None))

    def check_model(self, model: TimedModel) -> None:
        """Refuse another model than the one that was timed.

        Args:
            model: Model to predict; its multiply-adds may differ by a hundredth (a head of another number of classes).

        Raises:
            RecordError: It is another one; the message lists what differs.
        """
        mine = self.model.as_record()
        other = [
            f"{name} {mine[name]} instead of {value}"
            for name, value in model.as_record().items()
            if not _agrees(mine[name], value, within=_MACS if name == "macs" else 0.0)
        ]
        if other:
            raise RecordError(
                f"the profile is of another model: it has {', '.join(other)}; make one of this model (fgvc-kit profile)"
            )

    def predict(self, schedule: TokenSchedule) -> float:
        """Milliseconds of one inference (of ``target.batch`` images) by the lean path.

        Raises:
            ScheduleError: The schedule does not fit the model.
        """
        schedule.check(self.model.layout)
        return self.scale * self._sum(schedule)

    def parts(self, schedule: TokenSchedule) -> tuple[float, ...]:
        """Where ``predict`` comes from: milliseconds of the stem, of each layer (0 if it does not run), of the head."""
        schedule.check(self.model.layout)
        return tuple(self.scale * ms for ms in self._parts(schedule))

    def _sum(self, schedule: TokenSchedule) -> float:
        return sum(self._parts(schedule))

    def _parts(self, schedule: TokenSchedule) -> list[float]:
        cells, parts = self.cells, [self.cells.stem_ms]
        (count, layers), taps, fused = (self.model.layout.tokens, self.model.layout.layers), self.model.taps, 1
        for layer, kept in enumerate(schedule.counts):
            if not schedule.runs(layer):
                parts.append(0.0)
                continue
            if cells.last is not None and layer == layers - 1:
                parts.append(cells.last_ms(fused if taps else count))
            elif kept == count:
                parts.append(cells.attend_ms(count) + cells.feed_ms(count))
            else:
                parts.append(cells.drop_ms(count, kept) + cells.feed_ms(kept))
            count, fused = kept, fused + min(taps, kept)
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

    @property
    def believed_tails(self) -> dict[str, float]:
        """``tails``, and where nobody looked, the longest that would be believed."""
        return {**_BOUNDS, **self.tails}

    @property
    def digest(self) -> str:
        """What tells one table from another."""
        return sha256_text(json.dumps(self.as_record(), sort_keys=True))


_BOUNDS = {"p90": 1.1, "p99": 1.3}
"""Tails believed from a brief look; on a quiet machine they are 1.03 to 1.07 and 1.1 to 1.2."""


def tails_of(runs: Iterable[Measurement]) -> dict[str, float]:
    """Quantiles as multiples of the median; a budget is about them, a table about the median.

    The smallest of the runs', and bounded: what disturbs a brief look is rarely the target's own, and a tail
    believed too long would shut out the best schedules, while one too short is put right by the measurement.
    """
    ratios = [{"p90": run.p90 / run.median, "p99": run.p99 / run.median} for run in runs]
    return {name: min(bound, *(one[name] for one in ratios)) for name, bound in _BOUNDS.items()}


def _agrees(mine: Any, other: Any, within: float) -> bool:
    if within and mine is not None:
        return bool(abs(mine - other) <= within * max(mine, other))
    return bool(mine == other)
