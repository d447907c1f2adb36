"""Several searches in one report: each with its own records, refused where their figures cannot stand side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.errors import RecordError
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Found, Records, candidates_beside
from tavt_kit.reports.views import mapping, sequence, text
from tavt_kit.reports.words import target_words

__all__ = ["MOST_RUNS", "RunRecords", "runs_of"]

MOST_RUNS = 6
"""As many as can be told apart in one chart."""


@dataclass(frozen=True, slots=True)
class RunRecords:
    """One search.

    Args:
        name: What it is called, unlike the others.
        records: Its own, and no other search's.
    """

    name: str
    records: Records

    @property
    def front(self) -> Mapping[str, Any]:
        """Its ``front.json``."""
        return self.records.first("front")


def runs_of(records: Records, *, across: bool) -> tuple[RunRecords, ...]:
    """The searches among the records, in the order given.

    Args:
        records: Of all of them.
        across: Whether they may be of different machines or targets.

    Raises:
        RecordError: Too many, or of other pictures, classes or metrics; or, without ``across``, of other machines.
    """
    fronts = records.all("front")
    if len(fronts) > MOST_RUNS:
        raise RecordError(f"a report sets at most {MOST_RUNS} searches side by side, got {len(fronts)}; give fewer")
    names = _names([one.path for one in fronts])
    runs = tuple(RunRecords(name, _own(records, front, fronts)) for name, front in zip(names, fronts, strict=True))
    _refuse(runs, "the metric", lambda run: FrontView.of(run.front).metric)
    _refuse(runs, "the classes", lambda run: tuple(map(str, sequence(run.front, "model", "classes"))) or None)
    _refuse(runs, "the split", lambda run: FrontView.of(run.front).split)
    _refuse(runs, "the pictures (the SHA-256 of the split)", _pictures)
    _refuse(runs, "the number of pictures", _number)
    if not across:
        _refuse(runs, "the target", lambda run: target_words(mapping(run.front, "target")) or None, mixed=True)
        _refuse(runs, "the machine", _machine, mixed=True)
    return runs


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names; where two are the same, the whole paths."""
    for spelled in (lambda path: path.parent.name, lambda path: str(path.parent), str):
        names = [spelled(path) or "." for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _own(records: Records, front: Found, fronts: Iterable[Found]) -> Records:
    """What lies below the front's folder, and not below that of a search within it."""
    folder = front.path.parent
    others = [one.path.parent for one in fronts if one.path != front.path]
    inner = [other for other in others if other != folder and other.is_relative_to(folder)]

    def is_ours(one: Found) -> bool:
        path = one.path
        return path.is_relative_to(folder) and not any(path.is_relative_to(other) for other in inner)

    found = {
        kind: (front,) if kind == "front" else tuple(one for one in several if is_ours(one))
        for kind, several in records.found.items()
    }
    return Records(found, candidates_beside(front.path), (str(folder),), records.steps)


def _refuse(runs: Sequence[RunRecords], what: str, of: Any, *, mixed: bool = False) -> None:
    """Refuse two runs that differ in this; what is not recorded cannot differ."""
    known = [(run, value) for run in runs if (value := of(run)) is not None]
    for run, value in known[1:]:
        first, other = known[0]
        if value != other:
            how = "give `across=True` to set them side by side all the same" if mixed else "make one report each"
            raise RecordError(
                f"the searches of one report need {what} in common, but {first.name} has {_shown(other)} and "
                f"{run.name} {_shown(value)}; {how}"
            )


def _shown(value: object) -> str:
    words = f"{len(value)} ({', '.join(value[:3])}, ...)" if isinstance(value, tuple) else str(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def _pictures(run: RunRecords) -> str | None:
    return text(run.records.first("split"), "sha256") or text(run.records.first("recipe"), "ties", "split")


def _number(run: RunRecords) -> int | None:
    view = FrontView.of(run.front)
    counts = {one.accuracy.n for one in view.candidates if one.accuracy is not None}
    return max((n for n in counts if n is not None), default=None)


def _machine(run: RunRecords) -> str | None:
    host = mapping(run.front, "host")
    cpu = text(host, "cpu")
    if cpu is None:
        return None
    accelerator = text(host, "accelerator")
    cores = len(sequence(host, "affinity"))
    return ", ".join(part for part in (cpu, f"{cores} CPUs" if cores else None, accelerator) if part)
