"""The command that is running, as it can be typed again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

__all__ = ["command_line"]


def command_line() -> str | None:
    """``fgvc-kit search runs/x `budget` latency=8ms``; None where the package was called from Python.

    Records carry it, so that a report can say how each was made.
    """
    program = Path(sys.argv[0]) if sys.argv else Path()
    ours = program.stem == "fgvc-kit" or program.name == "cli.py" or program.parts[-2:] == ("tavt_kit", "__main__.py")
    return shlex.join(("fgvc-kit", *sys.argv[1:])) if ours else None
