"""LatencyTable: how long each half of a layer takes on a target, by token count, and what that predicts."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import ClassVar

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import sha256_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError, RecordError

STEM, HEAD = "stem", "head"


def part_names(layers: int) -> tuple[str, ...]:
    """Of a model with so many layers, in order: ``stem``, ``0``, ``1``, ..., ``head``."""
    return (STEM, *map(str, range(layers)), HEAD)


def part_words(name: str) -> str:
    """For people: ``layer 3``, ``stem``."""
    return f"layer {name}" if name.isdigit() else name


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds at some token counts, ascending; between and beyond them interpolated, linearly in the work.

    A part of a ``width``, such as attention, has the work ``n * (2 * width + n)``, so that a constant, a linear and a
    quadratic share are met together; with a width of 0 the work is n.

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
class ShapePenalty:
    """Token counts that take longer than their neighbours, because a product's rows fall into no good blocks.

    Args:
        counts: Ascending.
        ms: What a feed-forward half takes more at each.
        share: Share of that which an attention half takes more.
        dropping: Share of the attention half's due to all tokens where it drops; the rest is due to those that stay.
        reading: The same of the last layer of a head that reads leading tokens only.
    """

    counts: tuple[int, ...]
    ms: tuple[float, ...]
    share: float
    dropping: float = 0.75
    reading: float = 0.5

    def more(self, kind: str, count: int, kept: int = 0) -> float:
        """Milliseconds more of a part: ``feed``, ``attend``, ``drop`` (to ``kept`` tokens) or ``last``; 0 of others."""
        if kind == "drop":
            return self.dropping * self.more("attend", count) + (1 - self.dropping) * self.more("attend", kept)
        index = bisect_left(self.counts, count)
        excess = self.ms[index] if index < len(self.counts) and self.counts[index] == count else 0.0
        shares = {"feed": 1.0, "attend": self.share, "last": self.reading * self.share}
        return shares.get(kind, 0.0) * excess


EVEN = ShapePenalty((), (), 0.0)
"""No count takes longer than its neighbours."""


@dataclass(frozen=True, slots=True)
class LayerCells:
    """One layer, averaged over the layers of the model, and what stands before and after the layers.

    Args:
        attend: Attention half-block that keeps every token.
        drop: Attention half-blocks that drop, by ascending count.
        last: The whole last layer of a head that reads leading tokens only; ``None`` for pooling heads.
        uneven: What single counts take more than the curves say.
    """

    attend: Curve
    drop: tuple[DropCell, ...]
    feed: Curve
    last: Curve | None
    stem_ms: float
    head: Curve
    uneven: ShapePenalty | None = field(default=None, metadata=recorded_as(omit_default=True))
    """Left out of records where there is none, so that the digests of older profiles stay what they were."""

    def ms(self, kind: str, count: int, kept: int = 0) -> float:
        """Milliseconds of a part at any count: ``attend``, ``feed``, ``last`` where it has a time of its own, ``drop``.

        A drop is interpolated between both neighbouring lengths at the same share kept.
        """
        more = (self.uneven or EVEN).more(kind, count, kept)
        if kind != "drop":
            curve: Curve = getattr(self, kind)
            return curve.at(count) + more
        counts = [cell.count for cell in self.drop]
        above = min(max(bisect_right(counts, count), 1), len(counts) - 1)
        cells = self.drop[max(above - 1, 0) : above + 1]
        times = tuple(max(cell.at(cell.count * kept / count), 1e-6) for cell in cells)
        return Curve(tuple(cell.count for cell in cells), times, self.attend.width).at(count) + more


_MACS = 0.01  # By how much, relatively, the multiply-adds of one backbone may differ between two heads


@dataclass(frozen=True, slots=True)
class TimedModel(Record):
    """What a latency table says of the model that was timed.

    Args:
        pool: Like ``macs`` and ``image_size`` ``None`` in tables of older versions.
        taps: Tokens that the last layer takes, at most, from each layer before it; 0 where it takes what is left.
        macs: Multiply-adds of the dense model, which tell backbones of one name apart.
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
    """A schedule that had no part in the table, predicted by it as it is, and measured end to end.

    The drift is what the machine's own speed did since the table was made, by the dense model's time then and in the
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
        scale: Factor that makes sums of parts meet end-to-end runs.
        cached: Share of its weights that a whole pass was found to have in the caches; the cells include it.
        quantile_ratios: Latency quantiles (``p90``, ``p99``) of whole passes as multiples of their median, where
            they were looked at: a table that is carried to another machine brings them along.
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
    quantile_ratios: Mapping[str, float] = field(default_factory=dict, metadata=recorded_as("tails"))
    calibration: str | None = None
    dense_ms: float | None = None
    VIEWS: ClassVar[tuple[str, ...]] = ("mean_error", "worst_error")
    BESIDE: ClassVar[tuple[str, ...]] = ("schema", "version", "command")

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.with_pooling(self.cells.last is not None))

    def check_model(self, model: TimedModel) -> None:
        """Refuse another model than the one that was timed, with a RecordError that lists what differs.

        Its multiply-adds may differ by a hundredth (a head of another number of classes).
        """
        mine, theirs = ({"reduction": known.reduction, **known.as_record()} for known in (self.model, model))
        if mine["macs"] is not None and abs(mine["macs"] - theirs["macs"]) <= _MACS * max(mine["macs"], theirs["macs"]):
            theirs["macs"] = mine["macs"]
        other = [f"{name} {mine[name]} instead of {value}" for name, value in theirs.items() if mine[name] != value]
        if other:
            raise RecordError(
                f"the profile is of another model: it has {', '.join(other)}; make one of this model (fgvc-kit profile)"
            )

    def predict(self, schedule: TokenSchedule) -> float:
        """Milliseconds of one inference (of ``target.batch`` images) by the lean path; or ScheduleError."""
        schedule.check(self.model.layout)
        return self.scale * sum(self._parts(schedule))

    def parts(self, schedule: TokenSchedule) -> tuple[float, ...]:
        """Where ``predict`` comes from: milliseconds of the stem, of each layer (0 if it does not run), of the head."""
        schedule.check(self.model.layout)
        return tuple(self.scale * ms for ms in self._parts(schedule))

    def _parts(self, schedule: TokenSchedule) -> list[float]:
        cells, parts = self.cells, [self.cells.stem_ms]
        (count, layers), taps, fused = (self.model.layout.tokens, self.model.layout.layers), self.model.taps, 1
        for layer, kept in enumerate(schedule.counts):
            if not schedule.runs(layer):
                parts.append(0.0)
                continue
            if cells.last is not None and layer == layers - 1:
                parts.append(cells.ms("last", fused if taps else count))
            elif kept == count:
                parts.append(cells.ms("attend", count) + cells.ms("feed", count))
            else:
                parts.append(cells.ms("drop", count, kept) + cells.ms("feed", kept))
            count, fused = kept, fused + min(taps, kept)
        return [*parts, cells.head.at(count)]

    def resized(self, tokens: int) -> LatencyTable:
        """The same model at an image size with so many tokens: its layers, and the stem by its share of the patches."""
        layout = self.model.layout
        share = (tokens - layout.prefix) / (layout.tokens - layout.prefix)
        model = replace(self.model, layout=replace(layout, tokens=tokens))
        return replace(self, model=model, cells=replace(self.cells, stem_ms=self.cells.stem_ms * share))

    def calibrated(self, measured: Iterable[tuple[TokenSchedule, float]]) -> LatencyTable:
        """The same with its scale set by schedules and their milliseconds: the median of measured over predicted."""
        ratios = [ms / sum(self._parts(schedule)) for schedule, ms in measured]
        return self if not ratios else replace(self, scale=median(ratios))

    @property
    def mean_error(self) -> float | None:
        """Mean absolute ``error`` of the held-out schedules; ``None``, as the others, before any was measured."""
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
    def digest(self) -> str:
        """What tells one table from another."""
        return sha256_text(json.dumps(self.as_record(), sort_keys=True))


LONGEST_RATIOS = {"p90": 1.1, "p99": 1.3}
"""Latency quantiles over the median, as they are believed from a brief look; on a quiet machine they are 1.03 to 1.07
and 1.1 to 1.2."""


def measure_quantile_ratios(runs: Iterable[Measurement]) -> dict[str, float]:
    """Quantiles as multiples of the median; a budget is about them, a table about the median.

    The smallest of the runs', and bounded: what disturbs a brief look is rarely the target's own, and a ratio
    believed too long would shut out the best schedules, while one too short is put right by the measurement.
    """
    ratios = [{"p90": run.p90 / run.median, "p99": run.p99 / run.median} for run in runs]
    return {name: min(bound, *(ratio[name] for ratio in ratios)) for name, bound in LONGEST_RATIOS.items()}
