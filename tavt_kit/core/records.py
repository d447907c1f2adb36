"""Versioned JSON records, what they say of their making, and files that no killed process leaves half written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from tavt_kit import __version__
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.codec import Record, decode
from tavt_kit.core.configuration import RecordedGenes
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.parsing import parse_json
from tavt_kit.errors import OutputError, RecordError, TavtError

_MOST = 1e12  # What no time and no share reaches; charts of more would overflow


@dataclass(frozen=True)
class _Part(Record):
    """Further keys are passed over."""

    BESIDE: ClassVar[None] = None


@dataclass(frozen=True)
class _Latency(_Part):
    predicted: float | None = None
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    p99: float | None = None
    interval95: tuple[float, float] | None = None
    samples: int | None = None
    steady: bool = True

    def __post_init__(self) -> None:
        for name in ("predicted", "median", "p10", "p90", "p99"):
            value = getattr(self, name)
            if value is not None and not 0 < value < _MOST:
                raise RecordError(f"a time must be above 0 and below {_MOST:g} ms, but {name} is {value}")


@dataclass(frozen=True)
class _Row(_Part):
    macs: int | None
    latency_ms: _Latency | None = None
    n: int | None = None
    ci95: tuple[float, float] | None = None
    verdict: str | None = None
    origin: str = ""
    others: Mapping[str, Accuracy] = field(default_factory=dict)
    against_dense: PairedDifference | None = None

    def __post_init__(self) -> None:
        if self.macs is not None and self.macs < 1:
            raise RecordError(f"multiply-adds must be above 0, but are {self.macs}")
        if self.ci95 is not None and not -1 <= self.ci95[0] <= self.ci95[1] <= 2:
            raise RecordError(f"ci95 must be the ends of an interval of shares, but is {self.ci95}")


@dataclass(frozen=True)
class _Candidate(RecordedGenes, _Row):
    macs: int


@dataclass(frozen=True)
class _Model(_Row):
    name: str = field(kw_only=True)


@dataclass(frozen=True)
class _LeftOut(_Part):
    name: str
    reason: str


@dataclass(frozen=True)
class _Front(_Part):
    metric: str
    candidates: tuple[_Candidate, ...]
    split: str = ""
    verdict: str = ""
    budgets: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    target: TargetDevice | None = None
    objectives: tuple[str, ...] = ("macs",)
    chosen: int | None = None
    baselines: tuple[_Candidate, ...] = ()
    baseline_models: tuple[_Model, ...] = ()
    baselines_left_out: tuple[_LeftOut, ...] = ()
    undecided: tuple[str, ...] = ()
    stopped_because: str | None = None
    history: tuple[float, ...] = ()
    seconds: float = 0.0
    host: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.chosen is not None and not 0 <= self.chosen < len(self.candidates):
            raise RecordError(f"chosen must be one of {len(self.candidates)} candidates, but is {self.chosen}")
        if not all(abs(value) < _MOST for value in (*self.history, self.seconds)):
            raise RecordError(f"history and seconds must be below {_MOST:g}")


def _check_front(record: Mapping[str, Any]) -> None:
    """Raise RecordError where a reader could not go by it; of other kinds each reader decides."""
    front = decode(_Front, record, "the front")
    for key in ("candidates", "baselines", "baseline_models"):
        for index, row in enumerate(record.get(key, ())):
            share = row.get(front.metric)
            if share is None and key == "baseline_models":  # its weights are random
                continue
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise RecordError(f"{key}[{index}].{front.metric} must be from 0 to 1, but is {share!r}")
    for index, row in enumerate(record["candidates"]):
        cost: Any = row
        for step in (front.objectives or ("none",))[0].split("."):
            cost = cost.get(step) if isinstance(cost, Mapping) else None
        if isinstance(cost, bool) or not isinstance(cost, int | float):
            raise RecordError(f"candidates[{index}] must have the first of objectives {front.objectives}")


SCHEMAS: dict[str, int] = {
    **dict.fromkeys(
        "artifact average bench check explained exported fit fit-answers fit-plan holder kept model profile prune "
        "recipe report run split".split(), 1,
    ),
    "comparison": 2,
    "doctor": 2,
    "eval": 2,
    "front": 2,
}  # fmt: skip
"""The version of each kind of record; raised when a field changes its meaning. A script may add kinds of its own."""

_PREFIX = "fgvc-kit/"
UNFINISHED = ".tmp-"
"""How the names of files and folders begin that are being written."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well, else remove it.

    The temporary name keeps the suffix, because some writers choose their format by it. What is renamed has reached
    the disk before, and the new name has when this returns, so that a power cut leaves the old file or the new one.
    OutputError where the folder does not exist or cannot be written, or the disk or a quota is full.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f"{UNFINISHED}{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another output folder") from None
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except Exception as error:
        if reason := no_room(error):
            raise OutputError(f"cannot write {path}: {reason}; make room, or choose another output folder") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)  # where it was not renamed


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What a write fails with through no fault of the program's."""


