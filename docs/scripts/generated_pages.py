"""A hook of mkdocs: the pages that are made at build time, from the program itself and from the root of the checkout.

Nothing of it is committed, so the reference cannot fall behind the code.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of ``docs/``."""
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def from_root(name: str) -> Callable[[], str]:
    """A page of the checkout's root, its links to ``docs/`` as they are from within."""

    def make() -> str:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        return text.replace("](CONTRIBUTING.md)", "](contributing.md)")

    return make


def command_line() -> str:
    """What every verb says with ``--help``."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    import typer

    from tavt_kit.cli import VERBS, app

    program: Any = typer.main.get_command(app)
    root = program.make_context("fgvc-kit", ["doctor"])
    parts = [
        f"# Command line\n\nWhat `fgvc-kit` and each of its verbs say with `--help`.\n\n{block(program.get_help(root))}"
    ]
    for name in VERBS:
        verb = program.get_command(root, name)
        context = type(root)(verb, info_name=name, parent=root)
        parts.append(f"## {name}\n\n{block(verb.get_help(context))}")
    return "\n".join(parts)


def block(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n"


def python() -> str:
    """Every public name, by its docstring."""
    import tavt_kit as tk

    homes = {**tk._HOMES, **{name: f"workflows.{name}" for name in tk._PACKAGES}}
    functions = sorted(name for name in homes if name.islower())
    errors = sorted(name for name, home in homes.items() if home == "errors")
    values = sorted(set(homes) - set(functions) - set(errors))
    parts = ["# Python\n\n`import tavt_kit as tk`; every name below is `tk.NAME`.\n"]
    for title, names in (("Functions", functions), ("Values and models", values), ("Errors", errors)):
        parts.append(f"## {title}\n")
        parts += [f"::: tavt_kit.{homes[name]}.{name}\n" for name in names]
    return "\n".join(parts)


def records() -> str:
    """The kinds of records with their versions, the keys of those that a test holds fast, and the values inside."""
    import tavt_kit as tk
    from tavt_kit import core
    from tavt_kit.core.codec import Record
    from tavt_kit.core.records import SCHEMAS

    for module in pkgutil.iter_modules(core.__path__):
        importlib.import_module(f"tavt_kit.core.{module.name}")
    values = {f"{one.__module__}.{one.__name__}" for one in Record.__subclasses__() if ".core." in one.__module__}
    kinds = "".join(f"| `fgvc-kit/{kind}` | {version} |\n" for kind, version in sorted(SCHEMAS.items()))
    parts = [
        "# Records\n\nEvery record is a JSON object that begins with `schema` and `version`. A version is raised when "
        "a key changes its meaning. A record of another version is refused in a sentence, or read as today's.\n\n"
        f"| schema | version |\n|---|---|\n{kinds}",
        "## Keys\n\nOf records that small runs leave behind; `tests/golden` holds them fast. `[]` is an item of a "
        "list, `.*` any name, `empty` a list that has no item there.\n",
    ]
    golden = json.loads((ROOT / "tests" / "golden" / "records.json").read_text(encoding="utf-8"))
    for name, keys in golden.items():
        rows = "".join(f"| `{key}` | {kind.replace('|', ' or ')} |\n" for key, kind in keys.items() if key)
        parts.append(f"### {name}\n\n| key | holds |\n|---|---|\n{rows}")
    parts.append("## Values\n\nWhat stands in records by a class of its own: each field is a key.\n")
    public = {f"tavt_kit.{home}.{name}" for name, home in tk._HOMES.items()}
    parts += [f"- [{value.rpartition('.')[2]}][{value}]" for value in sorted(values & public)]
    parts += [f"\n::: {value}" for value in sorted(values - public)]
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "index.md": from_root("README.md"),
    "contributing.md": from_root("CONTRIBUTING.md"),
    "changelog.md": from_root("CHANGELOG.md"),
    "reference/command-line.md": command_line,
    "reference/python.md": python,
    "reference/records.md": records,
}
