"""Versioned JSON records, and writing files so that a killed process never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tavt_kit.errors import OutputError, RecordError

__all__ = [
    "atomic_path",
    "atomic_text",
    "make_folder",
    "read_lines",
    "read_record",
    "sha256_file",
    "sha256_text",
    "upgraded",
    "write_record",
]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well, else remove it.

    The temporary name keeps the suffix, because some writers choose their format by it. What is renamed has reached
    the disk before, and the new name has when this returns, so that a power cut leaves the old file or the new one.

    Raises:
        OutputError: The folder does not exist or cannot be written, or the disk or a quota is full.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another output folder") from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise OutputError(
                f"cannot write {path}: {error.strerror}; make room, or choose another output folder"
            ) from None
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What a write fails with through no fault of the program's."""


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; Windows opens no folders and needs no such wait."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def atomic_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> Path:
    """Create an output folder and prove that it can be written, before any work is spent.

    Raises:
        OutputError: The path is a file, or cannot be created or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # without a name, so that nothing stays of a process that is killed
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror}; choose another output folder") from None
    return path


def write_record(path: Path, schema: str, version: int, body: Mapping[str, Any]) -> None:
    """Write a JSON object that begins with its schema and version; NaN and infinity are refused.

    Args:
        path: The file.
        schema: For example ``"fgvc-kit/front"``.
        version: Raised when the meaning of a field changes.
        body: Everything else.
    """
    text = json.dumps({"schema": schema, "version": version, **body}, indent=1, allow_nan=False)
    atomic_text(path, text + "\n")


def read_record(path: Path, schema: str, version: int) -> dict[str, Any]:
    """Read what ``write_record`` wrote.

    Raises:
        RecordError: No such file, no JSON, or another schema or version.
    """
    try:
        record: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(f"{path} is not a JSON record: {error}") from None
    except RecursionError:
        raise RecordError(f"{path} is not a JSON record: its values are nested too deep to be read") from None
    if not isinstance(record, dict) or record.get("schema") != schema:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise RecordError(f"{path} must be a {schema} record, but is {found!r}")
    body: dict[str, Any] = upgraded(record)
    if body.get("version") != version:
        raise RecordError(
            f"{path} has version {body.get('version')!r} of {schema}, but this program reads version {version}; "
            "write it again with this program"
        )
    return body


_RENAMED = {
    "fgvc-kit/front 1": {
        "rivals": "baseline_models",
        "rivals_left_out": "baselines_left_out",
        "bought": "gene_ablation",
    }
}
"""Of a record and its former version, the keys that the next version calls otherwise; nothing else changed."""


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of a former version as today's, where that version is still read; any other as it is."""
    names = _RENAMED.get(f"{record.get('schema')} {record.get('version')}")
    if names is None:
        return record
    return {names.get(key, key): value for key, value in record.items()} | {"version": record["version"] + 1}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, up to the first that is not whole (where a process was killed).

    Raises:
        RecordError: The file is there, but cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not isinstance(value, dict):
            break
        found.append(value)
    return found


def sha256_file(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """The SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
