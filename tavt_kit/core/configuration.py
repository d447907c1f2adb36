"""Configuration: what a joint search finds, a schedule with the variant of the model that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from tavt_kit.core.codec import Record, decode, encode
from tavt_kit.core.schedule import TokenSchedule, counts_text


@dataclass(frozen=True, slots=True)
class Configuration:
    """A schedule with the variant of the model that it is for; ``None`` is the model's own, or the target's precision.

    The image size is (H, W) in pixels.

    Example:
        >>> str(Configuration(TokenSchedule((37, 20)), image_size=(84, 84), score="cls", precision="int8"))
        '37,20 at 84 px, by cls, in int8'
    """

    schedule: TokenSchedule
    image_size: tuple[int, int] | None = None
    precision: str | None = None
    score: str | None = None
    reduction: str | None = None

    @classmethod
    def of(cls, choice: Choice) -> Configuration:
        """What a search chose, spelled out."""
        return choice if isinstance(choice, Configuration) else cls(choice)

    @property
    def choice(self) -> Choice:
        """The schedule alone where only its counts are not the model's own: so nothing has two names."""
        plain = not self.is_variant and (self.precision, self.schedule.executed) == (None, None)
        return self.schedule if plain else self

    @property
    def is_variant(self) -> bool:
        """Whether it needs another model than the one at hand."""
        return (self.image_size, self.score, self.reduction) != (None, None, None)

    def __str__(self) -> str:
        schedule = self.schedule
        genes = (self.image_size, self.score, self.precision, self.reduction)
        return counts_text(schedule.counts) + genes_text(schedule.layers, schedule.executed, *genes)

    def as_record(self) -> dict[str, Any]:
        """The counts, and what is not the model's own beside them."""
        named = {name: getattr(self, name) for name in ("image_size", "score", "precision", "reduction")}
        genes = {"executed": self.schedule.executed, **named}
        own = {name: encode(value) for name, value in genes.items() if value is not None}
        return {"schedule": encode(self.schedule), **own}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Configuration:
        """Of an entry of ``front.json``."""
        genes = decode(RecordedGenes, record, "a recorded candidate")
        schedule = replace(genes.schedule, executed=genes.executed)
        return cls(schedule, genes.image_size, genes.precision, genes.score, genes.reduction)


@dataclass(frozen=True, kw_only=True)
class RecordedGenes(Record):
    """What an entry of ``front.json`` has of a configuration."""

    schedule: TokenSchedule
    executed: tuple[int, ...] | None = None
    image_size: tuple[int, int] | None = None
    precision: str | None = None
    score: str | None = None
    reduction: str | None = None
    BESIDE: ClassVar[None] = None


Choice: TypeAlias = TokenSchedule | Configuration
"""What a search chooses: a schedule, or a configuration where a joint search changed more than its counts."""


def genes_text(
    layers: int,
    executed: Sequence[int] | None,
    image_size: Sequence[int] | None,
    score: str | None,
    precision: str | None = None,
    reduction: str | None = None,
) -> str:
    """`` at 84 px, without layers 3 and 7, by cls, in int8``; empty where all is the model's own."""
    parts = []
    if image_size is not None:
        height, width = image_size
        parts.append(f"at {width} px" if height == width else f"at {height}x{width} px")
    absent = [str(layer) for layer in range(layers) if executed is not None and layer not in executed]
    if absent:
        parts.append(f"without layer{'s' if len(absent) > 1 else ''} {' and '.join(absent)}")
    if score is not None:
        parts.append(f"by {score}")
    if precision is not None:
        parts.append(f"in {precision}")
    if reduction is not None:
        parts.append(f"by {reduction}")
    return f" {', '.join(parts)}" if parts else ""
