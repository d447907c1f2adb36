"""Every evaluation of a search in one SQLite file, committed the moment it is known."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy, bits_text
from tavt_kit.core.codec import Record, decode
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.parsing import parse_json
from tavt_kit.core.records import code_version
from tavt_kit.errors import OutputError, RecordError
from tavt_kit.evaluation.result import EvaluationResult

_LAYOUT = 2
_PAIRS = "name TEXT PRIMARY KEY, value TEXT NOT NULL"
_ANSWERS = (
    "number INTEGER PRIMARY KEY, schedule TEXT NOT NULL UNIQUE, accuracy TEXT, failure TEXT, bits BLOB, "
    "metrics TEXT NOT NULL, seconds REAL NOT NULL, timings TEXT NOT NULL, code TEXT NOT NULL"
)
_TABLES = {"recipe": _PAIRS, "notes": _PAIRS, "evaluations": _ANSWERS, "finals": _ANSWERS}
"""The search's own answers, and in ``finals`` those of what the result shows, in the precision of the target.
``accuracy``, ``metrics`` and ``timings`` are JSON; ``bits`` has one bit an image, the first in the highest one.
``code`` is the version of this package that gave the answer."""

_log = logging.getLogger(__name__)


_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What sqlite3 raises of a damaged file: the second where its own sentence has bytes of the file in it."""


@dataclass(frozen=True, slots=True)
class _Answer(Record):
    seconds: float
    failure: str | None
    timings: Mapping[str, float]
    values: Mapping[str, float]
    others: tuple[Accuracy, ...]


