"""Frozen dataclasses as JSON values and back, by their type hints."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from reprlib import repr as short
from sys import float_info
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError, TavtError

T = TypeVar("T")

_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
_LARGEST = 2**63 - 1  # A count; beyond it, arithmetic with floats, arrays and other programs fails
_EXACT = (str, int, bool, type(None))
_WORDS = {int: "a whole number", float: "a number", str: "text", Path: "text", bool: "true or false",
          type(None): "none", TokenSchedule: "a list of whole numbers"}  # fmt: skip


class Record:
    """A frozen dataclass with a form in JSON: an object with a key for each field.

    Fields with a default may be missing. ``VIEWS`` names properties and constants that are written after the fields,
    for readers without this package, and passed over when read; ``BESIDE`` names further keys that are passed over,
    or is None where any may be there.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Box(Record):
        ...     n: int
        >>> Box(4).as_record()
        {'n': 4}
        >>> Box.from_record({"n": "3"})
        Traceback (most recent call last):
            ...
        tavt_kit.errors.RecordError: a recorded box cannot be used: n must be a whole number, but is '3'; write it again
    """

    __slots__ = ()
    VIEWS: ClassVar[tuple[str, ...]] = ()
    BESIDE: ClassVar[tuple[str, ...] | None] = ()

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return _encode_fields(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of ``as_record``; raises as ``decode``."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__.strip("_")).lower()
        return decode(cls, record, f"a recorded {name}")


def recorded_as(
    key: str = "", index: int | None = None, *, omit_default: bool = False, inline: bool = False, skip: bool = False
) -> Mapping[str, Any]:
    """Metadata of a dataclass field whose form in JSON is not simply its own.

    Args:
        key: Name in the record, if not the field's.
        index: Position in the list under ``key`` that several fields share.
        omit_default: Whether the key is left out where the field has its default.
        inline: Whether the keys of the field's own dataclass stand beside the others.
        skip: Whether the field is neither written nor read, but set by who reads.
    """
    return {"key": key, "index": index, "omit_default": omit_default, "inline": inline, "skip": skip}


def encode(value: Any) -> Any:
    """The JSON value of dataclasses, tuples, mappings, enumerations, paths and plain values; TypeError of others."""
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return encode(value.value)
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, TokenSchedule):
        return list(value.counts)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if hasattr(value, "as_record"):
        return value.as_record()
    if is_dataclass(value) and not isinstance(value, type):
        return _encode_fields(value)
    raise TypeError(f"{type(value).__name__} has no form in a record")


def decode(hint: type[T], record: Any, what: str = "the record") -> T:
    """The value of a type that a JSON value stands for.

    Raises:
        RecordError: A key is missing, unknown or of another type, at any depth, a number is not finite, or a class
            refuses the values.
    """
    try:
        value: T = _decode(hint, record, "")
    except RecordError as error:
        raise RecordError(f"{what} cannot be used: {error}; write it again") from None
    except RecursionError:
        raise RecordError(f"{what} cannot be used: its values are nested too deep; write it again") from None
    return value


def _encode_fields(value: Any) -> dict[str, Any]:
    record: dict[str, Any] = {}
    kind: Any = type(value)
    for field in _fields(kind):
        key, index = _key(field)
        item = getattr(value, field.name)
        if field.metadata.get("omit_default") and item == _default(field):
            continue
        if field.metadata.get("inline"):
            record |= encode(item)
        elif index is None:
            record[key] = encode(item)
        else:
            record.setdefault(key, []).append(encode(item))
    return {**record, **{name: encode(getattr(value, name)) for name in getattr(value, "VIEWS", ())}}


def _decode(hint: Any, value: Any, at: str) -> Any:
    if hint is type(value) and hint in _EXACT:  # first, for a list of images has many of these
        if hint is not int or -_LARGEST <= value <= _LARGEST:
            return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, at, hint)
    if origin is Literal:
        if any(type(value) is type(word) and value == word for word in arguments):
            return value
    elif origin is tuple or origin in (Sequence, list):
        return _decode_list(hint, value, at)
    elif origin is Mapping or origin is dict:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {
                _decode(arguments[0], key, at): _decode(arguments[1], item, _below(at, key))
                for key, item in value.items()
            }
    elif hint is Any:
        return _decode(_shape(value), value, at)
    elif hint is TokenSchedule:
        return _make(at, TokenSchedule, counts=_decode(tuple[int, ...], value, at))
    elif hint is Path:
        return Path(_decode(str, value, at))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        if any(type(value) is type(member.value) and value == member.value for member in hint):
            return hint(value)
    elif is_dataclass(hint):
        return _decode_class(hint, value, at)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max:
            return value  # an int stays one, so that what is written again is what was read
    _refuse(hint, value, at)


def _decode_union(hints: Sequence[Any], value: Any, at: str, hint: Any) -> Any:
    if value is None and type(None) in hints:
        return None
    rest = [choice for choice in hints if choice is not type(None)]
    if len(rest) == 1:
        return _decode(rest[0], value, at)
    for choice in rest:
        try:
            return _decode(choice, value, at)
        except RecordError:
            continue
    _refuse(hint, value, at)


def _decode_list(hint: Any, value: Any, at: str) -> tuple[Any, ...] | list[Any]:
    arguments = get_args(hint)
    if not isinstance(value, list | tuple):
        _refuse(hint, value, at)
    if get_origin(hint) is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            _refuse(hint, value, at)
    else:
        arguments = (arguments[0],) * len(value)
    kinds = zip(arguments, value, strict=True)
    items = [_decode(kind, item, f"{at}[{index}]") for index, (kind, item) in enumerate(kinds)]
    return items if get_origin(hint) is list else tuple(items)


def _decode_class(hint: Any, value: Any, at: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(hint, value, at)
    if any("from_record" in vars(base) for base in hint.__mro__ if base is not Record):
        return _make(at, hint.from_record, value)  # the class has a form of its own
    hints, known, given = _hints(hint), set[str](), dict[str, Any]()
    shared: dict[str, list[Field[Any]]] = {}
    for field in _fields(hint):
        key, index = _key(field)
        if field.metadata.get("inline"):
            inner = hints[field.name]
            own = _keys(inner)
            known |= own
            given[field.name] = _decode(inner, {name: value[name] for name in own if name in value}, at)
            continue
        known.add(key)
        if index is not None:
            shared.setdefault(key, []).append(field)
        elif key in value:
            given[field.name] = _decode(hints[field.name], value[key], _below(at, key))
        elif _default(field) is MISSING:
            raise RecordError(f"{_below(at, key)} is missing")
    for key, group in shared.items():
        if key not in value:
            raise RecordError(f"{_below(at, key)} is missing")
        kinds = types.GenericAlias(tuple, tuple(hints[field.name] for field in group))
        pair = _decode(kinds, value[key], _below(at, key))
        given |= {field.name: item for field, item in zip(group, pair, strict=True)}
    beside = getattr(hint, "BESIDE", ())
    if beside is not None:
        for key in value:
            if key not in known and key not in beside and key not in getattr(hint, "VIEWS", ()):
                raise RecordError(f"{_below(at, str(key))} is not known (known are {', '.join(sorted(known))})")
    return _make(at, hint, **given)


def _make(at: str, make: Any, *values: Any, **given: Any) -> Any:
    try:
        return make(*values, **given)
    except TavtError as error:
        raise RecordError(f"{at}: {error}" if at else str(error)) from None


_hints = cache(get_type_hints)


@cache
def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return tuple(field for field in fields(kind) if field.init and not field.metadata.get("skip"))


def _keys(kind: Any) -> set[str]:
    """Every key of a dataclass's record, those of fields that are inline too."""
    keys = set(getattr(kind, "VIEWS", ()))
    for field in _fields(kind):
        keys |= _keys(_hints(kind)[field.name]) if field.metadata.get("inline") else {_key(field)[0]}
    return keys


