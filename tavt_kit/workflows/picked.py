"""Which schedules of a run are exported: those given, some of the front's, or the one the search chose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.configuration import Configuration
from tavt_kit.errors import RecordError, ScheduleError
from tavt_kit.workflows.front_pick import best_within, knee_of

if TYPE_CHECKING:
    from tavt_kit.core.configuration import Choice
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["PRESETS", "model_for", "precision_for", "presets_for", "read_front", "schedule_for", "schedules_for"]

PRESETS = ("fast", "balanced", "accurate")
"""Of a front: its cheapest candidate, its knee (the middle one where it has none), and its most accurate one."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_LONGEST = 40  # letters of a label, which becomes a part of a file's name


def schedules_for(
    run: Path | None, model: AdaptiveViT, given: Sequence[str | Choice], picks: Sequence[str]
) -> dict[str, Choice]:
    """The schedules to export, by labels for their files; the label of a single one without a name is empty.

    Args:
        run: The run folder; None of a model that lies in none.
        model: The run's model.
        given: Schedules, or their texts, each with a name before it or not (``NAME=taper:0.2``).
        picks: Candidates of the front, as ``schedule_for`` takes them; without any of both, what the search chose.

    Raises:
        ScheduleError: Schedules and picks are given, two have one name, or a schedule does not fit.
        RecordError: As ``schedule_for``.
    """
    if given and picks:
        raise ScheduleError(
            f"`schedule` and `pick` both name a schedule, got {given[0]} and {picks[0]}; give one of them"
        )
    if not given and len(picks) < 2:
        return {"": schedule_for(run, model, None, picks[0] if picks else None)}
    if len(given) == 1 and _named(given[0])[0] is None:
        return {"": schedule_for(run, model, given[0], None)}
    found = {}
    for number, one in enumerate(given or picks, 1):
        name, counts = _named(one)
        label = name or _label(str(one), number)
        if label in found:
            raise ScheduleError(f"two schedules are called {label}; give each another name, such as mine={counts}")
        found[label] = schedule_for(run, model, counts if given else None, None if given else str(one))
    return found


def presets_for(run: Path | None, model: AdaptiveViT, given: Sequence[str | Choice]) -> dict[str, Choice]:
    """The presets of a switchable file, cheapest first: of the schedules given, or of the run's front.

    Three schedules without names are ``fast``, ``balanced`` and ``accurate`` by their multiply-adds.

    Raises:
        ScheduleError: Schedules that are not three need names, and do not have them; or one does not fit.
        RecordError: None is given, and the run has no front.
    """
    from tavt_kit.models.macs import count_macs

    if not given:
        return {name: schedule_for(run, model, None, name) for name in PRESETS}
    named = [_named(one) for one in given]
    read = [(name, schedule_for(run, model, counts, None)) for name, counts in named]
    read.sort(key=lambda one: count_macs(model, Configuration.of(one[1]).schedule))
    if not any(name for name, _ in named) and len(read) == len(PRESETS):
        read = [(preset, schedule) for preset, (_, schedule) in zip(PRESETS, read, strict=True)]
    names = [name for name, _ in read]
    if not all(names) or len(set(names)) < len(names):
        raise ScheduleError(
            f"presets need names of their own, got {', '.join(map(str, given))}; give `schedule` fast=taper:0.3 and so "
            "on, or three schedules without names"
        )
    return {str(name): schedule for name, schedule in read}


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


def _label(text: str, number: int) -> str:
    """A part of a file's name: the text itself where it is short."""
    label = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    return label if 0 < len(label) <= _LONGEST else f"schedule-{number}"


def schedule_for(run: Path | None, model: AdaptiveViT, schedule: str | Choice | None, pick: str | None) -> Choice:
    """The schedule that is meant.

    Args:
        run: The run folder; ``front.json`` in it is what a search found. None of a model that lies in none.
        model: The run's model.
        schedule: A schedule, its text such as ``taper:0.2``, or None.
        pick: ``fast`` or ``cheapest``, ``balanced`` (the knee, or the middle where there is none), ``accurate`` or
            ``best``, ``knee``, a limit such as ``latency=8ms``, or a place on the front counted from 0; None takes
            what the search chose.

    Raises:
        ScheduleError: Both are given, or the schedule does not fit.
        RecordError: The run has no front, or not that candidate.
    """
    from tavt_kit.core.schedule import TokenSchedule

    if schedule is not None:
        if pick is not None:
            raise ScheduleError(
                f"`schedule` and `pick` both name a schedule, got {schedule} and {pick}; give one of them"
            )
        if isinstance(schedule, str):
            return TokenSchedule.parse(schedule, tokens=model.tokens, layers=model.layers, prefix=model.prefix)
        return _checked(schedule, model)
    front = None if run is None else read_front(run)
    if run is None or front is None:
        raise RecordError(
            f"{run or 'this model'} holds no search result (front.json) to take a schedule from; give `schedule`, "
            "such as dense or taper:0.2"
        )
    return _checked(Configuration.from_record(_candidate(front, pick, run)).choice, model)


