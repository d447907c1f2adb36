"""Candidate and Baseline: a schedule, or another model to hold it against, with what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tavt_kit.core.budget import LEAST_HELD_OUT, Budget, Fact, Limit, Verdict, facts_of, judge, time_facts, worst
from tavt_kit.core.codec import encode
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.latency_bounds import LEAST_RUNS, latency_bounds
from tavt_kit.core.measurement import Measurement

if TYPE_CHECKING:
    from tavt_kit.core.accuracy import Accuracy, PairedDifference
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.measurement import PairedRatio

CostKind = Literal["macs", "predicted", "p50", "p90", "p99"]
"""What a front calls cost: multiply-adds, the predicted latency, or a quantile of the measured one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule and its costs and accuracy, as far as they are known.

    Args:
        schedule: Tokens kept; a configuration where a joint search chose more than these.
        macs: Multiply-adds of one image, rule ``executed``.
        accuracy: The metric that is maximised; ``None`` until evaluated, and where the evaluation failed.
        latency_predicted_ms: From the per-layer table of ``target``.
        target: Where the latencies belong to; ``None`` for a pure MAC search.
        origin: Who proposed it: ``dense``, ``taper``, ``stages``, ``user``, ``random``, ``nsga2``.
        seen: Whether a search chose it by the images that its accuracy is of, so that they prove no floor.
    """

    schedule: Choice
    macs: int
    accuracy: Accuracy | None = None
    latency_predicted_ms: float | None = None
    latency: Measurement | None = None
    target: TargetDevice | None = None
    origin: str = "user"
    difference: PairedDifference | None = None
    verdict: Verdict | None = None
    others: tuple[Accuracy, ...] = ()
    seen: bool = False

    def cost(self, kind: CostKind) -> float:
        """The cost of this kind: multiply-adds, or ms; NaN where it is not known."""
        if kind == "macs":
            return float(self.macs)
        if kind == "predicted":
            return math.nan if self.latency_predicted_ms is None else self.latency_predicted_ms
        if self.latency is None:
            return math.nan
        return {"p50": self.latency.median, "p90": self.latency.p90, "p99": self.latency.p99}[kind]

    @property
    def metric(self) -> float:
        """The accuracy as a fraction; NaN where it is not known."""
        return math.nan if self.accuracy is None else self.accuracy.value

    def known(self, metric: str) -> Accuracy | None:
        """The accuracy of this name, if it is known."""
        known = (self.accuracy, *self.others)
        return next((accuracy for accuracy in known if accuracy is not None and accuracy.metric == metric), None)

    def images_per_second(self, milliseconds: float) -> float:
        """Images that pass in a second, if a batch of the target takes so long."""
        return 1e3 * (1 if self.target is None else self.target.batch) / milliseconds

    def facts(self, quantile_ratios: Mapping[str, float] | None = None) -> dict[str, Fact]:
        """What a budget is held against, by the best that is known: measured before predicted.

        Args:
            quantile_ratios: Latency quantiles as multiples of the predicted median; 1 where they are not known.
        """
        quantile_ratios, batch = quantile_ratios or {}, 1 if self.target is None else self.target.batch
        facts: dict[str, Fact] = {}
        if self.latency_predicted_ms is not None:
            times = {name: self.latency_predicted_ms * quantile_ratios.get(name, 1.0) for name in ("p50", "p90", "p99")}
            facts |= time_facts({name: (ms, ms) for name, ms in times.items()}, batch, predicted=True)
        return facts | facts_of(
            macs=self.macs, latency=self.latency, batch=batch,
            accuracies=(self.accuracy, *self.others), difference=self.difference, seen=self.seen,
        )  # fmt: skip

    def judged(self, budget: Budget, quantile_ratios: Mapping[str, float] | None = None) -> Candidate:
        """The same candidate with its verdict: the worst over all limits; ``quantile_ratios`` as for ``facts``."""
        facts = self.facts(quantile_ratios)
        return replace(self, verdict=worst(judge(limit, facts) for limit in budget))

    def undecided(self, budget: Budget) -> tuple[str, ...]:
        """For each limit whose verdict is INCONCLUSIVE, about how much more would decide it; for people."""
        facts = self.facts()
        open_ = [limit for limit in budget if judge(limit, facts) is Verdict.INCONCLUSIVE]
        return tuple(f"{limit}: {self._needed(limit)}" for limit in open_)

    def _needed(self, limit: Limit) -> str:
        if limit.quantity in ("latency", "throughput"):
            if self.latency is None:
                return "measure it on the target"
            statistic = "p50" if limit.quantity == "throughput" else limit.statistic or "p90"
            least = {"p50": LEAST_RUNS, "p90": LEAST_RUNS, "p99": 299}[statistic]
            enough = self.latency.n >= least
            return "measure longer, on a quieter machine" if enough else f"at least {least} steady runs"
        known: Accuracy | PairedDifference | None = self.difference
        if limit.quantity == "drop":
            gap = math.nan if self.difference is None else -self.difference.difference - limit.value
        else:
            known = accuracy = self.known(limit.name)
            gap = math.nan if accuracy is None else accuracy.value - limit.value
        if known is None:
            return "evaluate it"
        if self.seen:
            return f"val chose it, so val cannot prove it; of {2 * LEAST_HELD_OUT} val images or more half would judge"
        # An interval narrows with the square root of the images.
        fact = self.facts()[limit.name]
        share = (fact.high - fact.low) / 2 / max(abs(gap), 1e-12)
        images = known.n * share**2
        return f"about {images:,.0f} images would decide" if images < 1e6 else "it lies on the line"

    def as_record(self) -> dict[str, Any]:
        """The entry of ``front.json``; the metric's name is a key, its value a fraction."""
        record: dict[str, Any] = {**Configuration.of(self.schedule).as_record(), "macs": self.macs}
        record |= _metrics_record(self)
        record["verdict"] = None if self.verdict is None else str(self.verdict)
        measured = {} if self.latency is None else latency_record(self.latency)
        known = self.latency is not None or self.latency_predicted_ms is not None
        record["latency_ms"] = {"predicted": self.latency_predicted_ms, **measured} if known else None
        record["origin"] = self.origin
        return record


