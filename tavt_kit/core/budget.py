"""What may be spent and what must be kept: budgets of limits such as ``latency=20ms``, and the verdict on each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

from tavt_kit.core.latency_bounds import DOUBT, latency_bounds
from tavt_kit.errors import BudgetError

if TYPE_CHECKING:
    from tavt_kit.core.accuracy import Accuracy, PairedDifference
    from tavt_kit.core.measurement import Measurement

_EXAMPLES = "latency=20ms, flops=9G, memory=300MB, size=25MB, throughput=120/s, top1=84%, drop=0.5"
_TEXT = re.compile(r"\s*(?P<name>\w+)\s*(?:\[(?P<statistic>.*)\])?\s*(?P<sense><=|>=|=)\s*(?P<value>\S.*?)\s*")
_NUMBER = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?nan|[+-]?inf)\s*(?P<unit>\D*)", re.I)
_TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}  # to milliseconds
_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_RATES = {"/s": 1.0}
_SHARES = {"": 1.0, "%": 0.01}
_POINTS = {"": 0.01, "pt": 0.01, "points": 0.01}  # to a fraction of all images


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one quantity is written; the first of its units is the base."""

    sense: Literal["<=", ">="]
    units: dict[str, float]
    example: str


_KINDS = {
    "latency": _Kind("<=", _TIMES, "latency=20ms"),
    "flops": _Kind("<=", _COUNTS, "flops=9G"),
    "memory": _Kind("<=", _BYTES, "memory=300MB"),
    "size": _Kind("<=", _BYTES, "size=25MB"),
    "throughput": _Kind(">=", _RATES, "throughput=120/s"),
    "top1": _Kind(">=", _SHARES, "top1=84%"),
    "macro_f1": _Kind(">=", _SHARES, "macro_f1=80%"),
    "recall": _Kind(">=", _SHARES, "recall[crack]=98%"),
    "drop": _Kind("<=", _POINTS, "drop=0.5"),
}

LEAST_HELD_OUT = 50
"""Images that a search keeps at least, to judge a floor: fewer prove no loss below 6 points, and it misses them."""

_LATENCIES = ("p50", "p90", "p99")
_QUALITIES = ("top1", "macro_f1", "recall", "drop")


