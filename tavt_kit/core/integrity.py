"""Is an exported file still the one that was checked? Its hashes against those of the ``check.json`` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tavt_kit.core.artifact_card import files_of
from tavt_kit.core.records import read_record, sha256_file
from tavt_kit.errors import RecordError

CHECK_FILE = "check.json"


def changed_since_check(path: Path, folder: Path | None = None) -> str:
    """A clause that names the part of an artifact that is not what was checked, or nothing.

    Args:
        path: The ``.onnx`` or ``.xml`` file. Without a check of it there is nothing to compare with.
        folder: Where ``check.json`` lies; by default where the file lies.

    Raises:
        RecordError: It cannot be read.
    """
    try:
        for file in files_of(path):
            known = _checked(file.name, path.parent if folder is None else folder)
            if known and sha256_file(file) not in known:
                return f"{file} is not the file that was checked (its SHA-256 changed)"
    except OSError as error:
        raise RecordError(f"cannot read {error.filename}: {error.strerror}") from None
    return ""


def require_unchanged(path: Path) -> None:
    """Refuse an artifact that changed after its check.

    Raises:
        RecordError: It did, or cannot be read.
    """
    if changed := changed_since_check(path):
        raise RecordError(
            f"{changed}, so nobody knows what it is worth; check it again (fgvc-kit check {path} `against` RUN), or "
            "export it again"
        )


def _checked(name: str, folder: Path) -> set[str]:
    """SHA-256 of a file at its checks; a switchable file is checked once for each of its presets."""
    record = folder / CHECK_FILE
    if not record.is_file():
        return set()
    try:
        checks: Any = read_record(record, "check").get("checks")
    except RecordError:
        return set()  # another program's file of this name, which says nothing of ours
    entries = [one.get("sha256") for one in checks if isinstance(one, dict)] if isinstance(checks, list) else []
    return {str(entry[name]) for entry in entries if isinstance(entry, dict) and name in entry}
