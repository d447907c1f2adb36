"""Pictures that a record names with their SHA-256: embedded as long as they are what was recorded, and small enough."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.views import text

__all__ = ["recorded_picture"]

_PNG = b"\x89PNG"


def recorded_picture(folder: Path, entry: Any, alt: str, most: int) -> Element | None:
    """The PNG that ``entry`` names by ``file`` and ``sha256``, as an ``img``; None where it cannot be shown.

    Args:
        folder: Of the record; the picture must lie in it.
        entry: Of the record.
        alt: What it shows, for those who cannot see it.
        most: Bytes it may have.
    """
    name, recorded = text(entry, "file"), text(entry, "sha256")
    if name is None or recorded is None:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > most:
        return None
    data = path.read_bytes()
    if not data.startswith(_PNG) or hashlib.sha256(data).hexdigest() != recorded:
        return None
    return el("img", src=f"data:image/png;base64,{base64.b64encode(data).decode()}", alt=alt, class_="drawn")