@dataclass(frozen=True, slots=True)
class Limit:
    """One line of a budget.

    Args:
        quantity: ``latency``, ``flops``, ``memory``, ``size``, ``throughput``, ``top1``, ``macro_f1``,
            ``recall`` or ``drop``.
        statistic: ``p50``, ``p90`` or ``p99`` of a latency, the class of a recall, else ``None``.
        value: In ms, multiply-adds, bytes, images a second, or as a fraction (``drop``: of all images).

    Raises:
        BudgetError: An unknown quantity or statistic, or a value no limit can have.

    Example:
        >>> Limit.parse("latency = 0.02 s")
        Limit(quantity='latency', statistic='p90', sense='<=', value=20.0)
        >>> str(Limit.parse("drop<=0.5"))
        'drop=0.5'
    """

    quantity: str
    statistic: str | None
    sense: Literal["<=", ">="]
    value: float

    def __post_init__(self) -> None:
        kind, statistic, value = _kind_of(self.quantity), self.statistic, self.value
        if self.sense != kind.sense:
            bound = "at most" if kind.sense == "<=" else "at least"
            raise BudgetError(f"{self.quantity} can only be limited to {bound} a value: write {kind.example}")
        if self.quantity == "latency" and statistic not in _LATENCIES:
            raise BudgetError(f"a latency is one of {', '.join(_LATENCIES)}, as latency[p90]=20ms, got {statistic!r}")
        if self.quantity == "recall" and not statistic:
            raise BudgetError("a recall names its class, as in recall[crack]=98%")
        if self.quantity not in ("latency", "recall") and statistic is not None:
            raise BudgetError(f"{self.quantity} has no variants, got [{statistic}]: write {kind.example}")
        if not math.isfinite(value) or value < 0 or (value == 0 and self.quantity != "drop"):
            raise BudgetError(f"a limit on {self.quantity} is a positive number as in {kind.example}, got {value:g}")
        if self.is_quality and value > 1:
            raise BudgetError(
                f"a limit on {self.quantity} cannot be above 100%, got {100 * value:g}%: write a percent sign "
                f"or a fraction, as in {kind.example}"
            )

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read one limit such as ``latency[p50]=20ms`` or ``top1>=84%``; ``=`` takes the quantity's sense."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise BudgetError(f"a budget is QUANTITY=VALUE such as {_EXAMPLES}, got {text!r}")
        name, given = match["name"], match["value"]
        if "=" in given:
            raise BudgetError(f"a budget is one limit, got {text!r}; give `budget` once for each")
        kind, number = _kind_of(name, text), _NUMBER.fullmatch(given)
        unit = number["unit"].strip() if number else ""
        if number is None or unit not in kind.units:
            units = ", ".join(repr(unit) if unit else "none" for unit in kind.units)
            raise BudgetError(f"cannot read {given!r} in {text!r}: the unit is one of {units}, as in {kind.example}")
        statistic = "p90" if name == "latency" and match["statistic"] is None else match["statistic"]
        sense: Literal["<=", ">="] = ">=" if match["sense"] == ">=" else "<=" if match["sense"] == "<=" else kind.sense
        return cls(name, statistic, sense, float(number["number"]) * kind.units[unit])

    @property
    def is_quality(self) -> bool:
        """Whether the limit is on what the predictions are worth, not on what they cost."""
        return self.quantity in _QUALITIES

    @property
    def name(self) -> str:
        """The quantity with its statistic: ``latency[p50]``; the default ``p90`` is not spelled."""
        usual = self.statistic is None or (self.quantity, self.statistic) == ("latency", "p90")
        return self.quantity if usual else f"{self.quantity}[{self.statistic}]"

    def show(self, value: float, digits: int = 4) -> str:
        """``value`` in this limit's own unit, for people: ``19.2ms``, ``3.12G``, ``84.2%``."""
        if self.quantity == "latency":
            return f"{value:.{digits}g}ms"
        if self.quantity == "throughput":
            return f"{value:.{digits}g}/s"
        if self.quantity == "drop":
            return f"{100 * value:.{digits}g}"
        if self.is_quality:
            return f"{100 * value:.{digits}g}%"
        steps = ("", "K", "M", "G", "T") if self.quantity == "flops" else ("B", "KB", "MB", "GB")
        power = min(int(math.log10(max(value, 1.0)) // 3), len(steps) - 1)
        return f"{value / 1000**power:.{digits}g}{steps[power]}"

    def admits(self, value: float) -> bool:
        """Whether a value known without error keeps to the limit; NaN never does."""
        return value <= self.value if self.sense == "<=" else value >= self.value

    def __str__(self) -> str:
        """The canonical text, which ``parse`` reads back."""
        return f"{self.name}={self.show(self.value, digits=12)}"


@dataclass(frozen=True, slots=True)
class Budget:
    """All limits of one request, in the order they were given.

    Raises:
        BudgetError: The same quantity is limited to two different values.
    """

    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, Limit] = {}
        for limit in self.limits:
            other = seen.setdefault(limit.name, limit)
            if other != limit:
                raise BudgetError(f"the budgets {other} and {limit} contradict each other: give {limit.name} once")
        object.__setattr__(self, "limits", tuple(seen.values()))

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Budget:
        """Read the texts of all ``--budget`` flags."""
        return cls(tuple(Limit.parse(text) for text in texts))

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.limits)

    def of(self, *quantities: str) -> tuple[Limit, ...]:
        """The limits on any of ``quantities``."""
        return tuple(limit for limit in self.limits if limit.quantity in quantities)

    @property
    def ceilings(self) -> tuple[Limit, ...]:
        """The limits on cost."""
        return tuple(limit for limit in self.limits if not limit.is_quality)

    @property
    def floors(self) -> tuple[Limit, ...]:
        """The limits on quality; with any of them a search minimises the cost."""
        return tuple(limit for limit in self.limits if limit.is_quality)

    def texts(self) -> list[str]:
        """The canonical texts."""
        return [str(limit) for limit in self.limits]


