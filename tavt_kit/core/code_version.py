"""Which code computed something: the version, and a hash of the sources that tells two checkouts of it apart."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from tavt_kit import __version__

__all__ = ["code_version"]

_PARTS = ("search", "distill", "bench", "cli.py")


@cache
def code_version() -> str:
    """The version of this package and the first twelve digits of the SHA-256 over its sources.

    Example:
        >>> code_version().startswith(f"{__version__} ")
        True
    """
    inside = Path(__file__).resolve().parents[1]
    # In a checkout the parts lie beside the package, in a wheel inside it; the hash is the same.
    beside = inside.parent if not (inside / "cli.py").is_file() else inside
    files = {path.relative_to(inside).as_posix(): path for path in inside.rglob("*.py")}
    for name in _PARTS:
        part = beside / name
        found = [part] if part.is_file() else part.rglob("*.py")
        files |= {path.relative_to(beside).as_posix(): path for path in found}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n".encode() + files[name].read_bytes() + b"\n")
    return f"{__version__} {digest.hexdigest()[:12]}"
