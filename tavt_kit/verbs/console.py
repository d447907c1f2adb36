"""Where tables are printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from tavt_kit.verbs.streams import shown


class _Console(Console):
    """Names in tables steer no terminal, and a reader who left is not a verdict."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)  # before the columns are measured

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console_of(width: int | None = None, *, stderr: bool = False) -> Console:
    """Standard output; a pipe or a file, which has no width, gets so many columns, so that nothing is cut at 80."""
    console = _Console(stderr=stderr)
    return console if console.is_terminal or width is None else _Console(width=width, stderr=stderr)
