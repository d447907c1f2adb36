"""Durations, fractions and lists of numbers as people write them."""

from __future__ import annotations

import re

from tavt_kit.errors import ParameterError

__all__ = ["parse_duration", "parse_fraction", "parse_numbers"]

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}\s*h)?\s*(?:{_NUMBER}\s*m(?:in)?)?\s*(?:{_NUMBER}\s*s)?")


def parse_duration(text: str | None) -> float | None:
    """``90s``, ``15m``, ``1h``, ``1h30m`` or plain seconds -> seconds; None stays None.

    Example:
        >>> parse_duration("1.5h")
        5400.0
    """
    if text is None:
        return None
    stripped = text.strip()
    match = _DURATION.fullmatch(f"{stripped}s" if re.fullmatch(_NUMBER, stripped) else stripped)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ParameterError(f"a time is given as 90s, 15m or 1h and must be above 0, got {text!r}")
    return total


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


def parse_numbers(text: str | None, name: str, example: str) -> list[int] | None:
    """``12`` or ``1,1,4`` -> the numbers; None stays None.

    Example:
        >>> parse_numbers("1, 1,4", "heads", "1,1,4")
        [1, 1, 4]
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise ParameterError(
            f"`{name}` is a whole number above 0, or several with commas between them, such as {example}, got {text!r}"
        )
    return [int(part) for part in parts]
