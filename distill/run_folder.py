"""A training run on the disk: what it was asked, the states it continues from, always whole, and what it logged."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import torch

from tavt_kit import __version__
from tavt_kit.checkpoints.folder import DAMAGED
from tavt_kit.core.codec import Record, decode
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import (
    atomic_path,
    atomic_text,
    command_line,
    make_folder,
    read_lines,
    read_record,
    write_record,
)
from tavt_kit.errors import CheckpointError, OutputError, RecordError, TrainingError, first_line

STATE_FOLDER = "state"
LADDER_FILE = "ladder_before.npy"
"""Which images were right before a distillation, beside its states."""
_VERSION, _KEPT = 2, 1
_FRAGMENTS = (".*step-*.pt", ".*best-*.pt")
"""What a process that was killed while writing leaves behind."""


def save_state(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a state in place of the one before; a process killed at any moment leaves that one, or this.

    The content is ``step``, the updates that are done, that of the ``best`` weights, all others of which go, and
    whatever else continues the run: tensors, numbers, texts, lists, tuples and dictionaries only, so that no code is
    run when it is read.
    """
    write_state(state_file(folder, content["step"]), {"version": _VERSION, **content})
    best = state_file(folder, content["best"]["step"], "best")
    for old in (*_states(folder)[:-_KEPT], *(file for file in best.parent.glob("best-*.pt") if file != best)):
        old.unlink(missing_ok=True)


def state_file(folder: Path, step: int, kind: str = "step") -> Path:
    """Where the state after update ``step`` lies, or the ``"best"`` weights that were reached there."""
    return Path(folder) / STATE_FOLDER / f"{kind}-{step:08}.pt"


def write_state(file: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    make_folder(file.parent)
    with atomic_path(file) as temporary:
        torch.save(content, temporary)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state, its tensors on the CPU; None where there is none; raises as ``readable``."""
    for pattern in _FRAGMENTS:
        for file in (Path(folder) / STATE_FOLDER).glob(pattern):
            file.unlink(missing_ok=True)
    states = _states(folder)
    if not states:
        return None
    with readable(states[-1]):
        content: dict[str, Any] = torch.load(states[-1], map_location="cpu", weights_only=True)
        if content["version"] != _VERSION:
            raise ValueError(f"it has version {content['version']}, this program reads {_VERSION}")
    return content


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a state into a CheckpointError."""
    try:
        yield
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} cannot be continued ({first_line(error)}); start again with `fresh`") from None


def _states(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((Path(folder) / STATE_FOLDER).glob("step-*.pt"))


def has_state(folder: Path) -> bool:
    """Whether there is a saved state."""
    return bool(_states(folder))


def remove_state(folder: Path) -> None:
    """A finished run has no use for it, and it is larger than the model."""
    states = Path(folder) / STATE_FOLDER
    for pattern in ("step-*.pt", "best-*.pt", LADDER_FILE, *_FRAGMENTS):
        for file in states.glob(pattern):
            file.unlink(missing_ok=True)
    if states.is_dir() and not any(states.iterdir()):
        states.rmdir()


METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Every line up to the first without a step; the last one may be cut where a process was killed."""
    lines = read_lines(Path(folder) / METRICS_FILE)
    return list(takewhile(lambda line: type(line.get("step")) in (int, float), lines))


@contextmanager
def journal(folder: Path, done: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Where a run writes the values of each step, ``step`` among them; steps after the ``done`` ones are cut off."""
    path = Path(folder) / METRICS_FILE
    kept = [line for line in read_metrics(folder) if line["step"] <= done]
    atomic_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    try:
        lines = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None

    def write(values: Mapping[str, float]) -> None:
        lines.write(json.dumps(dict(values)) + "\n")

    with lines:
        yield write


RUN_FILE = "run.json"
_OURS = ("run.json", "split.json", "metrics.jsonl", "model.safetensors", "model.json")


def read_run_record(folder: Path) -> dict[str, Any]:
    """``run.json`` of a folder; RecordError where it is not there, or no run's."""
    file = Path(folder) / RUN_FILE
    record = read_record(file, "run")
    decode(_Known, record, f"{file}")
    return record


@dataclass(frozen=True)
class _Known(Record):
    """What every run's record has."""

    verb: str
    status: str
    asked: Mapping[str, Any]
    results: Mapping[str, Any]
    BESIDE: ClassVar[None] = None


def begun_with(folder: Path) -> Mapping[str, Any]:
    """What the run in a folder was asked for; empty where there is none."""
    return read_run_record(folder)["asked"] if (Path(folder) / RUN_FILE).exists() else {}


class RunFolder:
    """One run of ``"train"`` or ``"distill"``; ``run.json`` is rewritten whenever it gets on.

    It holds what was ``asked``: everything that decides the result, flat and JSON-ready.

    Raises:
        OutputError: The folder cannot be written, or holds a model or a state that no known run made.
        RecordError: It holds a run of another verb.
        TrainingError: It holds a run that was asked for something else; the differences are listed.
    """

    def __init__(self, folder: Path, verb: str, asked: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.folder, self.verb = Path(folder), verb
        self.body: dict[str, Any] = {"verb": verb, "status": "running", "asked": dict(asked), "results": {}}
        self.body = self._open(fresh)

    def _open(self, fresh: bool) -> dict[str, Any]:
        make_folder(self.folder)
        if fresh:
            for name in _OURS:
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / STATE_FOLDER, ignore_errors=True)
        if (self.folder / RUN_FILE).exists():
            record = read_run_record(self.folder)
            if record["verb"] != self.verb:
                raise RecordError(
                    f"{self.folder} holds a {record['verb']} run, not a {self.verb} run; choose another `out`"
                )
            there, now = record["asked"], self.body["asked"]
            # An option that there is no more, or not yet, is none where it was off.
            names = [name for name in {**there, **now} if (there.get(name) or None) != (now.get(name) or None)]
            if different := [f"{name} {_text(there.get(name))} (now {_text(now.get(name))})" for name in names]:
                raise TrainingError(
                    f"{self.folder} was begun with {'; '.join(different)}: continue it with the same flags, choose "
                    "another `out`, or start again with `fresh`"
                )
            return {key: value for key, value in record.items() if key not in ("schema", "version")}
        if (self.folder / "model.json").exists():
            raise OutputError(
                f"{self.folder} holds a model that this command did not make; choose another `out`, or `fresh` to "
                "replace it"
            )
        if has_state(self.folder):
            raise OutputError(
                f"{self.folder} holds the state of a run, but no {RUN_FILE} that tells of which; choose another `out`, "
                "or start again with `fresh`"
            )
        return self.body

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.body["status"] == "done")

    @property
    def results(self) -> dict[str, Any]:
        """What is known so far."""
        results: dict[str, Any] = self.body["results"]
        return results

    def note(self, **results: Any) -> None:
        """Add results and write them."""
        self.results.update(results)
        write_record(self.folder / RUN_FILE, "run", self.body)

    def finish(self, **results: Any) -> None:
        """Add the last results; the run is done."""
        self.body["status"] = "done"
        self.body["host"] = HostFacts.gather().as_record()
        self.body["program"] = f"tavt-kit {__version__}"
        self.body["command"] = command_line()
        self.note(**results)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
