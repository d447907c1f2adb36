"""Names of candidates that tell them apart, by no more than what differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tavt_kit.workflows.bench_things import Opened

__all__ = ["told_apart"]

_PARTS: tuple[Callable[[Opened], str], ...] = (
    lambda one: f"on {one.session.target.runtime}",
    lambda one: one.session.target.processor,
    lambda one: one.session.target.mode,
    lambda one: one.session.target.precision,
    lambda one: f"threads={one.session.target.threads}",
    lambda one: f"batch={one.session.target.batch}",
    lambda one: f"{one.image_size[0]}px",
)
"""What can differ between candidates of one thing, in the order in which a name says it."""


def told_apart(opened: Sequence[Opened]) -> list[Opened]:
    """The candidates, each with a name of its own.

    Of those with one name, each says where and how it runs as far as that differs; then its folder; then a number.
    """
    groups: dict[str, list[Opened]] = defaultdict(list)
    for one in opened:
        groups[one.name].append(one)
    longer = [replace(one, name=_with_parts(one, groups[one.name])) for one in opened]
    several = {name for name, count in Counter(one.name for one in longer).items() if count > 1}
    found: list[Opened] = []
    taken: set[str] = set()
    for one in longer:
        label = f"{Path(one.thing).absolute().parent.name}/{one.name}" if one.name in several else one.name
        unique = next(text for text in (label, *_numbered(label)) if text not in taken)
        taken.add(unique)
        found.append(replace(one, name=unique))
    return found


def _with_parts(one: Opened, group: Sequence[Opened]) -> str:
    parts = [part(one) for part in _PARTS if len({part(other) for other in group}) > 1]
    return " ".join([one.name, *filter(None, parts)])


def _numbered(label: str) -> list[str]:
    return [f"{label} #{number}" for number in range(2, 1000)]
