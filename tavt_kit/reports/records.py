"""The records of a run: found below the given folders, and read so that a missing value is None."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tavt_kit.core.parsing import parse_json
from tavt_kit.core.records import kind_of, read_lines, upgraded
from tavt_kit.errors import RecordError

_JUDGED = ("bench", "check", "eval", "fit", "front")  # what verdicts rest on
_KINDS = frozenset(
    "average bench check eval explained exported fit front kept model profile prune recipe run split".split()
)
"""What this report reads."""

_MOST = 1e100  # What no figure reaches; the axes of charts of more would overflow

_DEPTH = 2
"""Folders below a given one that are looked into: ``runs/demo/export/int8``."""


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One record and where it lies."""

    path: Path
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Records:
    """All records of a report by kind, such as ``front``, nearest to the given folders first.

    Of each ``run.json``, by its path, ``steps`` are the lines of the ``metrics.jsonl`` beside it.
    """

    by_kind: Mapping[str, tuple[RecordFile, ...]]
    folders: tuple[str, ...] = ()
    steps: Mapping[Path, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def all(self, kind: str) -> tuple[RecordFile, ...]:
        """Every record of this kind."""
        return self.by_kind.get(kind, ())

    def entries(self, kind: str, name: str) -> list[tuple[Path, Mapping[str, Any]]]:
        """The objects in the list of this name of every record of a kind, each with the folder that it lies in."""
        return [(file.path.parent, entry) for file in self.all(kind) for entry in objects(file.body, name)]

    def first(self, kind: str) -> Mapping[str, Any]:
        """The nearest record of this kind; empty if there is none."""
        return next((file.body for file in self.all(kind)), {})


def gather(paths: Sequence[Path]) -> Records:
    """Read the records below the given folders and files.

    Raises:
        RecordError: A path is not there or holds no record, a file given by name is foreign, or a record is damaged
            or of another version.
    """
    by_kind: dict[str, dict[Path, RecordFile]] = {}
    for given in map(Path, paths):
        ours = [known for path in _files(given) if (known := _read(path)) is not None]
        if not ours:
            raise RecordError(
                f"{given} holds no record to report on; give what train, distill, search, export or bench wrote"
            )
        for kind, record in ours:
            by_kind.setdefault(kind, {}).setdefault(record.path, record)
    for recipe in list(by_kind.get("recipe", {}).values()):
        there = {path.resolve() for path in by_kind.get("run", {})}
        for path in _origin(recipe):
            if path.resolve() not in there and (known := _read(path)) is not None:
                by_kind.setdefault(known[0], {}).setdefault(path, known[1])
    records = {kind: tuple(of_kind.values()) for kind, of_kind in by_kind.items()}
    steps = {run.path: read_lines(run.path.parent / "metrics.jsonl") for run in records.get("run", ())}
    return Records(records, tuple(map(str, paths)), steps)


def _origin(recipe: RecordFile) -> list[Path]:
    """What the run that a search began with says of its training, where it is still there with the same weights."""
    name, own = text(recipe.body, "model"), recipe.path.parent
    weights = _weights(own)
    for folder in [] if name is None or weights is None else (Path(name), own.parent / Path(name).name):
        if _weights(folder) == weights:
            return [path for path in (folder / "run.json", folder / "control" / "run.json") if path.is_file()]
    return []


def _weights(folder: Path) -> str | None:
    """The SHA-256 of the weights in a run folder, as its card says."""
    card = _read(folder / "model.json") if (folder / "model.json").is_file() else None
    return None if card is None else text(card[1].body, "weights_sha256")


def _files(path: Path) -> list[Path]:
    """The JSON files below a folder, the nearest first; a file given by name is itself."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RecordError(f"{path} is neither a run folder nor a record; give what search, export or bench wrote")
    names: list[Path] = []
    most = _DEPTH + (path / "fit.json").is_file()  # each of its files has a folder in files/first or files/second
    for folder, below, files in os.walk(path):
        depth = len(Path(folder).parts) - len(path.parts)
        below[:] = sorted(name for name in below if not name.startswith(".")) if depth < most else []
        names += [Path(folder, name) for name in sorted(files) if name.endswith(".json") and not name.startswith(".")]
    return sorted(names, key=lambda name: len(name.parts))


def _read(path: Path) -> tuple[str, RecordFile] | None:
    """The record with its kind, or None for a JSON file of somebody else."""
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        if path.suffix != ".json" or path.stem not in _KINDS:
            return None
        raise RecordError(f"{path} is damaged, so write it again: {error}") from None
    kind = kind_of(body)
    if kind is None and path.suffix == ".json" and path.stem in _JUDGED:
        raise RecordError(f"{path} must be a record of {path.stem}, but has no schema of ours; write or move it")
    return (kind, RecordFile(path, upgraded(path, kind, body))) if kind in _KINDS and kind is not None else None


def number(record: Any, *path: str | int) -> float | None:
    """The finite number at ``path``."""
    value = _at(record, path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
        return None
    return float(value)


def whole(record: Any, *path: str | int) -> int | None:
    """The whole number at ``path``."""
    value = _at(record, path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(record: Any, *path: str | int) -> str | None:
    """The text at ``path``, if it is not empty."""
    value = _at(record, path)
    return value if isinstance(value, str) and value else None


def mapping(record: Any, *path: str | int) -> Mapping[str, Any]:
    """The object at ``path``; empty where there is none."""
    value = _at(record, path)
    return value if isinstance(value, Mapping) else {}


def sequence(record: Any, *path: str | int) -> Sequence[Any]:
    """The list at ``path``; empty where there is none."""
    value = _at(record, path)
    return value if isinstance(value, list | tuple) else ()


def integers(record: Any, *path: str | int) -> tuple[int, ...]:
    """The whole numbers in the list at ``path``, such as a schedule."""
    return tuple(item for item in sequence(record, *path) if isinstance(item, int))


def objects(record: Any, *path: str | int) -> list[Mapping[str, Any]]:
    """The objects in the list at ``path``."""
    return [item for item in sequence(record, *path) if isinstance(item, Mapping)]


def _at(record: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        try:
            record = None if isinstance(record, str) else record[step]
        except (KeyError, IndexError, TypeError):
            return None
    return record
