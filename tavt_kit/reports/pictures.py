"""Pictures of a run, embedded: small ones that lie within its folder, and no others."""

from __future__ import annotations

import base64
from pathlib import Path

__all__ = ["data_uri"]

_BYTES = 100_000
"""A thumbnail has a few kilobytes; with the dozens that a report shows it must stay small enough to be mailed."""
_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


def data_uri(folder: Path, name: str | None) -> str | None:
    """The picture ``name`` below ``folder`` as a data URI; None where there is none, or it may not be shown."""
    if name is None:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > _BYTES:
        return None
    data = path.read_bytes()
    kind = _MAGIC.get(data[:3])
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if kind else None
