"""To do it again: the commands, in order, and the hashes of what went in and came out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tavt_kit.core.records import sha256_file
from tavt_kit.reports.blocks import Block, Cell, Code, Column, Section, Table, Text
from tavt_kit.reports.gather import Records
from tavt_kit.reports.sections.provenance import card_of
from tavt_kit.reports.views import mapping, number, sequence, text, whole

__all__ = ["commands_of", "reproduction_section"]

_FLAGS = {
    "data": "--data", "weights": "--weights", "target": "--target", "algorithm": "--algorithm",
    "evaluations": "--evaluations", "population": "--population", "final": "--final", "screen": "--screen",
    "seed": "--seed", "limit": "--limit",
}  # fmt: skip
"""Of a search's ``recipe.json``: what stands as it is."""

_AFTER = ("exported", "check", "bench", "eval", "explained")
"""Records of what is done with the result of a search, in the order of the work."""


def reproduction_section(records: Records) -> Section:
    """The block to copy from."""
    commands = list(commands_of(records))
    blocks: list[Block] = []
    if commands:
        exact = all(given for _, given in commands)
        lead = "in this order" if exact else "the search's put together from what recipe.json has"
        blocks.append(Text.of(f"As they were given, {lead}:"))
        blocks += [Text.of(Code(command, command=True)) for command, _ in commands]
    else:
        blocks.append(Text.of("No record here says by which command it was made.", kind="note"))
    columns = (Column("What", numeric=False), Column("SHA-256", numeric=False))
    rows = tuple((Cell(name), Cell(digest, code=True)) for name, digest in _hashes(records))
    if rows:
        blocks.append(Table(columns, rows, f"Hashes of what went in and came out ({len(rows)}).", folded=True))
    return Section("reproduction", "To do it again", tuple(blocks))


def commands_of(records: Records) -> Iterator[tuple[str, bool]]:
    """Each command once, in the order of the work, and whether it is as it was given."""
    trained = sorted(records.all("run"), key=lambda one: text(one.body, "verb") == "distill")
    found = [(text(one.body, "command"), True) for one in (*trained, *records.all("profile"))]
    front, recipe = records.first("front"), records.first("recipe")
    if command := text(front, "command"):
        found.append((command, True))
    elif recipe:
        found.append((_search(recipe, records.all("recipe")[0].path.parent), False))
    found += [(text(one.body, "command"), True) for kind in _AFTER for one in records.all(kind)]
    yield from dict.fromkeys((command, given) for command, given in found if command)


def _search(recipe: Mapping[str, Any], folder: Path) -> str:
    """A search's command from its recipe."""
    parts = ["fgvc-kit", "search", text(recipe, "model") or "MODEL"]
    for name, flag in _FLAGS.items():
        value = whole(recipe, name) if text(recipe, name) is None else text(recipe, name)
        if value is not None:
            parts += [flag, str(value)]
    for name, flag in (("budgets", "--budget"), ("schedules", "--schedule"), ("objectives", "--objective")):
        for value in sequence(recipe, name):
            parts += [flag, str(value)]
    if (seconds := number(recipe, "max_seconds")) is not None:
        parts += ["--max-time", f"{seconds:g}s"]
    if looks := text(recipe, "evaluate_on"):
        parts += ["--evaluate-on", looks]
    return shlex.join((*parts, "-o", str(folder)))


def _hashes(records: Records) -> Iterator[tuple[str, str]]:
    card, split = card_of(records), records.first("split")
    for name, digest in (("weights", text(card, "weights_sha256")), ("split of the data", text(split, "sha256"))):
        if digest:
            yield name, digest
    for one in records.all("exported"):
        for artifact in sequence(one.body, "artifacts"):
            for name, digest in sorted(mapping(artifact, "sha256").items()):
                if isinstance(digest, str):
                    yield f"{one.path.parent.name}/{name}", digest
    base = Path(records.folders[0]) if records.folders else Path()
    for kind in sorted(records.found):
        for one in records.all(kind):
            if one.path.is_file():
                path = one.path.relative_to(base) if one.path.is_relative_to(base) else one.path
                yield path.as_posix(), sha256_file(one.path)
