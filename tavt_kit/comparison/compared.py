"""Two records laid side by side: what of them belongs together, what forbids it, and how it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.comparison.comparable import Entry, Readable
from tavt_kit.comparison.comparison import (
    Estimate,
    Summary,
    accuracy_change,
    judge_loss,
    judge_slowdown,
    paired_change,
    relative_change,
    summary_change,
    unpaired_change,
)
from tavt_kit.core.block_bootstrap import LEAST_ROUNDS
from tavt_kit.core.budget import Verdict
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import RecordError

__all__ = ["Change", "Comparison", "compare_records", "compare_within"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one candidate, before and after.

    Args:
        name: The candidate's in the first record.
        other: Its name in the second one, or of the candidate it is compared with in the same one.
        figure: ``time`` (ms; the change is after / before) or the metric (a share; the change is after - before).
        before: In the first record.
        after: In the second.
        estimate: The change.
        verdict: Against the threshold.
        notes: Sentences on what makes it doubtful.
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
        change, sure = self.estimate, self.estimate.sure
        return {
            "name": self.name,
            "other": self.other,
            "figure": self.figure,
            "before": self.before,
            "after": self.after,
            "change": change.value,
            "ci95": [change.low, change.high] if sure else None,
            "verdict": str(self.verdict),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it.

    Args:
        kind: Of the records.
        method: How the intervals were made, in words.
        changes: In the order of the first record.
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
        before: The first record.
        after: The second, of the same kind.
        threshold: Slowdown that fails, 0.05 for 5 %.
        drop: Loss of accuracy that fails, 0.005 for half a point.
        reference: A candidate in both; times are compared as multiples of its.
        across: Compare what differs in host, target, protocol or data too.

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
    anchors = None if reference is None else _anchors(before, after, reference)
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
    changes = [
        _time_change(base, one, paired_change, threshold)
        for one in record.entries
        if one is not base
    ]  # fmt: skip
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
        change = summary_change(_summary(one.time), _summary(other.time))
    else:
        change = compared(one.time, other.time)
    if not change.sure:
        notes.append(f"fewer than {LEAST_ROUNDS} rounds: too few for an interval")
    verdict = judge_slowdown(change, threshold)
    return Change(one.name, other.name, "time", one.time.median, other.time.median, change, verdict, tuple(notes))


def _summary(time: Measurement | Summary) -> Summary:
    return time if isinstance(time, Summary) else Summary(time.median, *time.interval95)


def _samples(entry: Entry) -> Measurement:
    if not isinstance(entry.time, Measurement):
        raise RecordError(f"a reference needs every sample, but the record has none of {entry.name}; leave it out")
    return entry.time


def _anchors(before: Readable, after: Readable, name: str) -> Pair:
    return _named(before, name), _named(after, name)


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
        mine, theirs = _alike(entry, left), _alike(entry, right)
        if entry.traits and len(mine) == len(theirs) == 1:
            found.append((entry, theirs[0]))
    return found


def _alike(entry: Entry, others: Sequence[Entry]) -> list[Entry]:
    return [other for other in others if other.traits == entry.traits]


def _without(entries: Sequence[Entry], taken: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(entry.name for entry in entries if not any(entry is one for one in taken))


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries) or "none"


def _differing(one: Mapping[str, str], other: Mapping[str, str], of: str) -> Iterator[str]:
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            yield f"{key}{of} ({one.get(key, 'not told')} and {other.get(key, 'not told')})"
