"""Tables as CSV that a spreadsheet takes for what they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A head and rows; what a spreadsheet would take for a formula gets an apostrophe before it.

    Bytes of a file name that are no UTF-8 are spelled out.

    Example:
        >>> csv_text(["class", "share"], [["=1+1", -0.5]])
        "class,share\\n'=1+1,-0.5\\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in (head, *rows))
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
