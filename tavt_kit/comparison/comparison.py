"""Two records side by side: what belongs together, how much slower or less accurate it became, and with which doubt.

A verdict goes by bounds that are each wrong at most once in twenty times. What has no pairs is bounded by the ends of
both, each of which may be wrong half as often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Fact, Limit, Verdict, facts_of, judge
from tavt_kit.core.candidate import latency_of
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_bounds import DOUBT, LEAST_RUNS, latency_bounds
from tavt_kit.core.measurement import LEAST_ROUNDS, Measurement, paired_ratio
from tavt_kit.core.records import kind_of, read_json, reading, upgraded
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import MeasurementError, RecordError

_HOST = ("cpu", "flags", "cores", "affinity", "quota", "accelerator")
"""Host facts that must agree. Versions of packages may differ, and are told: that is what one often compares."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with bounds: a median time in ms, a change of it (after over before), or a difference of accuracies.

    The high one is infinite where there was too little to make bounds of.
    """

    value: float
    low: float = 0.0
    high: float = math.inf

    @property
    def sure(self) -> bool:
        """Whether there was enough to make bounds of."""
        return math.isfinite(self.high)


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate of a record.

    Its ``traits`` (target, schedule) must agree for two of one name to be the same thing; notes make it doubtful. Which
    of which ``images`` were ``correct`` is as ``bits_text`` writes it, empty where that is not known.
    """

    name: str
    traits: Mapping[str, str]
    time: Measurement | Estimate | None = None
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()
    correct: str = ""
    images: str = ""
    choice: Configuration | None = None


@dataclass(frozen=True, slots=True)
class Readable:
    """A record of one of ``KINDS``: its candidates, traits that must agree, and facts that may differ, and are told."""

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
        said = f"has schema {schema!r}" if schema is not None else "has no schema"
        raise RecordError(f"records of {', '.join(KINDS)} are compared, but {path} {said}; give one of ours")
    body = upgraded(path, kind, body)
    with reading(path):
        traits, facts, entries = KINDS[kind](body)
    if not entries:
        raise RecordError(f"{path} has no candidates, so there is nothing to compare; write it again")
    names = [entry.name for entry in entries]
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise RecordError(
                f"the candidates of a record have names of their own, but {name!r} is not one; write it again"
            )
    return Readable(path, kind, traits, facts, tuple(entries))


def list_run_files(folder: Path) -> dict[str, Path]:
    """The records of a run folder that can be compared, by kind. Raises RecordError: there are none."""
    paths = {kind: folder / f"{kind}.json" for kind in KINDS}
    files = {kind: path for kind, path in paths.items() if path.is_file() and (kind != "run" or is_judged(path))}
    if not files:
        raise RecordError(f"{folder} holds none of the records that compare reads ({', '.join(KINDS)}); name a file")
    return files


def is_judged(path: Path) -> bool:
    """Whether the ``run.json`` at a path is of a training that ended with an accuracy."""
    body = read_json(path) if path.is_file() else None
    return isinstance(body, dict) and isinstance(body.get("results"), dict) and "val" in body["results"]


Parts = tuple[dict[str, str], dict[str, str], list[Entry]]


def _bench(body: Mapping[str, Any]) -> Parts:
    protocol = {f"protocol {key}": str(value) for key, value in body["protocol"].items()}
    traits = {**_host_traits(body["host"]), **protocol, "inputs": str(body["inputs"])}
    entries = []
    for row in body["candidates"]:
        time = Measurement.from_record(row["latency_ms"])
        notes = (*(() if time.steady else ("unsteady",)), *row.get("doubts", ()))
        named = {} if row["schedule"] is None else {"schedule": counts_text(row["schedule"])}
        entries.append(Entry(row["name"], {**_target(row["target"]), **named}, time, notes=notes))
    return traits, _facts(body["host"]), entries


def _front(body: Mapping[str, Any]) -> Parts:
    metric, split = body["metric"], body["split"]
    traits = {**_target(body["target"]), "split": split, "metric": metric, "model": str(body["model"]["name"])}
    unique = {}
    for row in [*body["candidates"], *body.get("baselines", ())]:
        choice = Configuration.from_record(row)
        accuracy = Accuracy(metric, split, row[metric], row["n"], *row["ci95"])
        named = {"schedule": str(choice)}
        unique[str(choice)] = Entry(str(choice), named, _time(row.get("latency_ms")), accuracy, choice=choice)
    entries, facts = list(unique.values()), {"budgets": ", ".join(body["budgets"])}
    if (index := body.get("chosen")) is not None:
        facts["chosen"] = str(Configuration.from_record(body["candidates"][index]))
        entries.insert(0, replace(unique[facts["chosen"]], name="chosen", traits={}))
    return traits, facts, entries


