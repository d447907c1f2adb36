"""The examples in the docstrings, of every module there is."""

from __future__ import annotations

import doctest
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tavt_kit

PACKAGE = Path(str(tavt_kit.__file__)).parent
ROOT = Path(__file__).parents[1]


def modules() -> Iterator[tuple[str, Path]]:
    """Name and file of each module of the package, of the parts that lie beside it in a checkout too.

    Their files are read, not walked by ``pkgutil``: in a checkout the package's path holds the whole root.
    """
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    parts = build["targets"]["wheel"]["force-include"]
    inside = PACKAGE.joinpath(*Path(parts["cli.py"]).parts[1:]).is_file()
    for place in [PACKAGE] if inside else [PACKAGE, *(PACKAGE.parent / part for part in parts)]:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            name = path.relative_to(PACKAGE if place == PACKAGE else PACKAGE.parent).with_suffix("")
            yield ".".join(("tavt_kit", *name.parts)).removesuffix(".__init__"), path


def has_examples(path: Path) -> bool:
    """Whether anything would run: an example that needs files of the reader's own is skipped."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return any(line.lstrip().startswith(">>> ") and "doctest: +SKIP" not in line for line in lines)


@pytest.mark.parametrize("name", [name for name, path in modules() if has_examples(path)])
def test_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed


def test_the_walk_finds_every_part() -> None:
    names = [name for name, _ in modules()]
    for name in ("tavt_kit", "tavt_kit.cli", "tavt_kit.search", "tavt_kit.distill", "tavt_kit.bench", "tavt_kit.verbs"):
        assert names.count(name) == 1