def _kind_of(quantity: str, text: str = "") -> _Kind:
    if quantity not in _KINDS:
        raise BudgetError(f"a budget limits one of {', '.join(_KINDS)}, got {(text or quantity)!r}: try {_EXAMPLES}")
    return _KINDS[quantity]


class Verdict(StrEnum):
    """Does a candidate keep to a limit? The bounds of the measurement decide, not its middle. From best to worst."""

    PASS = "PASS"
    PREDICTED = "PREDICTED"  # met by a prediction only; a measurement turns it into PASS or FAIL
    INCONCLUSIVE = "INCONCLUSIVE"  # the line lies between the bounds, or nothing is known
    FAIL = "FAIL"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of the verdicts; PASS of none, because then nothing was asked."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.PASS)


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one quantity, in the unit of its limit.

    The bounds are each wrong once in twenty times at most, or the value itself where it is counted; the upper one is
    infinity where nothing says how much it may be. A prediction can miss a limit but never pass it.
    """

    low: float
    high: float
    predicted: bool = False


Facts: TypeAlias = Mapping[str, Fact]
"""What is known of a model, by the name of the limit that asks for it (``Limit.name``)."""


def judge(limit: Limit, facts: Facts) -> Verdict:
    """Judge one limit: every verdict of the program is this one.

    Example:
        >>> facts = {"latency": Fact(7.9, 8.1)}
        >>> [str(judge(Limit.parse(text), facts)) for text in ("latency=9ms", "latency=8ms", "top1=84%")]
        ['PASS', 'INCONCLUSIVE', 'INCONCLUSIVE']
    """
    fact = facts.get(limit.name)
    if fact is None or math.isnan(fact.low) or math.isnan(fact.high):
        return Verdict.INCONCLUSIVE
    inside = limit.admits(fact.low), limit.admits(fact.high)
    if fact.predicted:
        return Verdict.PREDICTED if all(inside) else Verdict.FAIL
    return Verdict.PASS if all(inside) else Verdict.INCONCLUSIVE if any(inside) else Verdict.FAIL


def facts_of(
    *,
    macs: float | None = None,
    latency: Measurement | None = None,
    batch: int = 1,
    accuracies: Iterable[Accuracy | None] = (),
    difference: PairedDifference | None = None,
    seen: bool = False,
) -> dict[str, Fact]:
    """The facts of what was counted and measured; the difference is to the dense model.

    Args:
        seen: Whether a search chose it by these very images. The best of many looks better than it is, and of a search
            that learns from its answers nothing says by how much; such images can refute a floor, not prove it.
    """
    known = [(accuracy.metric, accuracy.bounds(DOUBT)) for accuracy in accuracies if accuracy is not None]
    facts = {metric: Fact(0.0 if seen else low, high) for metric, (low, high) in known}
    if macs is not None:
        facts["flops"] = Fact(macs, macs)
    if latency is not None:
        facts |= time_facts({name: latency_bounds(latency, name) for name in _LATENCIES}, batch)
    if difference is not None:
        low, high = difference.bounds(DOUBT)
        facts["drop"] = Fact(-high, 1.0 if seen else -low)
    return facts


def time_facts(
    bounds: Mapping[str, tuple[float, float]], batch: int = 1, *, predicted: bool = False
) -> dict[str, Fact]:
    """The facts of a batch's latencies in ms, by the statistic of a limit, and of the throughput at their median."""
    facts = {
        "latency" if name == "p90" else f"latency[{name}]": Fact(*ends, predicted) for name, ends in bounds.items()
    }
    if "p50" in bounds:
        least, most = (1e3 * batch / ms if ms else math.inf for ms in reversed(bounds["p50"]))
        facts["throughput"] = Fact(least, most, predicted)
    return facts