def _key(field: Field[Any]) -> tuple[str, int | None]:
    return field.metadata.get("key") or field.name, field.metadata.get("index")


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _below(at: str, key: str) -> str:
    name = key if key.isprintable() and len(key) < 60 else short(key)  # a sentence is one line, and no essay
    return f"{at}.{name}" if at else name


def _shape(value: Any) -> Any:
    """The hint of a value that may be any JSON."""
    if isinstance(value, Mapping):
        return Mapping[str, Any]
    if isinstance(value, list | tuple):
        return list[Any]
    return type(value) if value is None or isinstance(value, bool | int | str) else float


def _refuse(hint: Any, value: Any, at: str) -> NoReturn:
    must = f"{at} must be" if at else "it must be"
    raise RecordError(f"{must} {describe(hint)}, but is {short(value)}")


def describe(hint: Any) -> str:
    """A type in words: ``a number``, ``two whole numbers``, ``a list of texts``, ``a number or none``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(word) for word in arguments)
    if origin in (tuple, list, Sequence) and arguments:
        kind = arguments[0] if len(set(arguments) - {Ellipsis}) == 1 else None
        plural = f"{_WORDS[kind].removeprefix('a ')}s" if kind in _WORDS else "values"
        many = origin is not tuple or Ellipsis in arguments
        return f"a list of {plural}" if many else f"{_COUNTS.get(len(arguments), len(arguments))} {plural}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return _WORDS.get(hint, "an object")
