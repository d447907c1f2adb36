"""ModelCard: what must be known of a weight file to use it; ``model.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.records import read_record, reading, write_record
from tavt_kit.errors import RecordError

CARD_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"

# ``NC`` as a word of its own, as in CC BY-NC, or the words.
_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non.?commercial", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Licence(Record):
    """Under which licence something is used, and where that is written.

    Args:
        licence: For example ``"CC BY-NC-SA 4.0"``; ``"unknown"`` where nobody says.
    """

    name: str
    licence: str
    source: str

    @property
    def is_non_commercial(self) -> bool:
        """Whether it forbids commercial use, as far as its words say so."""
        return _NON_COMMERCIAL.search(self.licence) is not None


def licence_sentence(licences: Iterable[Licence | None]) -> str | None:
    """One sentence that names what is not for commercial use; None where nothing is."""
    bound = [licence for licence in licences if licence is not None and licence.is_non_commercial]
    names = dict.fromkeys(f"{licence.name} ({licence.licence})" for licence in bound)
    return f"not for commercial use: {'; '.join(names)}" if names else None


@dataclass(frozen=True, slots=True)
class ModelCard(Record):
    """Everything beside the weights.

    Args:
        family: The adapter, ``"timm_vit"``.
        name: timm's name of the architecture, its tag included where one was given.
        arguments: Keyword arguments that create the architecture again; JSON values only.
        classes: Their names, in the order of the logits.
        preprocessing: The record of a ``Preprocessing``.
        weights_sha256: Hash of the safetensors file; empty until it is written.
        provenance: One sentence: where the weights come from.
        licences: Licences of the weights and of the data they were trained on.
        schedule: Token counts after each layer that ``load_model`` puts in force; ``None`` for dense.
        image_sizes: Further image sizes that the weights were trained for, in pixels a side.

    Raises:
        RecordError: No class or a repeated one, or arguments that JSON cannot hold.
    """

    family: str
    name: str
    arguments: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    score: str = "column"
    pool: str = "kept"
    weights_sha256: str = ""
    provenance: str = ""
    licences: tuple[Licence, ...] = ()
    # Left out of the record where they have their defaults, so that such a card reads as it always did.
    schedule: tuple[int, ...] | None = field(default=None, metadata=recorded_as(omit_default=True))
    reduction: str = field(default="drop", metadata=recorded_as(omit_default=True))
    image_sizes: tuple[int, ...] = field(default=(), metadata=recorded_as(omit_default=True))
    BESIDE: ClassVar[tuple[str, ...]] = ("schema", "version")

    def __post_init__(self) -> None:
        for name in ("classes", "licences", "image_sizes", "schedule"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(values))
        if not self.classes:
            raise RecordError("a model card needs at least one class name, but has none")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise RecordError(f"class names must differ, but these are there twice: {', '.join(twice[:5])}")
        try:
            for name in ("arguments", "preprocessing"):
                # Through JSON and back: tuples become lists, as they would be after reading.
                object.__setattr__(self, name, json.loads(json.dumps(dict(getattr(self, name)))))
        except (TypeError, ValueError) as error:
            raise RecordError(f"a model card holds JSON values only: {error}") from None

    def with_licence(self, licence: Licence) -> ModelCard:
        """The card with one more licence, unless it is there already."""
        return self if licence in self.licences else replace(self, licences=(*self.licences, licence))


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``model.json`` into ``folder``."""
    write_record(Path(folder) / CARD_FILE, "model", card.as_record())


def read_card(folder: Path) -> ModelCard:
    """Read ``model.json`` from ``folder``; RecordError where it is not there, or is no model card."""
    file = Path(folder) / CARD_FILE
    with reading(file):
        return ModelCard.from_record(read_record(file, "model"))
