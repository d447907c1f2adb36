"""Which schedules of a run are meant: those given, some of its front's, or the one that its search chose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Budget, Fact, Verdict, judge, time_facts
from tavt_kit.core.candidate import dense_of
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.front import dominates, knee
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError, RecordError, ScheduleError

if TYPE_CHECKING:
    from tavt_kit.core.configuration import Choice
    from tavt_kit.models.wrap import AdaptiveViT

PRESETS = ("fast", "balanced", "accurate")
"""Of a front: its cheapest candidate, its knee (the middle one where it has none), and its most accurate one."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_LONGEST = 40  # letters of a label, which becomes a part of a file's name


def schedules_for(
    run: Path | None, model: AdaptiveViT, given: Sequence[str | Choice], pick: str | None
) -> dict[str, Choice]:
    """The schedules to export, by labels for their files; the label of a single one without a name is empty.

    Texts may have a name before them: ``NAME=taper:0.2``.
    """
    named = [*map(_named, given)]
    if pick is not None or len(named) < 2 and not any(name for name, _ in named):
        return {"": schedule_for(run, model, given[0] if given else None, pick)}
    schedules: dict[str, Choice] = {}
    for number, (name, counts) in enumerate(named, 1):
        # A part of a file's name: the text itself where it is short.
        label = name or re.sub(r"[^a-z0-9.]+", "-", str(counts).lower()).strip("-")
        label = label if 0 < len(label) <= _LONGEST else f"schedule-{number}"
        if label in schedules:
            raise ScheduleError(f"two schedules are called {label}; give each another name, such as mine={counts}")
        schedules[label] = schedule_for(run, model, counts, None)
    return schedules


def presets_for(run: Path | None, model: AdaptiveViT, given: Sequence[str | Choice]) -> dict[str, Choice]:
    """The presets of a switchable file, cheapest first: of the schedules given, or of the run's front.

    Three schedules without names are ``fast``, ``balanced`` and ``accurate`` by their multiply-adds.
    """
    from tavt_kit.models.flops import count_macs

    if not given:
        return {name: schedule_for(run, model, None, name) for name in PRESETS}
    named = [(name, schedule_for(run, model, counts, None)) for name, counts in map(_named, given)]
    named.sort(key=lambda pair: count_macs(model, Configuration.of(pair[1]).schedule))
    names = [name for name, _ in named]
    if not any(names) and len(names) == len(PRESETS):
        names = [*PRESETS]
    if not all(names) or len(set(names)) < len(names):
        raise ScheduleError(
            f"presets need names of their own, got {', '.join(map(str, given))}; give `schedule` fast=taper:0.3 and so "
            "on, or three schedules without names"
        )
    return {str(name): schedule for name, (_, schedule) in zip(names, named, strict=True)}


def _named(given: str | Choice) -> tuple[str | None, str | Choice]:
    """``fast=taper:0.2`` as its name and the rest; None where there is no name."""
    if not isinstance(given, str):
        return None, given
    name, equals, rest = given.partition("=")
    if not equals:
        return None, given
    if not _NAME.fullmatch(name) or name == "switchable":
        raise ScheduleError(
            f"the name of a schedule is of small letters, digits, - and _, and begins with a letter, got {given!r}"
        )
    return name, rest


def schedule_for(run: Path | None, model: AdaptiveViT, schedule: str | Choice | None, pick: str | None) -> Choice:
    """The schedule that is meant, of a run folder; ``front.json`` in it is what a search found.

    Args:
        pick: ``fast``, ``balanced`` or ``accurate``, a limit such as ``latency=8ms``, or an index of the front; None
            takes what the search chose, or where there was no search the model's own.

    Raises:
        ScheduleError: Both are given, or the schedule does not fit.
        RecordError: The run has no front, or not that candidate.
    """
    if schedule is not None:
        if pick is not None:
            raise ScheduleError(
                f"`schedule` and `pick` both name a schedule, got {schedule} and {pick}; give one of them"
            )
        if isinstance(schedule, str):
            return TokenSchedule.parse(schedule, model.layout)
        choice = schedule
    else:
        front = None if run is None else read_front(run)
        searched = run is not None and ((run if run.is_dir() else run.parent) / "search.db").exists()
        if run is not None and front is None and pick is None and not searched:
            return model.schedule
        if run is None or front is None:
            raise RecordError(
                f"{run or 'this model'} holds no search result (front.json) to take a schedule from; give `schedule`, "
                "such as dense or taper:0.2"
            )
        choice = Configuration.from_record(_candidate(front, pick, run)).choice
    wanted = Configuration.of(choice)
    if wanted.image_size in (None, model.backbone.image_size):  # else it is for the model at that size
        wanted.schedule.check(model.layout)
    return choice


