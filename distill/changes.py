"""Changing values of a recipe by name, whichever part of it they lie in: what flags and recipe files do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from tavt_kit.core.codec import decode, describe
from tavt_kit.errors import RecordError, TrainingError

_Recipe = TypeVar("_Recipe")

_RESETS: Mapping[str, Mapping[str, Any]] = {
    "steps": {"epochs": None, "cooldown_epochs": None},
    "warmup": {"warmup_epochs": None},
    "warmup_epochs": {"warmup": None},
    "cooldown": {"cooldown_epochs": None},
    "loss": {"loss_weights": {}},
}
"""What is asked for -> what the recipe says of the same thing in another way, and that no longer counts."""


def changed(recipe: _Recipe, changes: Mapping[str, Any]) -> _Recipe:
    """A recipe with some values changed.

    Args:
        recipe: A frozen dataclass, some of whose fields are dataclasses themselves.
        changes: By name. None changes nothing; ``"none"`` is None where that is a value; of a table, the entries that
            are given change.

    Raises:
        TrainingError: A name that no part has, a value of another type, or one out of its range.
        UnknownName: A value that is none of the known ones.

    Example:
        >>> from tavt_kit.distill.recipe import TrainRecipe
        >>> changed(TrainRecipe(), {"lr": 0.1, "smoothing": 0.2, "seed": 3}).objective.smoothing
        0.2
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if unknown := sorted(set(given) - set(names_of(recipe))):
        names = sorted(names_of(recipe))
        near = [match for name in unknown for match in difflib.get_close_matches(name, names, n=1)]
        meant = f" (did you mean {', '.join(near)}?)" if near else ""
        raise TrainingError(f"a recipe has no {', '.join(unknown)}{meant}; it has {', '.join(names)}")
    resets = {other: value for key in given for other, value in _RESETS.get(key, {}).items()}
    parts = parts_of(recipe)
    inner = {name: _replaced(part, resets, given) for name, part in parts.items()}
    found: _Recipe = replace(_replaced(recipe, resets, given), **inner)
    return found


def names_of(recipe: Any) -> tuple[str, ...]:
    """The names of all values, those of the parts included."""
    parts = parts_of(recipe)
    own = [f.name for f in fields(recipe) if f.name not in parts]
    return (*own, *(f.name for part in parts.values() for f in fields(part)))


def parts_of(recipe: Any) -> dict[str, Any]:
    """The values inside a recipe that have fields of their own."""
    return {f.name: part for f in fields(recipe) if is_dataclass(part := getattr(recipe, f.name))}


def _replaced(value: Any, resets: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(type(value))
    fresh = {key: resets.get(key, getattr(value, key)) for key in hints if key in resets or key in given}
    for key in fresh:
        if key in given:
            fresh[key] = _read(key, given[key], hints[key], fresh[key])
    return replace(value, **fresh)


def _read(key: str, value: Any, hint: Any, before: Any) -> Any:
    """A value as its field has it."""
    if value == "none" and NoneType in get_args(hint):
        return None
    # What one number means where several may stand is the field's own affair.
    kind = float if hint == tuple[float, ...] and not isinstance(value, list | tuple) else hint
    try:
        read = decode(kind, str(value) if isinstance(value, Path) else value)
    except RecordError:
        raise TrainingError(f"{key} of a recipe must be {describe(hint)}, got {value!r}") from None
    return {**before, **read} if isinstance(read, Mapping) and isinstance(before, Mapping) else read
