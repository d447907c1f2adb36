"""Counting a data set on the disk against its published sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.data.facts import FACTS, canonical
from tavt_kit.data.layouts import read_listing
from tavt_kit.data.listing import absent_pictures

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was counted.

    Args:
        name: The data set.
        counts: ``"classes"`` and each part: how many are there, and how many are published (None: not known).
        absent: Pictures that are listed but not on the disk.
    """

    name: str
    counts: dict[str, tuple[int, int | None]]
    absent: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Nothing is absent, and every count that is published is met."""
        return not self.absent and all(want in (None, there) for there, want in self.counts.values())

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; of the absent pictures the first 20."""
        return {
            "name": self.name,
            "complete": self.complete,
            "counts": {name: {"there": there, "published": want} for name, (there, want) in self.counts.items()},
            "absent": len(self.absent),
            "first_absent": [str(path) for path in self.absent[:20]],
            "licence": FACTS[self.name].as_licence().as_record(),
        }


def audit(name: str, folder: Path) -> Audit:
    """Count classes and pictures; no picture is opened.

    Args:
        name: As ``layouts.read_listing``.
        folder: Where it lies.

    Raises:
        UnknownName: No such data set.
        DataError: Its annotation files cannot be read.
    """
    listing = read_listing(name, folder)
    name = canonical(name) or name
    facts = FACTS[name]
    counts: dict[str, tuple[int, int | None]] = {"classes": (len(listing.classes), facts.classes)}
    sizes = dict(facts.sizes)
    if "val" in sizes and "val" not in listing.parts:  # a home-made list of train and val together
        sizes["train"] += sizes.pop("val")
    absent: list[Path] = []
    for part in ("train", "val", "test"):
        if part in listing.parts:
            gone = absent_pictures(listing.parts[part])
            absent += gone
            counts[part] = (len(listing.parts[part]) - len(gone), sizes.get(part))
    return Audit(name, counts, tuple(absent))