def _fit(body: Mapping[str, Any]) -> Parts:
    """What it recommends, then its files by their names; accuracies of test where there is one, for val chose."""
    traits = {**_host_traits(body["host"]), **_target(body["target"]), "data": str(body["data"]["name"])}
    entries = []
    for row in body["rows"]:
        split = "val" if row["test"] is None else "test"
        accuracy = Accuracy("top1", split, row[split]["top1"], row[split]["n"], *row[split]["ci95"])
        choice = str(Configuration.from_record(row["configuration"]))
        name = f"{row['name']} {choice}"  # several schedules of one network have one name there
        entries.append(Entry(name, {"split": split, "schedule": choice}, _time(row["latency_ms"]), accuracy))
    facts = {"budgets": ", ".join(body["budgets"]), **_facts(body["host"])}
    if (index := body["recommended"]) is not None:
        best = entries[index]
        facts["recommended"] = best.name
        entries.insert(0, replace(best, name="recommended", traits={"split": best.traits["split"]}))
    return traits, facts, entries


def _eval(body: Mapping[str, Any]) -> Parts:
    top1 = Accuracy.from_record(body["top1"])
    # The images by their hash; by the data's name and their number in a record that lacks it.
    images = str(body.get("images_sha256") or f"{top1.n} of {body['data']}")
    keys = ("thing", "schedule", "weights_sha256", "data")
    facts = {key: str(body[key]) for key in keys if body.get(key) is not None}
    entry = Entry("top-1", {}, accuracy=top1, correct=body.get("correct", ""), images=images)
    return {"split": top1.split, "images": images}, facts, [entry]


