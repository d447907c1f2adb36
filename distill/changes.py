"""Changing values of a recipe by name, whichever part of it they lie in: what flags and recipe files do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tavt_kit.errors import TrainingError

__all__ = ["changed", "names_of", "parts_of"]

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
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, str) and Path in get_args(hint):
        return Path(value)
    if not _fits(value, hint):
        raise TrainingError(f"{key} of a recipe must be {_text(hint)}, got {value!r}")
    return {**before, **value} if isinstance(value, Mapping) and isinstance(before, Mapping) else value


def _fits(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if get_origin(hint) is tuple:
        many = arguments[-1] is Ellipsis
        if many and arguments[0] is float and _fits(value, float):
            return True  # what one number means is the field's own affair
        kinds = (arguments[0],) * len(value) if many and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if arguments:  # a table
        return isinstance(value, Mapping) and all(_fits(each, arguments[1]) for each in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "none",
          Path: "a folder"}  # fmt: skip


def _text(hint: Any) -> str:
    """A type for people."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_text, get_args(hint)))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return f"a list of {_text(kinds[0]).split(' ', 1)[-1]}s" if kinds[-1] is Ellipsis else f"{len(kinds)} numbers"
    return _KINDS.get(hint, "a table")