def model_for(run: Path | None, model: AdaptiveViT, schedules: Mapping[str, Choice]) -> AdaptiveViT:
    """The run's model as the schedules want it: those of a joint search may be for another image size or score."""
    from tavt_kit.checkpoints import load_model

    chosen, names = [Configuration.of(schedule) for schedule in schedules.values()], _listed(schedules)
    wanted = {(choice.image_size, choice.score, choice.reduction) for choice in chosen}
    if len(wanted) > 1:
        raise ScheduleError(
            f"one export is of one image size and score, but {names} differ in them; export each with a `pick` and an "
            "`out` of its own"
        )
    (size, score, reduction), *_ = wanted
    if size is not None and run is not None:
        model = load_model(run, image_size=size)
    elif size not in (None, model.backbone.image_size):
        raise ScheduleError(
            f"a schedule for another image size needs the run folder, from which the model is read at that size, got "
            f"{names} for a model of {model.backbone.image_size[1]} px"
        )
    model.score, model.reduction = score or model.score, reduction or model.reduction
    return model


def precision_for(schedules: Mapping[str, Choice]) -> str:
    """What a joint search chose, else f32; raises ScheduleError where they want different ones."""
    wanted = {Configuration.of(schedule).precision or "f32" for schedule in schedules.values()}
    if len(wanted) > 1:
        raise ScheduleError(
            f"{_listed(schedules)} were found in different precisions; give `precision`, or export each with a `pick` "
            "and an `out` of its own"
        )
    return wanted.pop()


def _listed(schedules: Mapping[str, Choice]) -> str:
    return " and ".join(map(str, schedules.values()))


def read_front(run: Path) -> dict[str, Any] | None:
    """What a search found, from ``front.json`` in the run's folder; None where there was none."""
    path = (run if run.is_dir() else run.parent) / "front.json"
    return read_record(path, "front") if path.is_file() else None


