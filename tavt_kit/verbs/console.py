"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

__all__ = ["console_of"]


def console_of(width: int) -> Console:
    """Standard output; a pipe or a file, which has no width, gets so many columns, so that nothing is cut at 80."""
    console = Console()
    return console if console.is_terminal else Console(width=width)
