"""Rows of a workflow's result as a pandas table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tavt_kit.errors import MissingDependency

if TYPE_CHECKING:
    import pandas

Frame: TypeAlias = "pandas.DataFrame"
"""A pandas table; pandas itself is imported when one is made."""


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Frame:
    """One line for each row, with names of the columns where there may be no row; MissingDependency without pandas."""
    try:
        import pandas
    except ImportError:
        raise MissingDependency("a frame needs pandas: pip install pandas (or tavt-kit[frames])") from None
    return pandas.DataFrame([dict(row) for row in rows], columns=None if columns is None else list(columns))
