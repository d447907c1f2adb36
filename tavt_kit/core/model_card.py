"""ModelCard: what must be known of a weight file to use it; ``model.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tavt_kit.core.records import read_record, write_record
from tavt_kit.errors import RecordError

__all__ = ["CARD_FILE", "WEIGHTS_FILE", "Licence", "ModelCard", "licence_sentence", "read_card", "write_card"]

CARD_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"

_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non.?commercial", re.IGNORECASE)
"""``NC`` as a word of its own, as in CC BY-NC, or the words."""


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which licence something is used, and where that is written.

    Args:
        name: The thing: a weight file, a data set.
        licence: For example ``"CC BY-NC-SA 4.0"``; ``"unknown"`` where nobody says.
        source: Where it comes from and where the licence was read.
    """

    name: str
    licence: str
    source: str

    def as_record(self) -> dict[str, str]:
        """JSON-ready."""
        return {"name": self.name, "licence": self.licence, "source": self.source}

    @property
    def is_non_commercial(self) -> bool:
        """Whether it forbids commercial use, as far as its words say so.

        Example:
            >>> Licence("birds", "Non-commercial research only", "its page").is_non_commercial
            True
        """
        return _NON_COMMERCIAL.search(self.licence) is not None


def licence_sentence(licences: Iterable[Licence | None]) -> str | None:
    """One sentence that names what is not for commercial use; None where nothing is.

    Args:
        licences: Licences of weights and data; None where nobody states one.
    """
    bound = [licence for licence in licences if licence is not None and licence.is_non_commercial]
    names = dict.fromkeys(f"{licence.name} ({licence.licence})" for licence in bound)
    return f"not for commercial use: {'; '.join(names)}" if names else None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything beside the weights.

    Args:
        family: The adapter, ``"timm_vit"``.
        name: timm's name of the architecture, its tag included where one was given.
        arguments: Keyword arguments that create the architecture again; JSON values only.
        classes: Their names, in the order of the logits.
        preprocessing: The record of a ``Preprocessing``.
        score: How tokens are scored.
        pool: Which tokens a pooling head sees.
        weights_sha256: Of the safetensors file; empty until it is written.
        provenance: One sentence: where the weights come from.
        licences: Of the weights and of the data they were trained on.
        schedule: Token counts after each layer that ``load_model`` puts in force; ``None`` for dense.
        reduction: What becomes of the tokens that a layer does not keep.

    Raises:
        RecordError: No class or a repeated one, or arguments that JSON cannot hold.

    Example:
        >>> ModelCard("timm_vit", "vit_tiny_patch16_224", {}, ("a", "b"), {}).score
        'column'
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
    schedule: tuple[int, ...] | None = None
    reduction: str = "drop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "licences", tuple(self.licences))
        if self.schedule is not None:
            object.__setattr__(self, "schedule", tuple(self.schedule))
        if not self.classes:
            raise RecordError("a model card needs at least one class name, but has none")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise RecordError(f"class names must differ, but these are there twice: {', '.join(twice[:5])}")
        try:
            # Through JSON and back: tuples become lists, as they would be after reading.
            object.__setattr__(self, "arguments", json.loads(json.dumps(dict(self.arguments))))
            object.__setattr__(self, "preprocessing", json.loads(json.dumps(dict(self.preprocessing))))
        except (TypeError, ValueError) as error:
            raise RecordError(f"a model card holds JSON values only: {error}") from None

    def with_licence(self, licence: Licence) -> ModelCard:
        """The card with one more licence, unless it is there already."""
        return self if licence in self.licences else replace(self, licences=(*self.licences, licence))

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "family": self.family,
            "name": self.name,
            "arguments": dict(self.arguments),
            "classes": list(self.classes),
            "preprocessing": dict(self.preprocessing),
            "score": self.score,
            "pool": self.pool,
            "weights_sha256": self.weights_sha256,
            "provenance": self.provenance,
            "licences": [licence.as_record() for licence in self.licences],
            # Left out where there is none, so that such a card reads as it always did.
            **({} if self.schedule is None else {"schedule": list(self.schedule)}),
            **({} if self.reduction == "drop" else {"reduction": self.reduction}),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelCard:
        """The inverse of ``as_record``; ``schema`` and ``version`` may be there.

        Raises:
            RecordError: A field is missing, unknown, or of another type.
        """
        body = {name: value for name, value in record.items() if name not in ("schema", "version")}
        body = {"schedule": None, "reduction": "drop", **body}
        known = {field.name for field in fields(cls)}
        if set(body) != known:
            raise RecordError(
                f"a model card has the fields {', '.join(sorted(known))}; this one lacks "
                f"{', '.join(sorted(known - set(body))) or 'none'} and adds "
                f"{', '.join(sorted(set(body) - known)) or 'none'}"
            )
        texts = ("family", "name", "score", "pool", "reduction", "weights_sha256", "provenance")
        right = {
            **dict.fromkeys(texts, str),
            "arguments": dict,
            "preprocessing": dict,
            "classes": list,
            "licences": list,
        }
        if wrong := [name for name, kind in right.items() if not isinstance(body[name], kind)]:
            raise RecordError(f"a model card's {wrong[0]} cannot be {body[wrong[0]]!r}")
        try:
            licences = tuple(Licence(**entry) for entry in body.pop("licences"))
            return cls(**body, licences=licences)
        except TypeError as error:
            raise RecordError(f"a model card cannot be read: {error}") from None


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``model.json`` into ``folder``."""
    write_record(Path(folder) / CARD_FILE, "model", card.as_record())


def read_card(folder: Path) -> ModelCard:
    """Read ``model.json`` from ``folder``.

    Raises:
        RecordError: It is not there, or is no model card.
    """
    return ModelCard.from_record(read_record(Path(folder) / CARD_FILE, "model"))
