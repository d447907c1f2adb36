"""What every reader of a record relies on: its keys and their types, checked once, where the file is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.codec import Record, decode
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError

_MOST = 1e12
"""What no time and no share reaches; charts of more would overflow."""


@dataclass(frozen=True)
class _Part(Record):
    """Further keys are passed over."""

    BESIDE: ClassVar[None] = None


@dataclass(frozen=True)
class _Latency(_Part):
    predicted: float | None = None
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    p99: float | None = None
    interval95: tuple[float, float] | None = None
    samples: int | None = None
    steady: bool = True

    def __post_init__(self) -> None:
        for name in ("predicted", "median", "p10", "p90", "p99"):
            value = getattr(self, name)
            if value is not None and not 0 < value < _MOST:
                raise RecordError(f"a time must be above 0 and below {_MOST:g} ms, but {name} is {value}")


@dataclass(frozen=True)
class _Memory(_Part):
    median: float | None = None
    most: float | None = None
    predicted: float | None = None


@dataclass(frozen=True)
class _Row(_Part):
    macs: int | None
    latency_ms: _Latency | None = None
    n: int | None = None
    ci95: tuple[float, float] | None = None
    verdict: str | None = None
    origin: str = ""
    memory_bytes: _Memory | None = None
    others: Mapping[str, Accuracy] = field(default_factory=dict)
    against_dense: PairedDifference | None = None

    def __post_init__(self) -> None:
        if self.macs is not None and self.macs < 1:
            raise RecordError(f"multiply-adds must be above 0, but are {self.macs}")
        if self.ci95 is not None and not -1 <= self.ci95[0] <= self.ci95[1] <= 2:
            raise RecordError(f"ci95 must be the ends of an interval of shares, but is {self.ci95}")


@dataclass(frozen=True)
class _Candidate(_Row):
    schedule: TokenSchedule = field(kw_only=True)
    macs: int
    executed: tuple[int, ...] | None = None
    image_size: tuple[int, int] | None = None
    precision: str | None = None
    score: str | None = None
    reduction: str | None = None


@dataclass(frozen=True)
class _Model(_Row):
    name: str = field(kw_only=True)


@dataclass(frozen=True)
class _LeftOut(_Part):
    name: str
    reason: str


@dataclass(frozen=True)
class _Front(_Part):
    metric: str
    candidates: tuple[_Candidate, ...]
    split: str = ""
    verdict: str = ""
    budgets: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    target: TargetDevice | None = None
    objectives: tuple[str, ...] = ("macs",)
    chosen: int | None = None
    baselines: tuple[_Candidate, ...] = ()
    baseline_models: tuple[_Model, ...] = ()
    baselines_left_out: tuple[_LeftOut, ...] = ()
    gene_ablation: tuple[Mapping[str, Any], ...] = ()
    undecided: tuple[str, ...] = ()
    stopped_because: str | None = None
    history: tuple[float, ...] = ()
    seconds: float = 0.0
    host: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.chosen is not None and not 0 <= self.chosen < len(self.candidates):
            raise RecordError(f"chosen must be one of {len(self.candidates)} candidates, but is {self.chosen}")
        if not all(abs(value) < _MOST for value in (*self.history, self.seconds)):
            raise RecordError(f"history and seconds must be below {_MOST:g}")


def _check_front(record: Mapping[str, Any]) -> None:
    front = decode(_Front, record, "the front")
    for key in ("candidates", "baselines", "baseline_models"):
        for index, row in enumerate(record.get(key, ())):
            share = row.get(front.metric)
            if share is None and key == "baseline_models":  # its weights are random
                continue
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise RecordError(f"{key}[{index}].{front.metric} must be from 0 to 1, but is {share!r}")
    for index, row in enumerate(record["candidates"]):
        cost: Any = row
        for step in (front.objectives or ("none",))[0].split("."):
            cost = cost.get(step) if isinstance(cost, Mapping) else None
        if isinstance(cost, bool) or not isinstance(cost, int | float):
            raise RecordError(f"candidates[{index}] must have the first of objectives {front.objectives}")


SHAPES: Mapping[str, Callable[[Mapping[str, Any]], None]] = {"front": _check_front}
"""By kind of record, what raises RecordError where a reader could not go by it; of other kinds each reader decides."""
