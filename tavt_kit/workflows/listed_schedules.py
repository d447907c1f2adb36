"""The schedules that a verb is given: from a search's front, from the command line, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tavt_kit.errors import RecordError, ScheduleError

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["listed_schedules"]


def listed_schedules(model: AdaptiveViT, texts: Sequence[str], front: Path | None) -> tuple[str, ...]:
    """The counts of every schedule, as text.

    Args:
        model: They must fit it.
        texts: As ``--schedule`` has them.
        front: A ``front.json``, or the run folder it is in; all of its candidates are taken.

    Raises:
        ScheduleError: A schedule does not fit the model; that of a file is named.
        RecordError: There is no such file, no candidate in it, or it is another model's.
    """
    from tavt_kit.core.configuration import Configuration
    from tavt_kit.core.records import read_record
    from tavt_kit.core.schedule import TokenSchedule

    sizes = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    found = [TokenSchedule.parse(text, **sizes) for text in texts]
    if front is not None:
        path = front / "front.json" if front.is_dir() else front
        body = read_record(path, "fgvc-kit/front", 2)
        _check_model(path, body.get("model"), model)
        candidates = body.get("candidates")
        if not isinstance(candidates, list) or not candidates:
            raise RecordError(f"{path} holds no schedules, because its front is empty; give `schedule` instead")
        for candidate in candidates:
            try:
                recorded = Configuration.from_record(candidate)
                if recorded.is_variant or recorded.schedule.executed is not None:
                    continue  # it is of the model at another size, by another score, or of some of its layers
                schedule = recorded.schedule
                schedule.check(**sizes)
            except ScheduleError as error:
                raise ScheduleError(f"{path} is the front of another model: {error}") from None
            found.append(schedule)
        if not found:
            raise RecordError(
                f"{path} holds no schedules of the model as it is, only of other sizes, scores or layers; give "
                "`schedule` instead"
            )
    return tuple(dict.fromkeys(str(schedule) for schedule in found))


def _check_model(path: Path, recorded: Any, model: AdaptiveViT) -> None:
    """Raise RecordError where the front was found on another architecture; other weights of the same are welcome."""
    card = getattr(model, "card", None)
    if card is None or not isinstance(recorded, Mapping):
        return
    ours = json.loads(json.dumps(cast("ModelCard", card).as_record()))
    differing = [name for name in ("family", "name", "arguments") if recorded.get(name) != ours.get(name)]
    if differing:
        raise RecordError(
            f"{path} is the front of another model: its {differing[0]} is {recorded.get(differing[0])!r}, this one's "
            f"{ours.get(differing[0])!r}; give a front of this model"
        )
