"""The folder of an export: which files have their final name, and ``exported.json``, which says how each was made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tavt_kit.checks import CHECK_FILE, read_check
from tavt_kit.core.artifact_card import UNPROVEN, WEIGHTS_SUFFIX
from tavt_kit.core.budget import Verdict
from tavt_kit.core.records import atomic_path, read_record, sha256_file, write_record
from tavt_kit.errors import RecordError

EXPORTED_FILE = "exported.json"

Entry = Mapping[str, Any]


def status_of(verdict: Verdict, *, accept: bool) -> str:
    """``final``, ``unproven`` or ``refused``; ``accept`` says whether INCONCLUSIVE is good enough.

    Example:
        >>> status_of(Verdict.INCONCLUSIVE, accept=False)
        'unproven'
    """
    if verdict is Verdict.PASS or (accept and verdict is Verdict.INCONCLUSIVE):
        return "final"
    return "refused" if verdict is Verdict.FAIL else "unproven"


def settle(files: Sequence[Path], out: Path, status: str) -> None:
    """Move checked files to where their status puts them; older files of these names go.

    Args:
        files: Files under temporary names; the one that is opened last.
    """
    own = [file for file in files if file.suffix != WEIGHTS_SUFFIX]
    # A weight file is named after its content and may belong to several artifacts, so it only ever comes.
    for file in files if status != "refused" else ():
        if file.suffix == WEIGHTS_SUFFIX and not (out / file.name).exists():
            _link(file, out / file.name)
    # What is opened goes first and comes last, so that no pair of an old and a new half is ever seen.
    for file in reversed(own):
        for name in (file.name, f"{file.name}{UNPROVEN}"):
            (out / name).unlink(missing_ok=True)
    for file in own if status != "refused" else ():
        file.replace(out / (file.name if status == "final" else f"{file.name}{UNPROVEN}"))


def _link(file: Path, place: Path) -> None:
    """A second name for a file; a copy of it where the file system has no such thing."""
    try:
        place.hardlink_to(file)
    except OSError:
        with atomic_path(place) as temporary:
            shutil.copyfile(file, temporary)


def promote(out: Path, entry: Entry) -> dict[str, Any]:
    """Give an unproven artifact its final name after all; the entry as it is then."""
    if entry["status"] == "unproven":
        for name in entry["sha256"]:  # in the order of ``settle``
            if not name.endswith(WEIGHTS_SUFFIX):
                (out / f"{name}{UNPROVEN}").replace(out / name)
    return {**entry, "status": "final" if entry["status"] == "unproven" else entry["status"]}


def write_exported(out: Path, entries: Sequence[Entry], body: Mapping[str, Any]) -> None:
    """Write ``exported.json``.

    Args:
        entries: One for each file: ``file format precision schedule status verdict sha256 bytes calibration recipe``.
    """
    write_record(out / EXPORTED_FILE, "exported", {**body, "artifacts": [dict(entry) for entry in entries]})


def sweep(out: Path, entries: Sequence[Entry]) -> None:
    """Remove weight files that no entry has any more."""
    used = {name for entry in entries if entry["status"] != "refused" for name in entry["sha256"]}
    for file in out.glob(f"model*-????????{WEIGHTS_SUFFIX}"):
        if file.name not in used:
            file.unlink()


def read_exported(out: Path) -> dict[str, Any]:
    """Read ``exported.json``.

    Raises:
        RecordError: It is not there, or is no export.
    """
    return read_record(out / EXPORTED_FILE, "exported")


def keep(out: Path, recipes: Mapping[str, Entry], *, fresh: bool) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
    """What lies in the folder and stays: files of other names, and those made in the very same way.

    Returns:
        Entries of ``exported.json`` and of ``check.json``, by file name; a switchable file has a check for each preset.

    Raises:
        RecordError: A file was made in another way, and ``fresh`` is not set; the message lists the differences.
    """
    entries: dict[str, Entry] = {}
    checks: dict[str, list[Entry]] = {}
    if not (out / EXPORTED_FILE).exists():
        return entries, checks
    found: dict[str, list[Entry]] = {}
    for entry in read_check(out / CHECK_FILE)["checks"]:
        found.setdefault(str(entry["artifact"]).partition(" (")[0], []).append(entry)
    for entry in read_exported(out)["artifacts"]:
        name = entry["file"]
        if name in recipes and (fresh or not _stays(out, entry, recipes[name])):
            continue
        if name in found:
            entries[name], checks[name] = entry, found[name]
    return entries, checks


def _stays(out: Path, entry: Entry, recipe: Entry) -> bool:
    """Whether a file made in the same way is there, whole."""
    old = entry["recipe"]
    changed = sorted(key for key, value in recipe.items() if old.get(key) != value)
    if changed:
        listed = "; ".join(f"{key} was {_short(old.get(key))} and is {_short(recipe[key])}" for key in changed)
        raise RecordError(
            f"{out / entry['file']} was exported in another way ({listed}); choose another `out`, or `fresh` to "
            "replace it"
        )
    suffix = UNPROVEN if entry["status"] == "unproven" else ""
    files = {
        out / (name if name.endswith(WEIGHTS_SUFFIX) else f"{name}{suffix}"): digest
        for name, digest in entry["sha256"].items()
    }
    return entry["status"] != "refused" and all(f.is_file() and sha256_file(f) == d for f, d in files.items())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