@dataclass(frozen=True, slots=True)
class Baseline:
    """A model that is no schedule of the searched one: the dense model made cheaper in another way, or a user's own.

    Args:
        name: For people: ``dense at 84 px``.
        kind: How it was made: ``int8``, ``resolution``, ``layers``, ``taper`` or ``other``.
        macs: Multiply-adds of one image; ``None`` where they cannot be counted.
        accuracy: On the images of the search; ``None`` where its weights are random.
        ratio: The dense model's time over its own, round by round.
    """

    name: str
    kind: str
    split: str
    macs: int | None = None
    accuracy: Accuracy | None = None
    others: tuple[Accuracy, ...] = ()
    difference: PairedDifference | None = None
    latency: Measurement | None = None
    ratio: PairedRatio | None = None
    batch: int = 1
    verdict: Verdict | None = None
    note: str = ""

    def judged(self, budget: Budget) -> Baseline:
        """With its verdict; of what is not known it is INCONCLUSIVE."""
        facts = facts_of(
            macs=self.macs, latency=self.latency, batch=self.batch, accuracies=(self.accuracy, *self.others),
            difference=self.difference,
        )  # fmt: skip
        return replace(self, verdict=worst(judge(limit, facts) for limit in budget))

    def as_record(self) -> dict[str, Any]:
        """A row of ``baseline_models`` in ``front.json``, with the paired difference and further metrics."""
        return {
            **{"name": self.name, "kind": self.kind, "split": self.split},
            **_metrics_record(self),
            "macs": self.macs,
            "latency_ms": None if self.latency is None else latency_record(self.latency),
            "ratio": None if self.ratio is None else self.ratio.as_record(),
            "verdict": None if self.verdict is None else str(self.verdict),
            "note": self.note,
        }


def _metrics_record(row: Candidate | Baseline) -> dict[str, Any]:
    """Its metrics, and the paired difference to the dense model; the metric's name is a key, its value a fraction."""
    accuracy, record = row.accuracy, dict[str, Any]()
    if accuracy is not None:
        record |= {accuracy.metric: accuracy.value, "n": accuracy.n, "ci95": [accuracy.low, accuracy.high]}
    if row.others:
        record["others"] = {other.metric: other.as_record() for other in row.others}
    if row.difference is not None:
        record["against_dense"] = row.difference.as_record()
    seen = isinstance(row, Candidate) and row.seen
    facts = facts_of(accuracies=(accuracy, *row.others), difference=row.difference, seen=seen)
    if facts:
        record["verdict_bounds"] = {name: [fact.low, fact.high] for name, fact in facts.items()}
    return record


def latency_record(latency: Measurement) -> dict[str, Any]:
    """What ``front.json`` keeps of a measurement: views at the table's speed, raw samples, the factor."""
    bounds = {name: latency_bounds(latency, name) for name in ("p50", "p90", "p99")}
    return {
        **{name: encode(getattr(latency, name)) for name in ("median", "p10", "p90", "p99", "interval95")},
        **{f"{name}_bounds": [end if math.isfinite(end) else None for end in bounds[name]] for name in bounds},
        "samples": latency.n,
        "steady": latency.steady,
        "pace": latency.speed_factor,
        "among": latency.among,
        "raw_ms": [round(sample / latency.speed_factor, 6) for sample in latency.samples],
        "rounds": list(latency.rounds),
    }


def latency_of(record: Mapping[str, Any]) -> Measurement:
    """The measurement that ``latency_record`` wrote."""
    samples = tuple(record["pace"] * ms for ms in record["raw_ms"])
    rounds, among = tuple(record["rounds"]), record.get("among", 1)
    return Measurement(samples, record["steady"], rounds, speed_factor=record["pace"], among=among)


def dense_of(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record of the dense model in a ``front.json``, among the baselines or on the front."""
    everything = (*body.get("baselines", ()), *body["candidates"])
    return next((record for record in everything if record.get("origin") == "dense"), None)
