"""One word per thing: the words that were replaced do not come back, as names in the code or as words of the help."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPLACED = {
    "bought": "gene_ablation",
    "climb": "evaluate_sweep",
    "contender": "baseline",
    "crew": "worker_pool",
    "desk": "finalist_pool",
    "lesson": "step",
    "parcel": "worker_payload",
    "picture": "image",
    "pictures": "images",
    "quieted": "suppress_output",
    "rigid": "static",
    "rival": "baseline",
    "rung": "sweep_point",
    "sealed": "integrity",
    "slack": "tolerance",
    "swayed": "bound",
    "tails": "quantile_ratios",
    "untried": "proposal_pool",
    "witness": "validity_monitor",
    "workshop": "layer_parts",
}
"""The word, and the field's own. Keys of records keep theirs, so that old ones are read."""


@cache
def _sources() -> list[tuple[str, ast.Module]]:
    return list(_parsed())


def _parsed() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("tavt_kit", "search", "distill", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
    yield "cli.py", ast.parse((ROOT / "cli.py").read_text())


@cache
def _words(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def _named(node: ast.AST) -> str:
    """What a node names, unless it is the key of a record."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.arg):
        return node.arg
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""


def _help(node: ast.AST) -> str:
    if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def test_no_name_and_no_help_uses_a_word_that_was_replaced() -> None:
    found = [
        f"{path}:{getattr(node, 'lineno', node.value.lineno if isinstance(node, ast.keyword) else 0)}: {word} is now "
        f"{REPLACED[word]}"
        for path, tree in _sources()
        for node in ast.walk(tree)
        for word in sorted(REPLACED.keys() & (_words(_named(node)) | set(re.findall(r"\w+", _help(node).lower()))))
    ]
    assert found == []


def test_what_an_argument_is_begins_with_its_noun() -> None:
    """A bare "Of ..." leaves the reader to guess what is meant."""
    found = [
        f"{path}: {line.strip()}"
        for path, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for line in (ast.get_docstring(node) or "").splitlines()
        if re.match(r"\s+\w+: (Of|As of|As in|As for)\b", line)
    ]
    assert found == []


def test_the_walk_sees_names_and_help() -> None:
    tree = ast.parse("def by_rival(desk): x.slackened = Rungs(help='A picture', pictures=1)\nRungClimb = 1")
    seen = [
        sorted(REPLACED.keys() & (_words(_named(node)) | set(re.findall(r"\w+", _help(node).lower()))))
        for node in ast.walk(tree)
    ]
    assert sorted(word for words in seen for word in words) == ["climb", "desk", "picture", "rival", "rung"]