def _candidate(front: Mapping[str, Any], pick: str | None, run: Path) -> Mapping[str, Any]:
    """The picked candidate's record; the front is sorted by rising cost, and so by rising accuracy."""
    candidates: list[Mapping[str, Any]] = front.get("candidates") or []
    last, metric = len(candidates) - 1, front.get("metric", "top1")
    if not candidates:
        raise RecordError(f"the front of {run} is empty; give `schedule`")
    if pick == "fast":
        return candidates[0]
    if pick == "accurate":
        return max(candidates, key=lambda candidate: candidate.get(metric) or 0.0)
    if pick == "balanced":
        index = knee_of(front)
        return candidates[len(candidates) // 2 if last > 1 and index in (0, last) else index]
    if pick is None:
        if (better := front.get("recommended")) is not None:
            raise RecordError(
                f"the search in {run} recommends {better}, a model of yours that does better than all it found, so "
                "there is nothing to take from it; give `pick` accurate for the best of its own"
            )
        chosen = front.get("chosen")
        if not isinstance(chosen, int) or not 0 <= chosen <= last:
            raise RecordError(
                f"the search in {run} chose no schedule (verdict {front.get('verdict')}); give `pick` fast, "
                "`pick` accurate or `schedule`"
            )
        return candidates[chosen]
    if "=" in pick:
        within = best_within(front, [pick])
        if within is None:
            raise RecordError(f"nothing on the front of {run} keeps to {pick}; see fgvc-kit show {run}")
        return candidates[within]
    if not pick.isdecimal() or int(pick) > last:
        raise RecordError(
            f"`pick` takes fast, balanced, accurate, a limit such as latency=8ms, or a place on the front from 0 to "
            f"{last}, got {pick!r}"
        )
    return candidates[int(pick)]


def knee_of(body: Mapping[str, Any]) -> int:
    """The candidate after which spending more buys little, on the front of the first cost and the metric."""
    points = [(_cost(body, candidate), float(candidate[body["metric"]])) for candidate in body["candidates"]]
    # Fronts of earlier versions may have some for a third objective's sake.
    free = [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
    return free[knee([points[i] for i in free])] if free else knee([])


def best_within(body: Mapping[str, Any], texts: Sequence[str]) -> int | None:
    """The most accurate candidate within limits such as ``latency=8ms``, with a floor the cheapest, if any."""
    budget, candidates, metric = Budget.parse(texts), body["candidates"], body["metric"]
    facts = [_facts(body, record) for record in candidates]
    for limit in budget:
        if any(limit.name not in known for known in facts):
            raise BudgetError(
                f"this front does not record what {limit} limits; pick by flops, latency, throughput, drop or what it "
                "was searched by"
            )
    fitting = [i for i, known in enumerate(facts) if all(judge(limit, known) is Verdict.PASS for limit in budget)]
    if budget.floors:
        return min(fitting, key=lambda index: _cost(body, candidates[index]), default=None)
    return max(fitting, key=lambda index: (candidates[index][metric], -index), default=None)


def _cost(body: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """What the front is sorted by: its first objective."""
    value: Any = record
    for key in body.get("objectives", ["macs"])[0].split("."):
        value = value[key]
    return float(value)


def _facts(body: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Fact]:
    """What is recorded of a candidate; a latency is the measured one, or the predicted one where none is."""
    times = record.get("latency_ms") or {}
    measured = {"p50": "median", "p90": "p90", "p99": "p99"}
    ms = {name: times.get(key, times.get("predicted")) for name, key in measured.items()}
    known = {name: (value, value) for name, value in ms.items() if value is not None}
    dense, own = _metrics(body, dense_of(body)), _metrics(body, record)
    values = {**own, "flops": float(record["macs"])}
    if "top1" in dense and "top1" in own:
        # A fraction of images is exact to far less than this, a difference of fractions is not.
        values["drop"] = round(dense["top1"] - own["top1"], 9)
    facts = {name: Fact(value, value) for name, value in values.items()}
    return facts | time_facts(known, (body.get("target") or {}).get("batch", 1))


def _metrics(body: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, float]:
    if record is None or body["metric"] not in record:
        return {}
    others = {name: float(other["value"]) for name, other in record.get("others", {}).items()}
    return {body["metric"]: float(record[body["metric"]]), **others}


def listed_schedules(model: AdaptiveViT, texts: Sequence[str], front: Path | None) -> tuple[str, ...]:
    """The counts of every schedule, as text, and of all candidates of a ``front.json`` or the run folder it is in."""
    schedules = [TokenSchedule.parse(text, model.layout) for text in texts]
    if front is not None:
        path = front / "front.json" if front.is_dir() else front
        for candidate in read_record(path, "front").get("candidates", ()):
            try:
                wanted = Configuration.from_record(candidate)
                if (wanted.image_size, wanted.score, wanted.schedule.executed) != (None, None, None):
                    continue  # it is of the model at another size, by another score, or of some of its layers
                wanted.schedule.check(model.layout)
            except ScheduleError as error:
                raise ScheduleError(f"{path} is the front of another model: {error}") from None
            schedules.append(wanted.schedule)
        if not schedules:
            raise RecordError(
                f"{path} holds no schedules of the model as it is: its front is empty, or of other sizes, scores or "
                "layers; give `schedule` instead"
            )
    return tuple(dict.fromkeys(map(str, schedules)))