def _checked(found: Choice, model: AdaptiveViT) -> Choice:
    """The schedule, if it fits."""
    wanted = Configuration.of(found)
    if wanted.image_size in (None, model.backbone.image_size):  # else it is for the model at that size
        wanted.schedule.check(tokens=model.tokens, layers=model.layers, prefix=model.prefix)
    return found


def model_for(run: Path | None, model: AdaptiveViT, schedules: Mapping[str, Choice]) -> AdaptiveViT:
    """The run's model as the schedules want it: those of a joint search may be for another image size or score.

    Args:
        run: The run folder; None of a model that lies in none, which stays of its image size.
        model: As it was trained.
        schedules: By labels.

    Raises:
        ScheduleError: They want different models, so that one export cannot hold them.
        CheckpointError: The weights do not fit that size.
    """
    from tavt_kit.checkpoints import load_model

    chosen = [Configuration.of(one) for one in schedules.values()]
    wanted = {(one.image_size, one.score, one.reduction) for one in chosen}
    if len(wanted) > 1:
        raise ScheduleError(
            f"one export is of one image size and score, but {' and '.join(map(str, schedules.values()))} differ in "
            "them; export each with a `pick` and an `out` of its own"
        )
    (size, score, reduction), *_ = wanted
    if size is not None and run is not None:
        model = load_model(run, image_size=size)
    elif size not in (None, model.backbone.image_size):
        raise ScheduleError(
            f"a schedule for another image size needs the run folder, from which the model is read at that size, got "
            f"{' and '.join(map(str, schedules.values()))} for a model of {model.backbone.image_size[1]} px"
        )
    if score is not None:
        model.score = score
    if reduction is not None:
        model.reduction = reduction
    return model


def precision_for(schedules: Mapping[str, Choice]) -> str:
    """What they were searched in, where a joint search chose it; else f32.

    Raises:
        ScheduleError: They want different ones.
    """
    wanted = {Configuration.of(one).precision or "f32" for one in schedules.values()}
    if len(wanted) > 1:
        raise ScheduleError(
            f"{' and '.join(map(str, schedules.values()))} were found in different precisions; give `precision`, or "
            "export each with a `pick` and an `out` of its own"
        )
    return wanted.pop()


def read_front(run: Path) -> dict[str, Any] | None:
    """What a search found, from ``front.json`` in the run's folder; None where there was none.

    Raises:
        RecordError: The file is damaged, or no front.
    """
    from tavt_kit.core.records import read_record

    folder = run if run.is_dir() else run.parent
    path = folder / "front.json"
    return read_record(path, "fgvc-kit/front", 2) if path.is_file() else None


def _candidate(front: Mapping[str, Any], pick: str | None, run: Path) -> Mapping[str, Any]:
    """The picked candidate's record; the front is sorted by rising cost, and so by rising accuracy."""
    candidates: list[Mapping[str, Any]] = front.get("candidates") or []
    if not candidates:
        raise RecordError(f"the front of {run} is empty; give `schedule`")
    metric = front.get("metric", "top1")
    if pick in ("cheapest", "fast"):
        return candidates[0]
    if pick in ("best", "accurate"):
        return max(candidates, key=lambda one: one.get(metric) or 0.0)
    if pick == "balanced":
        return candidates[_bend(front, len(candidates))]
    if pick is None:
        chosen = front.get("chosen")
        if not isinstance(chosen, int) or not 0 <= chosen < len(candidates):
            raise RecordError(
                f"the search in {run} chose no schedule (verdict {front.get('verdict')}); give `pick` cheapest, "
                "`pick` best or `schedule`"
            )
        return candidates[chosen]
    if pick == "knee":
        return candidates[knee_of(front)]
    if "=" in pick:
        place = best_within(front, [pick])
        if place is None:
            raise RecordError(f"nothing on the front of {run} keeps to {pick}; see fgvc-kit show {run}")
        return candidates[place]
    if not pick.isdecimal() or int(pick) >= len(candidates):
        raise RecordError(
            f"`pick` takes fast, balanced, accurate, cheapest, best, knee, a limit such as latency=8ms, or a place on "
            f"the front from 0 to "
            f"{len(candidates) - 1}, got {pick!r}"
        )
    return candidates[int(pick)]


def _bend(front: Mapping[str, Any], candidates: int) -> int:
    """The knee; of a front that bends nowhere, or the wrong way, the middle."""
    place, last = knee_of(front), candidates - 1
    return candidates // 2 if last > 1 and place in (0, last) else place
