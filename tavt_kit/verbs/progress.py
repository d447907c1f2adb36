"""A line on stderr that says what a verb is doing; silent where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["watching"]

Tell = Callable[[str, float | None], None]
"""Given what is done now, and the share of the whole that is done or None where nobody knows."""


@contextmanager
def watching(what: str) -> Iterator[Tell]:
    """Show a spinner, a bar where the share is known, and the time spent; it is wiped when the work ends."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(what), total=None)

        def tell(doing: str, share: float | None) -> None:
            bar.update(task, description=escape(doing), total=None if share is None else 1.0, completed=share or 0.0)

        yield tell