def _run(body: Mapping[str, Any]) -> Parts:
    """A training: the schedules that a distillation or its control was judged at; else the model as it was trained."""
    asked, results = body["asked"], body["results"]
    rows = results.get("after") or [{"name": asked.get("schedule", "dense"), "accuracy": results["val"]}]
    images, entries = results.get("images_sha256") or "", []
    for row in rows:
        accuracy, correct = Accuracy.from_record(row["accuracy"]), row.get("correct", "") if images else ""
        entries.append(Entry(row["name"], {}, accuracy=accuracy, correct=correct, images=images))
    keys = ("recipe", "steps", "model", "image_size", "start_sha256")
    facts = {key: str(asked[key]) for key in keys if key in asked}
    if "sampling" in asked:
        facts["learned"] = "by labels alone" if asked["sampling"] == "dense" else "by distillation"
    return {"split": accuracy.split, "images": f"{accuracy.n} of {asked['data']}"}, facts, entries


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Parts]] = {
    "bench": _bench, "front": _front, "fit": _fit, "eval": _eval, "run": _run,
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


def _time(time: Mapping[str, Any] | None) -> Measurement | Estimate | None:
    """Its samples where they are kept, else its median with its 95 % interval."""
    if time and time.get("raw_ms"):
        return latency_of(time)
    if not time or time.get("median") is None or time.get("interval95") is None:
        return None
    median, (low, high) = time["median"], time["interval95"]
    if not 0 < low <= median <= high < math.inf:
        raise MeasurementError(f"a recorded time needs 0 < low <= median <= high, got {low}, {median}, {high}")
    return Estimate(median, low, high)


def bounded_time(time: Measurement | Estimate, reference: Measurement | None = None) -> Estimate:
    """A median time (ms), or as a multiple of a reference of the same interleaved run, round by round."""
    if isinstance(time, Estimate):
        return time
    if reference is not None:
        ratio = paired_ratio(time, reference)
        return Estimate(ratio.value, ratio.low, ratio.high) if ratio.n >= LEAST_ROUNDS else Estimate(ratio.value)
    enough = len(time.by_round()) >= LEAST_ROUNDS
    return Estimate(time.median, *(latency_bounds(time, "p50", DOUBT / 2) if enough else ()))


def time_change(
    before: Measurement | Estimate,
    after: Measurement | Estimate,
    references: tuple[Measurement, Measurement] | None = None,
) -> Estimate:
    """How a time changed from one run to another, or as a multiple of a reference that is in both.

    Bounds of both sides are each wrong once in forty times at most. Where one side keeps no samples, 95 % intervals of
    the medians are all there is.

    Example:
        >>> time_change(Measurement((10.0,) * 9, True), Measurement((11.0,) * 9, True)).low
        1.1
    """
    if isinstance(before, Estimate) or isinstance(after, Estimate):
        first, second = (
            each if isinstance(each, Estimate) else Estimate(each.median, *each.interval95) for each in (before, after)
        )
    else:
        first, second = map(bounded_time, (before, after), references or (None, None))
    value = second.value / first.value
    sure = first.sure and second.sure
    return Estimate(value, second.low / first.high, second.high / first.low) if sure else Estimate(value)


def accuracy_change(before: Accuracy, after: Accuracy) -> Estimate:
    """After minus before, in [-1, 1], as of different images."""
    (least, most), (low, high) = (each.bounds(DOUBT / 2) for each in (before, after))
    return Estimate(after.value - before.value, low - most, high - least)


def paired_accuracy_change(before: str, after: str) -> Estimate:
    """After minus before, in [-1, 1], by which of the same images were right (``bits_text``)."""
    difference = PairedDifference.of_bits(before, after)
    loss = facts_of(difference=difference)["drop"]
    return Estimate(difference.difference, -loss.high, -loss.low)


def judge_slowdown(change: Estimate, threshold: float) -> Verdict:
    """FAIL where it is slower by more than ``threshold`` (0.05: 5 %) for sure, PASS where for sure it is not."""
    limit = Limit("latency", "p50", "<=", 1 + threshold)  # in multiples of what it was
    return judge(limit, {limit.name: Fact(change.low, change.high)})


def judge_loss(change: Estimate, drop: float) -> Verdict:
    """FAIL where the accuracy fell by more than ``drop`` (0.005: half a point) for sure, PASS where for sure not."""
    limit = Limit("drop", None, "<=", drop)
    return judge(limit, {limit.name: Fact(-change.high, -change.low)})


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one candidate, before and after, with its verdict against the threshold.

    The figure is ``time`` (ms; the change is after / before) or the metric (a share; the change is after - before);
    ``other`` is its name in the second record.
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
        change, plain = self.estimate, ("name", "other", "figure", "before", "after")
        bounds = [change.low, change.high] if change.sure else None
        said = {"change": change.value, "bounds": bounds, "verdict": str(self.verdict), "notes": list(self.notes)}
        return {**{name: getattr(self, name) for name in plain}, **said}


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes between two records of one kind, in the order of the first, and the candidates of only one of them.

    With what is not the same though it should be (``across``), facts that differ and may, and what a search chose or a
    fit recommends, before and after.
    """

    kind: str
    method: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    meant: tuple[str, ...] = ()


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

    The arguments are those of the workflow ``compare``, limits as fractions: a slowdown of 0.05, a loss of 0.005.

    Raises:
        RecordError: They differ in what must agree, or share no candidate.
    """
    if before.kind != after.kind:
        raise RecordError(
            f"only records of one kind are compared, got a {before.kind} ({before.path}) and a {after.kind} "
            f"({after.path}); name two of one kind"
        )
    pairs = _pairs(before.entries, after.entries)
    differing = [*_differing(before.traits, after.traits)]
    for entry, other in pairs:
        differing += _differing(entry.traits, other.traits, f" of {entry.name}")
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
    changes, method = list(_changes(pairs, anchors, threshold, drop)), _method(pairs, reference)
    if replace(before, path=after.path) == after:  # of what was measured once nothing changed, whatever the doubt in it
        method = "the two records are of the same measurements, so that nothing changed"
        same = [1.0 if change.figure == "time" else 0.0 for change in changes]
        changes = [
            replace(change, estimate=Estimate(value, value, value), verdict=Verdict.PASS, notes=())
            for change, value in zip(changes, same, strict=True)
        ]
    first, second = ({entry.name for entry in side} for side in zip(*pairs, strict=True))
    return Comparison(
        kind=before.kind,
        method=method,
        changes=tuple(changes),
        only_before=tuple(entry.name for entry in before.entries if entry.name not in first),
        only_after=tuple(entry.name for entry in after.entries if entry.name not in second),
        differing=tuple(differing),
        facts=tuple(_differing(before.facts, after.facts)),
        meant=tuple(
            f"{key}: {' -> '.join(dict.fromkeys((before.facts[key], after.facts[key])))}"
            for key in ("recommended", "chosen")
            if key in before.facts and key in after.facts
        ),
    )


Pair = tuple[Entry, Entry]


def _method(pairs: Sequence[Pair], reference: str | None) -> str:
    said = []
    if any(entry.time is not None and other.time is not None for entry, other in pairs):
        said.append(
            f"times as multiples of {reference}'s, round by round in each record: the machine's own pace cancels"
            if reference is not None
            else "times as of different runs; how much faster the machine itself was in one of them is not known and "
            "not in the bounds (a reference that both records have takes it out)"
        )
    known = [_same_images(*pair) for pair in pairs if pair[0].accuracy is not None and pair[1].accuracy is not None]
    if any(known):
        said.append("accuracies paired image by image")
    if not all(known):
        others = "the other accuracies" if any(known) else "accuracies"
        said.append(f"{others} as of different images: the records do not say which of the same images were right")
    return "; ".join(said)


def _changes(pairs: Sequence[Pair], anchors: Pair | None, threshold: float, drop: float) -> Iterator[Change]:
    for pair in pairs:
        first, second = pair
        if first.time is not None and second.time is not None and (anchors is None or first is not anchors[0]):
            notes = [f"{entry.name}: {note}" for entry in pair for note in entry.notes]
            references = None if anchors is None else (_samples(anchors[0]), _samples(anchors[1]))
            change = time_change(first.time, second.time, references)
            verdict = judge_slowdown(change, threshold)
            if not change.sure:
                notes.append(f"fewer than {LEAST_ROUNDS} rounds: too few for bounds")
            elif verdict is Verdict.INCONCLUSIVE and anchors is None:
                notes += [
                    f"{entry.name}: fewer than {LEAST_RUNS} runs say as little as one"
                    for entry in pair
                    if isinstance(entry.time, Measurement) and entry.time.n < LEAST_RUNS
                ]
            before, after = bounded_time(first.time).value, bounded_time(second.time).value
            yield Change(first.name, second.name, "time", before, after, change, verdict, tuple(notes))
        if first.accuracy is not None and second.accuracy is not None:
            if _same_images(first, second):
                change = paired_accuracy_change(first.correct, second.correct)
            else:
                change = accuracy_change(first.accuracy, second.accuracy)
            before, after, metric = first.accuracy.value, second.accuracy.value, first.accuracy.metric
            yield Change(first.name, second.name, metric, before, after, change, judge_loss(change, drop))


def _samples(entry: Entry) -> Measurement:
    if not isinstance(entry.time, Measurement):
        raise RecordError(f"a reference needs every sample, but the record has none of {entry.name}; leave it out")
    return entry.time


def _same_images(first: Entry, second: Entry) -> bool:
    """Whether which images were right is known of both, and they are the same."""
    return bool(first.correct and second.correct) and first.images == second.images


def _named(record: Readable, name: str) -> Entry:
    for entry in record.entries:
        if entry.name == name:
            return entry
    raise RecordError(f"{record.path} has no candidate {name!r} to refer to; it has {_names(record.entries)}")


def _pairs(before: Sequence[Entry], after: Sequence[Entry]) -> list[Pair]:
    """In the order of the first: the same name, else the only ones of their target and schedule on both sides."""
    by_name = {entry.name: entry for entry in after}
    left = [entry for entry in before if entry.name not in by_name]
    right = [entry for entry in after if entry.name not in {entry.name for entry in before}]
    pairs = list[Pair]()
    for entry in before:
        mine, theirs = ([each for each in side if each.traits == entry.traits] for side in (left, right))
        if entry.name in by_name:
            pairs.append((entry, by_name[entry.name]))
        elif entry.traits and len(mine) == len(theirs) == 1:
            pairs.append((entry, theirs[0]))
    return pairs


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries) or "none"


def _differing(first: Mapping[str, str], second: Mapping[str, str], of: str = "") -> Iterator[str]:
    for key in dict.fromkeys((*first, *second)):
        if first.get(key) != second.get(key):
            yield f"{key}{of} ({first.get(key, 'not told')} and {second.get(key, 'not told')})"
