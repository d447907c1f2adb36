"""Which schedule of a run is exported: the one given, one of the front's, or the one the search chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.errors import RecordError, ScheduleError
from tavt_kit.verbs.front_pick import best_within, knee_of

if TYPE_CHECKING:
    from tavt_kit.adaptive import AdaptiveViT
    from tavt_kit.schedule import TokenSchedule

__all__ = ["schedule_for"]


def schedule_for(run: Path, model: AdaptiveViT, schedule: str | None, pick: str | None) -> TokenSchedule:
    """The schedule to export.

    Args:
        run: The run folder; ``front.json`` in it is what a search found.
        model: The run's model.
        schedule: As ``--schedule`` has it, or None.
        pick: ``cheapest``, ``best``, ``knee``, a limit such as ``latency=8ms``, or a place on the front counted from
            0; None takes what the search chose.

    Raises:
        ScheduleError: Both are given, or the schedule does not fit.
        RecordError: The run has no front, or not that candidate.
    """
    from tavt_kit.candidate import schedule_of
    from tavt_kit.schedule import TokenSchedule

    if schedule is not None:
        if pick is not None:
            raise ScheduleError(
                f"--schedule and --pick both name a schedule, got {schedule} and {pick}; give one of them"
            )
        return TokenSchedule.parse(schedule, tokens=model.tokens, layers=model.layers, prefix=model.prefix)
    front = _front(run)
    if front is None:
        raise RecordError(
            f"{run} holds no search result (front.json) to take a schedule from; give --schedule, such as dense or "
            "taper:0.2"
        )
    found = schedule_of(_candidate(front, pick, run))
    found.check(tokens=model.tokens, layers=model.layers, prefix=model.prefix)
    return found


def _front(run: Path) -> Mapping[str, Any] | None:
    from tavt_kit.records import read_record

    folder = run if run.is_dir() else run.parent
    path = folder / "front.json"
    return read_record(path, "fgvc-kit/front", 1) if path.is_file() else None


def _candidate(front: Mapping[str, Any], pick: str | None, run: Path) -> Mapping[str, Any]:
    """The picked candidate's record; the front is sorted by rising cost, and so by rising accuracy."""
    candidates: list[Mapping[str, Any]] = front.get("candidates") or []
    if not candidates:
        raise RecordError(f"the front of {run} is empty; give --schedule")
    if pick == "cheapest":
        return candidates[0]
    if pick == "best":
        metric = front.get("metric", "top1")
        return max(candidates, key=lambda one: one.get(metric) or 0.0)
    if pick is None:
        chosen = front.get("chosen")
        if not isinstance(chosen, int) or not 0 <= chosen < len(candidates):
            raise RecordError(
                f"the search in {run} chose no schedule (verdict {front.get('verdict')}); give --pick cheapest, "
                "--pick best or --schedule"
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
            f"--pick takes cheapest, best, knee, a limit such as latency=8ms, or a place on the front from 0 to "
            f"{len(candidates) - 1}, got {pick!r}"
        )
    return candidates[int(pick)]
