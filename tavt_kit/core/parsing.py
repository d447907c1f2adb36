"""Durations, fractions and lists of numbers as people write them, and the text of JSON, TOML and CSV files."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from math import isfinite
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tavt_kit.errors import ParameterError

P = ParamSpec("P")
T = TypeVar("T")
Options = TypeVar("Options")

_MOST = {"seed": 2**63 - 1, "population": 100_000, "workers": 1024, "image_size": 16_384, "image_sizes": 16_384}
_MOST_ELSE, _MOST_DIGITS = 10**9, 300
_LEAST = {"seed": 0, "held_out": 0, "max_drop": 0, "image_size": 1, "limit": 1, "top": 1, "batch": 1,
          "evaluations": 1, "population": 1, "final": 1, "screen": 0, "min_patches": 1,
          "slide_step": 1, "num_token": 1}  # fmt: skip
_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}\s*h)?\s*(?:{_NUMBER}\s*m(?:in)?)?\s*(?:{_NUMBER}\s*s)?")


def parse_duration(text: str | float | None) -> float | None:
    """``90s``, ``15m``, ``1h``, ``1h30m`` or plain seconds, also as a number -> seconds; None stays None."""
    if text is None:
        return None
    stripped = str(text).strip()
    match = _DURATION.fullmatch(f"{stripped}s" if re.fullmatch(_NUMBER, stripped) else stripped)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ParameterError(f"a time is given as 90s, 15m or 1h and must be above 0, got {text!r}")
    return total


def user_path(given: str | Path) -> Path:
    """A path as a user writes it, with ``~`` for a home folder; ParameterError of what cannot be one."""
    try:
        return Path(given).expanduser()
    except (RuntimeError, ValueError) as error:  # no such user; a letter that no path has
        raise ParameterError(f"{str(given)!r} is no path ({error}); write it out") from None


def several(given: Any) -> tuple[Any, ...]:
    """One value, or those of a sequence that is no text; none of None.

    Example:
        >>> several("a"), several(["a", "b"]), several(None)
        (('a',), ('a', 'b'), ())
    """
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def parse_fraction(text: str | None, what: str = "a fraction", example: str = "10% or 0.1") -> float:
    """``1%`` or ``0.01`` -> 0.01; None is all of it.

    Example:
        >>> parse_fraction("25%")
        0.25
    """
    if text is None:
        return 1.0
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ParameterError(f"{what} is given as {example}, above 0 and at most 100%, got {text!r}")
    return share


def require_counts(values: Mapping[str, Any]) -> None:
    """Refuse whole numbers that no run could come to the end of, or no memory hold, those below the least, and inf.

    The values are by the names of parameters; several may stand in one.
    """
    for name, value in values.items():
        most = _MOST.get(name, _MOST_ELSE)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int) and abs(number) > most:
                raise ParameterError(f"`{name}` is at most {most}, got {str(number)[:40]}")
            if isinstance(number, float) and not isfinite(number):
                raise ParameterError(f"`{name}` is a finite number, got {number}")
            if isinstance(number, int | float) and number < _LEAST.get(name, number):
                raise ParameterError(f"`{name}` must be at least {_LEAST[name]}, got {number}")


def bounded(function: Callable[P, T]) -> Callable[P, T]:
    """A function that is only called with counts that ``require_counts`` lets pass, whoever calls it."""
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        given = dict(zip(signature.parameters, args, strict=False))
        require_counts({**given, **kwargs})
        return function(*args, **kwargs)

    return checked


def taking(options: Callable[P, Options]) -> Callable[[Callable[[Options], T]], Callable[P, T]]:
    """A function of one class of options, called with the fields of that class, so that each is written once, there.

    Its counts are ``bounded``. Its docstring gets the ``Args`` of the class, before what it raises.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Trip:
        ...     days: int
        ...     seed: int = 0
        >>> @taking(Trip)
        ... def cost(trip: Trip) -> int:
        ...     return 10 * trip.days
        >>> cost(3), str(inspect.signature(cost))
        (30, "(days: 'int', seed: 'int' = 0) -> 'int'")
    """
    signature = inspect.signature(options)
    arguments = (inspect.getdoc(options) or "").partition("Args:\n")[2].partition("\n\nRaises:")[0]

    def take(function: Callable[[Options], T]) -> Callable[P, T]:
        @wraps(function)
        def taken(*args: P.args, **kwargs: P.kwargs) -> T:
            require_counts({**dict(zip(signature.parameters, args, strict=False)), **kwargs})
            return function(options(*args, **kwargs))

        said, raises, rest = (inspect.getdoc(function) or "").partition("Raises:\n")
        taken.__doc__ = f"{said}Args:\n{arguments}\n\n{raises}{rest}"
        result = inspect.signature(function).return_annotation
        taken.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
        return taken

    return take


def parse_json(text: str) -> Any:
    """What a JSON text holds; ValueError where it is no JSON, nested too deep, or has a number too long for floats."""
    return _parsed(partial(json.loads, parse_int=_whole), text)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits, at most {_MOST_DIGITS} are read")
    return int(digits)


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text holds; raises as ``parse_json``."""
    return _parsed(tomllib.loads, text)  # type: ignore[no-any-return]


def _parsed(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except RecursionError:
        raise ValueError("its values are nested too deep to be read") from None


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A head and rows; what a spreadsheet would take for a formula gets an apostrophe before it.

    Bytes of a file name that are no UTF-8 are spelled out.

    Example:
        >>> csv_text(["class", "share"], [["=1+1", -0.5]])
        "class,share\\n'=1+1,-0.5\\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in (head, *rows))
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
