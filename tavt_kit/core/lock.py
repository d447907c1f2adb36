"""One process at a time writes into a folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tavt_kit.core.parsing import parse_json
from tavt_kit.core.records import UNFINISHED, label_record, make_folder
from tavt_kit.errors import OutputError

_held = set[Path]()


@contextmanager
def held_folder(path: Path | str, name: str = "") -> Iterator[Path]:
    """Make an output folder and keep other processes out of it until the block ends.

    The operating system lets go of the lock of a process that dies; its file is taken over. A folder that was made
    here and is still empty at the end, because of a refusal, is removed. A block inside another of the same folder
    and process does nothing.

    Args:
        name: Name of what is written, where others may write beside it.

    Raises:
        OutputError: The folder cannot be written, or another process holds it; the sentence names that process.
    """
    folder = Path(path)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    make_folder(folder)
    file = folder.resolve() / f".{name}lock"
    if file in _held:
        yield folder
        return
    handle = _lock(file, folder)
    _held.add(file)
    _remove_unfinished(folder, file)
    try:
        yield folder
    finally:
        _held.discard(file)
        if os.name != "posix":
            handle.close()  # Windows removes no open file
        file.unlink(missing_ok=True)
        handle.close()
        with suppress(OSError):  # it holds something
            for parent in made:
                parent.rmdir()


def _remove_unfinished(folder: Path, own: Path) -> None:
    """What a killed process left, unless somebody else writes here under another name."""
    hidden = [file for file in folder.iterdir() if file.name.startswith(".")]
    if any(other.name != own.name and other.name.endswith("lock") for other in hidden):
        return
    for left in hidden:
        if left.name.startswith(UNFINISHED):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _lock(file: Path, folder: Path) -> IO[str]:
    """The lock's file, open and held."""
    while True:
        handle = file.open("a+", encoding="utf-8")
        try:
            if sys.platform == "win32":
                import msvcrt

                handle.seek(1 << 30)  # past the text, which others read
                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = "another process"
            with suppress(ValueError, KeyError, TypeError):
                held = parse_json(handle.read())
                holder = f"process {held['pid']} on {held['host']} since {held['since']}"
            handle.close()
            raise OutputError(f"{folder} is held by {holder}; wait for it, or end it") from None
        # Who held it before may have removed the file after we opened it: then others hold another of its name.
        if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
            break
        handle.close()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    handle.truncate(0)
    handle.write(json.dumps(label_record("holder", {"pid": os.getpid(), "host": platform.node(), "since": since})))
    handle.flush()
    return handle