class Store(AbstractContextManager["Store"]):
    """The answers of one search. One process at a time; a killed one loses nothing it had answered.

    Args:
        path: The SQLite file, created if absent; ``None`` keeps everything in memory.
        fresh: Whether to forget what an earlier search left in it, unless that is still running.

    Raises:
        OutputError: The file cannot be created.
        RecordError: The file is something else, of another version, or held by another process.

    Example:
        >>> from tavt_kit.core.schedule import TokenSchedule
        >>> store = Store(None)
        >>> store.bind({"seed": 0})
        >>> store.add(TokenSchedule((5, 4)), EvaluationResult(Accuracy.of_counts(3, 4, split="val"), seconds=0.1))
        >>> store.get(TokenSchedule((5, 4))).accuracy.value
        0.75
    """

    def __init__(self, path: Path | None, *, fresh: bool = False) -> None:
        self.path = path
        try:
            self._base = self._held(fresh)
            try:
                self._prepare()
                rows = self._rows("SELECT code, count(*) FROM evaluations GROUP BY code ORDER BY min(number)")
            except BaseException:
                self._base.close()
                raise
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise OutputError(f"cannot write {path}: {error}; choose another output folder") from None
            raise RecordError(f"{path} is held by another process; wait for it, or end it") from None
        except _DAMAGED as error:
            raise RecordError(f"{path} is not readable as a search store ({error}); begin anew with `fresh`") from None
        if others := ", ".join(f"{number} by {code}" for code, number in rows if code != code_version()):
            message = "%s holds answers of other code (%s) than this, %s; they are taken as they are"
            _log.warning(message, path, others, code_version())

    def _held(self, fresh: bool) -> sqlite3.Connection:
        """The file, locked for as long as it is open: another process is told, not mixed in."""
        base = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=1.0, isolation_level=None)
        try:
            base.execute("PRAGMA locking_mode=EXCLUSIVE")
            base.execute("PRAGMA synchronous=FULL")
            base.execute("BEGIN EXCLUSIVE")
        except _DAMAGED as error:
            base.close()
            if not fresh or isinstance(error, sqlite3.OperationalError):
                raise
        if not fresh or self.path is None:
            return base
        base.close()
        self.path.unlink(missing_ok=True)  # damaged or not: nobody else holds it
        return self._held(fresh=False)

    def _prepare(self) -> None:
        """Make the tables in the transaction that is open, or see that they are ours."""
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version != _LAYOUT and (version or self._base.execute("SELECT name FROM sqlite_master").fetchone()):
            earlier = f"was written by an earlier version (layout {version}, now {_LAYOUT})"
            reason = earlier if 0 < version < _LAYOUT else f"is no search store of layout {_LAYOUT}"
            raise RecordError(f"{self.path} {reason}; begin anew with `fresh`, or choose another output folder")
        for name, columns in _TABLES.items():
            self._base.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
        self._base.execute(f"PRAGMA user_version={_LAYOUT}")
        self._base.execute("COMMIT")

    @contextmanager
    def _using(self, verb: str, remedy: str) -> Iterator[None]:
        """What sqlite3 says of the file, or JSON of a value in it, as a sentence that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:  # a full disk, a folder gone
            raise OutputError(f"cannot {verb} {self.path}: {error}; {remedy}") from None
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise RecordError(f"{self.path} is damaged ({error}); begin anew with `fresh`") from None

    def _rows(self, query: str, *values: str) -> list[Any]:
        with self._using("read", "repeat the command"):
            return self._base.execute(query, values).fetchall()

    def _values(self, query: str, *values: str) -> dict[str, Any]:
        """JSON values by their names."""
        with self._using("read", "repeat the command"):
            return {name: parse_json(value) for name, value in self._base.execute(query, values)}

    def _write(self, statement: str, *rows: Sequence[Any]) -> None:
        """One statement on each of the rows, all of them or none."""
        with self._using("write", "make room and repeat the command"):
            self._base.execute("BEGIN")
            with self._base:  # commits, or rolls back
                self._base.executemany(statement, rows)

    def bind(self, recipe: Mapping[str, Any]) -> None:
        """Tie the store to the recipe that its answers depend on, which may change as long as there are no answers.

        Raises:
            RecordError: A value differs; the message lists all that do.
        """
        held = self._values("SELECT name, value FROM recipe")
        asked: dict[str, Any] = json.loads(json.dumps(recipe))
        missing = [name for name in asked if name not in held]
        differing = [name for name in asked if name in held and held[name] != asked[name]] + missing
        if differing and len(self):
            listed = "; ".join(f"{name} was {_short(held.get(name))}, is {_short(asked[name])}" for name in differing)
            raise RecordError(
                f"{self.path} holds another search ({listed}); repeat its command, choose another output folder, "
                "or begin anew with `fresh`"
            )
        rows = [(name, json.dumps(asked[name])) for name in differing]
        self._write("INSERT OR REPLACE INTO recipe VALUES (?, ?)", *rows)

    def get_attr(self, name: str) -> Any:
        """What was kept under this name, or ``None``: measurements that the costs of a search rest on."""
        return self._values("SELECT name, value FROM notes WHERE name = ?", name).get(name)

    def set_attr(self, name: str, value: Any) -> None:
        """Keep a JSON value, so that a continued search goes by the very same numbers."""
        self._write("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    def get(self, schedule: Choice, *, final: bool = False) -> EvaluationResult | None:
        """The stored answer, or ``None``; see ``add``."""
        table, columns = "finals" if final else "evaluations", "accuracy, failure, bits, metrics, seconds, timings"
        rows = self._rows(f"SELECT {columns} FROM {table} WHERE schedule = ?", _key(schedule))
        if not rows:
            return None
        row = rows[0]
        try:
            accuracy = None if row[0] is None else Accuracy.from_record(parse_json(row[0]))
            correct = None if row[2] is None or accuracy is None else _unpacked(row[2], accuracy.n)
            facts = {"seconds": row[4], "failure": row[1], "timings": parse_json(row[5]), **parse_json(row[3])}
            stored = decode(_Answer, facts)
            return EvaluationResult(
                accuracy, stored.seconds, stored.failure, correct, stored.values, stored.timings, stored.others
            )
        except (ValueError, TypeError) as error:  # no JSON, or of other types than ours, or that do not go together
            raise RecordError(
                f"{self.path} holds an answer to {schedule} that cannot be read ({error}); begin anew with `fresh`"
            ) from None

    def add(self, schedule: Choice, answer: EvaluationResult, *, final: bool = False) -> None:
        """Store an answer, a ``final`` one in the target's precision, apart; when this returns it is on the disk.

        Raises:
            OutputError: The file cannot be written any more.
        """
        values = (
            _key(schedule),
            None if answer.accuracy is None else json.dumps(answer.accuracy.as_record()),
            answer.failure,
            None if answer.correct is None else np.packbits(answer.correct).tobytes(),
            json.dumps({"values": dict(answer.values), "others": [metric.as_record() for metric in answer.metrics]}),
            answer.seconds,
            json.dumps(dict(answer.timings)),
            code_version(),
        )
        table = "finals" if final else "evaluations"
        columns = "schedule, accuracy, failure, bits, metrics, seconds, timings, code"
        self._write(f"INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM evaluations")[0][0])

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError, sqlite3.ProgrammingError):  # it never opened; another thread has it last
            self._base.close()


def stored_bits(path: Path, choices: Sequence[Choice]) -> list[tuple[str, str] | None]:
    """The hash of the images of each choice in a search, and which it had right, as ``bits_text`` writes it.

    They are of the answer that the result shows; ``None`` where they are not known, as of all choices where there is no
    store of this layout, which is only read. Raises RecordError where a running search holds it.
    """
    if not path.is_file():
        return [None] * len(choices)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            if base.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
                return [None] * len(choices)
            recipe = {name: json.loads(value) for name, value in base.execute("SELECT name, value FROM recipe")}
            searched = recipe.get("pictures")
            tables = (("finals", recipe.get("pictures that judge", searched)), ("evaluations", searched))
            answers = list[tuple[str, str] | None]()
            for choice in choices:
                answers.append(None)
                for table, images in tables:
                    rows = base.execute(f"SELECT accuracy, bits FROM {table} WHERE schedule = ?", (_key(choice),))
                    accuracy, bits = rows.fetchone() or (None, None)
                    if bits is not None and accuracy is not None and images is not None:
                        right = _unpacked(bits, Accuracy.from_record(parse_json(accuracy)).n)
                        answers[-1] = str(images), bits_text(right)
                        break
            return answers
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise RecordError(f"cannot read the answers of {path} ({error}); give its front.json elsewhere") from None


def _unpacked(bits: bytes, n: int) -> NDArray[np.bool_]:
    """Which of n images were right; ValueError or TypeError where these are not their bits."""
    if len(bits) != (n + 7) // 8:
        raise ValueError(f"{len(bits)} bytes are not a bit for each of {n} images")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(bool)


def _key(choice: Choice) -> str:
    configuration = Configuration.of(choice)
    counts = ",".join(map(str, configuration.schedule.counts))
    if configuration.choice is configuration.schedule:
        return counts
    variant: list[Any] = [configuration.image_size, configuration.score, configuration.precision]
    variant += [] if configuration.reduction is None else [configuration.reduction]
    executed = configuration.schedule.executed
    layers = "" if executed is None else f" of {','.join(map(str, executed))}"
    return f"{' '.join(map(str, variant))} {counts}{layers}"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
