"""The schedules a distillation is given: from a search's front, from the command line, or both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.errors import RecordError, ScheduleError

if TYPE_CHECKING:
    from tavt_kit.adaptive import AdaptiveViT

__all__ = ["listed_schedules"]


def listed_schedules(model: AdaptiveViT, texts: Sequence[str], front: Path | None) -> tuple[str, ...]:
    """The counts of every schedule, as text.

    Args:
        model: They must fit it.
        texts: As ``--schedule`` has them.
        front: A ``front.json``, or the run folder it is in; all of its candidates are taken.

    Raises:
        ScheduleError: A schedule does not fit the model; that of a file is named.
        RecordError: There is no such file, or no candidate in it.
    """
    from tavt_kit.candidate import schedule_of
    from tavt_kit.records import read_record
    from tavt_kit.schedule import TokenSchedule

    sizes = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    found = [TokenSchedule.parse(text, **sizes) for text in texts]
    if front is not None:
        path = front / "front.json" if front.is_dir() else front
        candidates = read_record(path, "fgvc-kit/front", 1).get("candidates")
        if not isinstance(candidates, list) or not candidates:
            raise RecordError(f"{path} holds no schedules, because its front is empty; give --schedule instead")
        for candidate in candidates:
            try:
                schedule = schedule_of(candidate)
                schedule.check(**sizes)
            except ScheduleError as error:
                raise ScheduleError(f"{path} is the front of another model: {error}") from None
            found.append(schedule)
    return tuple(str(schedule) for schedule in found)
