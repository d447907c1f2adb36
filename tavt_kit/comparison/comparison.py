"""Two records side by side: what belongs together, how much slower or less accurate it became, and with which doubt.

Times are compared by the medians of their rounds, because noise outlasts a single run, and their intervals are those of
``block_bootstrap``.

* Two candidates of one record were measured in turn: their rounds are pairs, and what slows both cancels.
* Two records are of two moments: each is drawn by itself, and a machine that was slower on one of the two days looks
  like a slower candidate. A reference that is in both records takes that out: each candidate is divided by it, round
  by round, in its own record.

Accuracies of two records have no pairs either: the interval of their difference is Newcombe's hybrid of Wilson's
(Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17, 1998,
method 10), wider than a paired one of the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.block_bootstrap import LEAST_ROUNDS, median_interval
from tavt_kit.core.budget import Verdict
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.measurement import Measurement, round_ratios
from tavt_kit.core.records import kind_of, read_json, upgraded
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import MeasurementError, RecordError, TargetError

_HOST = ("cpu", "flags", "cores", "affinity", "quota", "accelerator")
"""Host facts that must agree. Versions of packages may differ, and are told: that is what one often compares."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A median time (ms) and its 95 % interval, of a record that keeps no samples."""

    median: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.median <= self.high < math.inf:
            raise MeasurementError(
                f"a recorded time needs 0 < low <= median <= high, got {self.low}, {self.median}, {self.high}"
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate of a record.

    Args:
        traits: What must agree for two of one name to be the same thing: target, schedule.
        time: Samples, or a summary of them.
        notes: Sentences that make it doubtful.
    """

    name: str
    traits: Mapping[str, str]
    time: Measurement | Summary | None = None
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readable:
    """A record of one of ``KINDS``, as far as it can be compared: its candidates.

    Args:
        traits: What must agree between two records.
        facts: What may differ, and is told.
    """

    path: Path
    kind: str
    traits: Mapping[str, str]
    facts: Mapping[str, str]
    entries: tuple[Entry, ...]


def read_readable(path: Path) -> Readable:
    """Read a record that can be compared.

    Raises:
        RecordError: It is not there, is no JSON, is none of ``KINDS``, or lacks what such a record has.
    """
    body = read_json(path)
    kind = kind_of(body)
    if kind is None or kind not in KINDS:
        schema = body.get("schema") if isinstance(body, dict) else None
        found = f"has schema {schema!r}" if schema is not None else "has no schema"
        raise RecordError(f"records of {', '.join(KINDS)} are compared, but {path} {found}; give one of ours")
    body = upgraded(path, kind, body)
    try:
        traits, facts, entries = KINDS[kind](body)
    except (RecordError, TargetError):
        raise
    except (KeyError, TypeError, AttributeError, ValueError, MeasurementError) as error:
        raise RecordError(f"{path} lacks what a {kind} record has ({error}); write it again") from None
    if not entries:
        raise RecordError(f"{path} has no candidates, so there is nothing to compare; write it again")
    names = [entry.name for entry in entries]
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise RecordError(
                f"the candidates of a record have names of their own, but {name!r} is not one; write it again"
            )
    return Readable(path, kind, traits, facts, tuple(entries))


def files_of_run(folder: Path) -> dict[str, Path]:
    """The records of a run folder that can be compared, by kind.

    Raises:
        RecordError: There are none.
    """
    found = {kind: folder / f"{kind}.json" for kind in KINDS if (folder / f"{kind}.json").is_file()}
    if not found:
        raise RecordError(f"{folder} holds none of the records that compare reads ({', '.join(KINDS)}); name a file")
    return found


Parts = tuple[dict[str, str], dict[str, str], list[Entry]]


def _bench(body: Mapping[str, Any]) -> Parts:
    protocol = {f"protocol {key}": str(value) for key, value in body["protocol"].items()}
    traits = {**_host_traits(body["host"]), **protocol, "inputs": str(body["inputs"])}
    entries = []
    for row in body["candidates"]:
        # Of many inferences in flight the wall clock's share of each is compared, as the bench's own ratios do.
        time = Measurement.from_record(row.get("share_ms") or row["latency_ms"])
        notes = (*(() if time.steady else ("unsteady",)), *row.get("doubts", ()))
        entries.append(Entry(row["name"], {**_target(row["target"]), **_schedule(row)}, time, notes=notes))
    return traits, _facts(body["host"]), entries


def _check(body: Mapping[str, Any]) -> Parts:
    rows = body["checks"]
    data = (rows[0].get("data") if rows else None) or body.get("data") or {}
    traits = {f"data {key}": str(data.get(key)) for key in ("name", "split", "images", "sha256")}
    entries = []
    for row in rows:
        accuracy = Accuracy.from_record(row["artifact_top1"])
        entries.append(Entry(row["artifact"], {"precision": row["precision"], **_schedule(row)}, accuracy=accuracy))
    return traits, {"executed": ", ".join(dict.fromkeys(row["executed"] for row in rows))}, entries


def _front(body: Mapping[str, Any]) -> Parts:
    traits = {**_target(body["target"]), **{key: str(body[key]) for key in ("split", "metric")}}
    traits["model"] = str(body["model"]["name"])
    entries = []
    for row in [*body["candidates"], *body.get("baselines", ())]:
        name = str(Configuration.from_record(row))
        accuracy = Accuracy(body["metric"], body["split"], row[body["metric"]], row["n"], *row["ci95"])
        entries.append(Entry(name, {"schedule": name}, _read_summary(row.get("latency_ms")), accuracy))
    unique = {entry.name: entry for entry in entries}
    return traits, {"budgets": ", ".join(body["budgets"])}, list(unique.values())


def _final(body: Mapping[str, Any]) -> Parts:
    metric, host = body["metric"], body["host"]
    traits = {**_host_traits(host), **_target(body["target"]), "metric": metric}
    entries = []
    for row in body["rows"]:
        accuracy = Accuracy(metric, row["split"], row[metric], row["n"], *row["ci95"])
        entries.append(Entry(row["name"], {"split": row["split"]}, _read_summary(row.get("latency_ms")), accuracy))
    return traits, _facts(host), entries


def _eval(body: Mapping[str, Any]) -> Parts:
    top1 = Accuracy.from_record(body["top1"])
    traits = {"data": str(body["data"]), "split": top1.split, "images": str(top1.n)}
    facts = {"thing": str(body["thing"]), "schedule": str(body["schedule"])}
    return traits, facts, [Entry("top-1", {}, accuracy=top1)]


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Parts]] = {
    "bench": _bench, "check": _check, "front": _front, "final": _final, "eval": _eval,
}  # fmt: skip
"""What can be compared, and how each is read: what must agree, what may differ, the candidates."""


def _host_traits(host: Mapping[str, Any]) -> dict[str, str]:
    facts = {key: host.get(key) for key in _HOST}
    return {f"host {key}": " ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in facts.items()}


def _facts(host: Mapping[str, Any]) -> dict[str, str]:
    return {"Python": str(host["python"]), **{name: str(version) for name, version in host["packages"].items()}}


def _target(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Nothing of a search by multiply-adds, which has no target."""
    return {} if record is None else {"target": str(TargetDevice.from_record(record))}


def _schedule(row: Mapping[str, Any]) -> dict[str, str]:
    return {} if row["schedule"] is None else {"schedule": counts_text(row["schedule"])}


def _read_summary(time: Mapping[str, Any] | None) -> Summary | None:
    if not time or time.get("median") is None or time.get("interval95") is None:
        return None
    low, high = time["interval95"]
    return Summary(time["median"], low, high)


_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A change with its 95 % interval: after over before for times, after minus before for accuracies.

    Args:
        sure: Whether there was enough to make an interval of; if not, ``low`` and ``high`` are ``value``.
    """

    value: float
    low: float
    high: float
    sure: bool = True


def paired_change(before: Measurement, after: Measurement) -> Estimate:
    """Of two candidates of one interleaved run: the median over the rounds of after / before."""
    return _bootstrap([round_ratios(after, before)], lambda drawn: drawn[0])


def unpaired_change(before: Measurement, after: Measurement) -> Estimate:
    """Of two runs: the ratio of the medians of their rounds.

    Example:
        >>> unpaired_change(Measurement((10.0,) * 9, True), Measurement((11.0,) * 9, True)).low
        1.1
    """
    return _bootstrap([before.by_round(), after.by_round()], lambda drawn: drawn[1] / drawn[0])


def relative_change(
    before: Measurement, after: Measurement, reference_before: Measurement, reference_after: Measurement
) -> Estimate:
    """Of two runs with a reference in both: how the time changed as a multiple of the reference's."""
    return _bootstrap(
        [round_ratios(before, reference_before), round_ratios(after, reference_after)],
        lambda drawn: drawn[1] / drawn[0],
    )


def summary_change(before: Summary, after: Summary) -> Estimate:
    """Of two records without samples, as if the logarithms of their medians were normal."""
    value = math.log(after.median / before.median)
    errors = [math.log(one.high / one.low) / (2 * _Z95) for one in (before, after)]
    half = _Z95 * math.hypot(*errors)
    return Estimate(math.exp(value), math.exp(value - half), math.exp(value + half))


def accuracy_change(before: Accuracy, after: Accuracy) -> Estimate:
    """After minus before, in [-1, 1], as of different images.

    Example:
        >>> change = accuracy_change(Accuracy.of_counts(80, 100, split="val"), Accuracy.of_counts(60, 100, split="val"))
        >>> round(change.value, 2), change.high < 0
        (-0.2, True)
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value, value - below, value + above)


def judge_slowdown(change: Estimate, threshold: float) -> Verdict:
    """FAIL where it is slower by more than ``threshold`` (0.05: 5 %) for sure, PASS where for sure it is not."""
    if not change.sure:
        return Verdict.INCONCLUSIVE
    if change.low > 1 + threshold:
        return Verdict.FAIL
    return Verdict.PASS if change.high <= 1 + threshold else Verdict.INCONCLUSIVE


def judge_loss(change: Estimate, drop: float) -> Verdict:
    """FAIL where the accuracy fell by more than ``drop`` (0.005: half a point) for sure, PASS where for sure not."""
    if change.high < -drop:
        return Verdict.FAIL
    return Verdict.PASS if change.low >= -drop else Verdict.INCONCLUSIVE


def _bootstrap(rows: Sequence[Sequence[float]], figure: Callable[[Sequence[float]], float]) -> Estimate:
    """A figure of the medians of some rows, each drawn by itself."""
    if min(len(row) for row in rows) < LEAST_ROUNDS:
        value = figure([median(row) for row in rows])
        return Estimate(value, value, value, sure=False)
    return Estimate(*median_interval(rows, figure))


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one candidate, before and after, with its verdict against the threshold.

    Args:
        name: Name of the candidate in the first record.
        other: Its name in the second one, or of the candidate it is compared with in the same one.
        figure: ``time`` (ms; the change is after / before) or the metric (a share; the change is after - before).
    """

    name: str
    other: str
    figure: str
    before: float
    after: float
    estimate: Estimate
    verdict: Verdict
    notes: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        change = self.estimate
        return {
            **{"name": self.name, "other": self.other, "figure": self.figure},
            **{"before": self.before, "after": self.after, "change": change.value},
            "ci95": [change.low, change.high] if change.sure else None,
            "verdict": str(self.verdict),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes between two records of one kind, in the order of the first.

    Args:
        only_before: Candidates that the second record lacks.
        only_after: Candidates that the first record lacks.
        differing: What is not the same though it should be, for ``across``.
        facts: What differs and may.
    """

    kind: str
    method: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def compare_records(
    before: Readable,
    after: Readable,
    *,
    threshold: float,
    drop: float,
    reference: str | None = None,
    across: bool = False,
) -> Comparison:
    """The candidates that two records share: by name, else by target and schedule where only one on each side fits.

    Args:
        threshold: Slowdown that fails, 0.05 for 5 %.
        drop: Loss of accuracy that fails, 0.005 for half a point.
        reference: Candidate in both; times are compared as multiples of its.
        across: Whether what differs in host, target, protocol or data is compared too.

    Raises:
        RecordError: They differ in what must agree, or share no candidate.
    """
    if before.kind != after.kind:
        raise RecordError(
            f"only records of one kind are compared, got a {before.kind} ({before.path}) and a {after.kind} "
            f"({after.path}); name two of one kind"
        )
    pairs = _pairs(before.entries, after.entries)
    differing = [*_differing(before.traits, after.traits, "")]
    for one, other in pairs:
        differing += _differing(one.traits, other.traits, f" of {one.name}")
    if differing and not across:
        raise RecordError(
            f"{before.path} and {after.path} differ in {'; '.join(differing)}; compare what was made alike, or give "
            "`across`"
        )
    if not pairs:
        raise RecordError(
            f"{before.path} and {after.path} share no candidate (by name, or by target and schedule); the first has "
            f"{_names(before.entries)}, the second {_names(after.entries)}"
        )
    anchors = None if reference is None else (_named(before, reference), _named(after, reference))
    return Comparison(
        kind=before.kind,
        method=_method(before.kind, reference),
        changes=tuple(_changes(pairs, anchors, threshold, drop)),
        only_before=_without(before.entries, [one for one, _ in pairs]),
        only_after=_without(after.entries, [other for _, other in pairs]),
        differing=tuple(differing),
        facts=tuple(_differing(before.facts, after.facts, "")),
    )


def compare_within(record: Readable, *, threshold: float, reference: str | None = None) -> Comparison:
    """Every candidate of one bench against one of them, the first unless named: paired by rounds.

    Raises:
        RecordError: It is no bench, has a single candidate, or none of that name.
    """
    if record.kind != "bench" or len(record.entries) < 2:
        raise RecordError(
            f"one record alone must be a bench of at least two candidates; give a second one to {record.path}"
        )
    base = record.entries[0] if reference is None else _named(record, reference)
    changes = [_time_change(base, one, paired_change, threshold) for one in record.entries if one is not base]
    method = (
        f"time over that of {base.name}; intervals by a paired bootstrap of the rounds of one run, so that what slowed "
        "both cancels"
    )
    return Comparison("bench", method, tuple(changes))


def _method(kind: str, reference: str | None) -> str:
    if kind in ("check", "eval"):
        return "accuracies are compared as of different images: without each image's answer there are no pairs"
    if kind in ("front", "final"):
        return (
            "these records keep medians with their intervals and no samples: changes of times are made of them as if "
            "independent and log-normal, changes of accuracies as of different images"
        )
    if reference is not None:
        return (
            f"times as multiples of {reference}'s, round by round in each record, so that the machine's own pace "
            "cancels; intervals by an unpaired bootstrap of rounds"
        )
    return (
        "intervals by an unpaired bootstrap of the medians by rounds, because the records are of different runs; how "
        "much faster the machine itself was in one of them is not known and not in the interval (a reference that "
        "both records have takes it out)"
    )


Pair = tuple[Entry, Entry]
Compared = Callable[[Measurement, Measurement], Estimate]


def _changes(pairs: Sequence[Pair], anchors: Pair | None, threshold: float, drop: float) -> Iterator[Change]:
    for one, other in pairs:
        if one.time is not None and other.time is not None:
            if anchors is None:
                yield _time_change(one, other, unpaired_change, threshold)
            elif one is not anchors[0]:
                yield _time_change(one, other, _against(anchors), threshold)
        if one.accuracy is not None and other.accuracy is not None:
            change = accuracy_change(one.accuracy, other.accuracy)
            before, after, metric = one.accuracy.value, other.accuracy.value, one.accuracy.metric
            yield Change(one.name, other.name, metric, before, after, change, judge_loss(change, drop))


def _against(anchors: Pair) -> Compared:
    first, second = (_samples(anchor) for anchor in anchors)
    return lambda before, after: relative_change(before, after, first, second)


def _time_change(one: Entry, other: Entry, compared: Compared, threshold: float) -> Change:
    assert one.time is not None and other.time is not None
    notes = [f"{entry.name}: {note}" for entry in (one, other) for note in entry.notes]
    if isinstance(one.time, Summary) or isinstance(other.time, Summary):
        change = summary_change(_as_summary(one.time), _as_summary(other.time))
    else:
        change = compared(one.time, other.time)
    if not change.sure:
        notes.append(f"fewer than {LEAST_ROUNDS} rounds: too few for an interval")
    verdict = judge_slowdown(change, threshold)
    return Change(one.name, other.name, "time", one.time.median, other.time.median, change, verdict, tuple(notes))


def _as_summary(time: Measurement | Summary) -> Summary:
    return time if isinstance(time, Summary) else Summary(time.median, *time.interval95)


def _samples(entry: Entry) -> Measurement:
    if not isinstance(entry.time, Measurement):
        raise RecordError(f"a reference needs every sample, but the record has none of {entry.name}; leave it out")
    return entry.time


def _named(record: Readable, name: str) -> Entry:
    for entry in record.entries:
        if entry.name == name:
            return entry
    raise RecordError(f"{record.path} has no candidate {name!r} to refer to; it has {_names(record.entries)}")


def _pairs(before: Sequence[Entry], after: Sequence[Entry]) -> list[Pair]:
    """In the order of the first: the same name, else the only ones of their target and schedule on both sides."""
    by_name = {entry.name: entry for entry in after}
    left = [entry for entry in before if entry.name not in by_name]
    right = [entry for entry in after if entry.name not in {one.name for one in before}]
    found = list[Pair]()
    for entry in before:
        if entry.name in by_name:
            found.append((entry, by_name[entry.name]))
            continue
        mine, theirs = ([one for one in side if one.traits == entry.traits] for side in (left, right))
        if entry.traits and len(mine) == len(theirs) == 1:
            found.append((entry, theirs[0]))
    return found


def _without(entries: Sequence[Entry], taken: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(entry.name for entry in entries if not any(entry is one for one in taken))


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries) or "none"


def _differing(one: Mapping[str, str], other: Mapping[str, str], of: str) -> Iterator[str]:
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            yield f"{key}{of} ({one.get(key, 'not told')} and {other.get(key, 'not told')})"
