"""Nothing that POSIX alone has is needed where the package is imported, or used without another way beside it."""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path for part in ("tavt_kit", "search", "distill", "bench") for path in (ROOT / part).rglob("*.py"))
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
SIGNALS = {"SIGINT", "SIGTERM", "SIGBREAK", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV"}  # Windows has no others
POSIX_CALLS = {"fork", "getpgid", "geteuid", "getuid", "killpg", "mkfifo", "nice", "sched_getaffinity", "setsid",
               "pthread_sigmask", "getloadavg"}  # fmt: skip


def posix_uses(source: str) -> Iterator[tuple[int, str]]:
    """Lines that only POSIX runs, with no other way in the same function: a try, a condition or a ``hasattr``."""
    tree = ast.parse(source)
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        inside: list[ast.AST] = []
        if isinstance(node, ast.Try):
            inside = [*node.body]
        elif isinstance(node, ast.If):
            inside = [*node.body, *node.orelse]
        elif isinstance(node, ast.IfExp):
            inside = [node.body, node.orelse]
        guarded |= {child for part in inside for child in ast.walk(part)}
    for node in ast.walk(tree):
        if node in guarded:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names if one.name.split(".")[0] in POSIX_MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)] if str(node.module) in POSIX_MODULES else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of, name = node.value.id, node.attr
            if of == "signal" and name.startswith("SIG") and name not in (*SIGNALS, "SIG_IGN", "SIG_DFL"):
                names = [name]
            elif of in ("os", "signal") and name in POSIX_CALLS:
                names = [name]
        yield from ((node.lineno, name) for name in names)  # type: ignore[attr-defined]


def test_nothing_is_used_that_windows_lacks() -> None:
    uses = {path.relative_to(ROOT).as_posix(): list(posix_uses(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {name: lines for name, lines in uses.items() if lines} == {}


def test_what_windows_lacks_is_seen() -> None:
    lines = "import resource\n", "import os, signal\nos.kill(1, signal.SIGKILL)\n", "import os\nos.fork()\n"
    assert [list(posix_uses(line)) for line in lines] == [[(1, "resource")], [(2, "SIGKILL")], [(2, "fork")]]
    assert not list(posix_uses("try:\n    import resource\nexcept ImportError:\n    resource = None\n"))
    assert sys.platform != "linux" or hasattr(signal, "SIGKILL")


def test_a_file_takes_the_place_of_another_as_windows_does_it() -> None:
    """``Path.rename`` over a file fails there; ``Path.replace`` does not. Only folders are renamed, here."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "rename" and "pandas" not in path.name
    }
    assert found <= {
        "tavt_kit/workflows/fit_rows.py", "tavt_kit/exporters/bundles.py", "tavt_kit/data/packages.py",
    }, found  # fmt: skip
