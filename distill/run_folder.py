"""A training run on the disk: what it was asked to do, how far it is, and whether it may be continued."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tavt_kit import __version__
from tavt_kit.core.codec import Record, decode
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import command_line, make_folder, read_record, write_record
from tavt_kit.distill.checkpointing import STATE_FOLDER, has_state
from tavt_kit.distill.metrics import EVENTS_FOLDER
from tavt_kit.distill.processes import Processes
from tavt_kit.errors import OutputError, RecordError, TrainingError

RUN_FILE = "run.json"
_OURS = ("run.json", "split.json", "metrics.jsonl", "model.safetensors", "model.json")


def read_run_record(folder: Path) -> dict[str, Any]:
    """``run.json`` of a folder.

    Raises:
        RecordError: It is not there, or no run's.
    """
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
    """What the run in a folder was asked for; empty where there is none.

    Raises:
        RecordError: Its record is damaged.
    """
    return read_run_record(folder)["asked"] if (Path(folder) / RUN_FILE).exists() else {}


class RunFolder:
    """One run; ``run.json`` is rewritten whenever it gets on.

    Args:
        folder: Made if it is not there.
        verb: ``"train"`` or ``"distill"``.
        asked: Everything that decides the result, flat and JSON-ready: recipe, model and data.
        fresh: Remove an earlier run first.
        processes: That share the work; the first one reads and writes for all.

    Raises:
        OutputError: The folder cannot be written, or holds a model or a state that no known run made.
        RecordError: It holds a run of another verb.
        TrainingError: It holds a run that was asked for something else; the differences are listed.
    """

    def __init__(
        self,
        folder: Path,
        verb: str,
        asked: Mapping[str, Any],
        *,
        fresh: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.verb = verb
        self._writes = processes is None or processes.first
        self.body: dict[str, Any] = {"verb": verb, "status": "running", "asked": dict(asked), "results": {}}
        if processes is None:
            self._open(fresh)
        else:
            self.body = processes.once(lambda: self._open(fresh))

    def _open(self, fresh: bool) -> dict[str, Any]:
        make_folder(self.folder)
        if fresh:
            self._clear()
        if (self.folder / RUN_FILE).exists():
            self._take_up(read_run_record(self.folder))
        elif (self.folder / "model.json").exists():
            raise OutputError(
                f"{self.folder} holds a model that this command did not make; choose another `out`, or `fresh` to "
                "replace it"
            )
        elif has_state(self.folder):
            raise OutputError(
                f"{self.folder} holds the state of a run, but no {RUN_FILE} that tells of which; choose another `out`, "
                "or start again with `fresh`"
            )
        return self.body

    def _clear(self) -> None:
        for name in _OURS:
            (self.folder / name).unlink(missing_ok=True)
        for name in (STATE_FOLDER, EVENTS_FOLDER):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _take_up(self, record: dict[str, Any]) -> None:
        if record.get("verb") != self.verb:
            raise RecordError(
                f"{self.folder} holds a {record.get('verb')} run, not a {self.verb} run; choose another `out`"
            )
        different = _differences(record["asked"], self.body["asked"])
        if different:
            raise TrainingError(
                f"{self.folder} was begun with {'; '.join(different)}: continue it with the same flags, choose another "
                "`out`, or start again with `fresh`"
            )
        self.body = {key: value for key, value in record.items() if key not in ("schema", "version")}

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.body["status"] == "done")

    @property
    def results(self) -> dict[str, Any]:
        """What is known so far."""
        found: dict[str, Any] = self.body["results"]
        return found

    def note(self, **results: Any) -> None:
        """Add results and write them."""
        self.results.update(results)
        self._write()

    def finish(self, **results: Any) -> None:
        """Add the last results; the run is done."""
        self.body["status"] = "done"
        self.body["host"] = HostFacts.gather().as_record()
        self.body["program"] = f"tavt-kit {__version__}"
        self.body["command"] = command_line()
        self.note(**results)

    def _write(self) -> None:
        if self._writes:
            write_record(self.folder / RUN_FILE, "run", self.body)


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``"bound 0.4 (now 0.5)"`` for every entry that differs."""
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    return [f"{name} {_text(there.get(name))} (now {_text(now.get(name))})" for name in names]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
