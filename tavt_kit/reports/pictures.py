"""Pictures of a run, embedded: small ones that lie within its folder, and no others."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tavt_kit.reports.markup import el
from tavt_kit.reports.views import text

__all__ = ["data_uri", "recorded_picture"]

_BYTES = 100_000
"""A thumbnail has a few kilobytes; with the dozens that a report shows it must stay small enough to be mailed."""
_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


def data_uri(folder: Path, name: str | None, most: int = _BYTES, sha256: str | None = None) -> str | None:
    """A picture as a data URI; None where there is none, or it may not be shown.

    Args:
        folder: It must lie below it.
        name: Of its file, from there.
        most: Bytes it may have.
        sha256: What it must be, where that was recorded.
    """
    if name is None:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > most:
        return None
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        return None
    kind = _MAGIC.get(data[:3])
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if kind else None


def recorded_picture(folder: Path, entry: Any, alt: str, most: int) -> Markup | None:
    """The picture that ``entry`` names by ``file`` and ``sha256``, as an ``img``; None where it cannot be shown.

    Args:
        folder: Of the record; the picture must lie in it.
        entry: Of the record.
        alt: What it shows, for those who cannot see it.
        most: Bytes it may have.
    """
    recorded = text(entry, "sha256")
    source = data_uri(folder, text(entry, "file"), most, recorded) if recorded is not None else None
    return el("img", src=source, alt=alt, class_="drawn") if source else None