def no_room(error: Exception) -> str:
    """Why a file could not be written to its end, as Python or a library says it; empty of anything else."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors
        number = int(match[1])
    if number in _NO_ROOM:
        return os.strerror(number)
    if "No space left on device" in str(error):
        return "No space left on device"
    # torch, numpy and OpenVINO know only that fewer bytes were written than they gave.
    short = number is None and re.search(r"inline_container|requested and \d+ written|iostream error", str(error))
    return "it could not be written to its end" if short else ""


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; Windows opens no folders and needs no such wait."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, all of it or nothing; bytes of a file's name that are no UTF-8 are spelled out."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def make_folder(path: Path) -> Path:
    """Create an output folder and prove that it can be written, before any work is spent; else OutputError."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # without a name, so that nothing stays of a process that is killed
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror}; choose another output folder") from None
    return path


def label_record(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a record after its schema, a kind in ``SCHEMAS``, and version."""
    return {"schema": f"{_PREFIX}{kind}", "version": SCHEMAS[kind], **body}


def write_record(path: Path, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write a JSON object that begins with its schema and version, and give it; NaN and infinity are refused."""
    text = json.dumps(label_record(kind, body), indent=1, allow_nan=False)
    atomic_text(path, text + "\n")
    record: dict[str, Any] = json.loads(text)
    return record


def read_json(path: Path) -> Any:
    """What a JSON file holds; RecordError of no such file, or no JSON."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(f"{path} is not a JSON record: {error}") from None


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Read what ``write_record`` wrote; RecordError of no such file, no JSON, or another schema or version."""
    record = read_json(path)
    schema = record.get("schema") if isinstance(record, dict) else type(record).__name__
    if schema != f"{_PREFIX}{kind}":
        raise RecordError(f"{path} must be a {_PREFIX}{kind} record, but is {schema!r}")
    return upgraded(path, kind, record)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What a record lacks, or has of another type, is a RecordError that names its file."""
    try:
        yield
    except TavtError as error:
        if str(path) in str(error):
            raise
        raise RecordError(f"{path}: {error}") from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"{path} lacks what such a record has ({reason[:200]}); write it again") from None


# Of a kind and its former version, the keys that the next version calls otherwise; nothing else changed.
_RENAMED = {"front 1": {"rivals": "baseline_models", "rivals_left_out": "baselines_left_out"}}


def upgraded(path: Path, kind: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record of today's version, or of a former one that is still read, as today's; RecordError of any other."""
    version = record.get("version")
    if names := _RENAMED.get(f"{kind} {version}"):
        record = {names.get(key, key): value for key, value in record.items()} | {"version": SCHEMAS[kind]}
    elif version != SCHEMAS[kind]:
        raise RecordError(
            f"{path} has version {version!r} of {_PREFIX}{kind}, but this program reads version "
            f"{SCHEMAS[kind]}; write it again with this program"
        )
    if kind == "front":
        with reading(path):
            _check_front(record)
    return record


def kind_of(record: Any) -> str | None:
    """The kind that the schema of a JSON value names; None where it has no schema of ours."""
    schema = record.get("schema") if isinstance(record, dict) else None
    return schema.removeprefix(_PREFIX) if isinstance(schema, str) and schema.startswith(_PREFIX) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, up to the first that is not whole (where a process was killed)."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    objects: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = parse_json(line)
        except ValueError:
            break
        if not isinstance(value, dict):
            break
        objects.append(value)
    return objects


def sha256_file(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """The SHA-256 of the text's UTF-8 bytes, in hexadecimal; of a file's name that is no UTF-8, of its own bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def command_line() -> str | None:
    """The command as it was typed, for records; None where the package was called from Python."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    ours = program.stem == "fgvc-kit" or program.name == "cli.py" or program.parts[-2:] == ("tavt_kit", "__main__.py")
    return shlex.join(("fgvc-kit", *sys.argv[1:])) if ours else None


@cache
def code_version() -> str:
    """The version of this package and the first twelve digits of the SHA-256 over its sources."""
    inside = Path(__file__).resolve().parents[1]
    # In a checkout the parts lie beside the package, in a wheel inside it; the hash is the same.
    beside = inside.parent if not (inside / "cli.py").is_file() else inside
    files = {path.relative_to(inside).as_posix(): path for path in inside.rglob("*.py")}
    for part in (beside / name for name in ("search", "distill", "bench", "cli.py")):
        sources = [part] if part.is_file() else part.rglob("*.py")
        files |= {path.relative_to(beside).as_posix(): path for path in sources}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n".encode() + files[name].read_bytes() + b"\n")
    return f"{__version__} {digest.hexdigest()[:12]}"
