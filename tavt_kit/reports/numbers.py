"""Numbers as people read them: one place for every unit, so that HTML, Markdown and charts agree."""

from __future__ import annotations

import math
from datetime import datetime

__all__ = [
    "DASH",
    "bytes_text",
    "date_text",
    "interval_text",
    "macs_text",
    "ms_text",
    "n_text",
    "peak_text",
    "percent_text",
    "points_text",
    "ratio_text",
    "significant",
]

DASH = "–"
"""Stands where a record has no value."""

_MINUS = "\u2212"


def significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits and no exponent.

    Example:
        >>> significant(0.01234), significant(7.6), significant(123.4), significant(1234.5)
        ('0.0123', '7.60', '123', '1234')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9996 is 1.00 and not 1.000
    whole = math.floor(math.log10(abs(rounded))) + 1
    text = f"{value:.{max(0, digits - whole)}f}"
    return text.replace("-", _MINUS)


def ms_text(value: float | None) -> str:
    """Milliseconds: ``7.60 ms``, a non-breaking space between."""
    return DASH if value is None else f"{significant(value)}\u00a0ms"


def percent_text(value: float | None, digits: int = 1) -> str:
    """A fraction in percent: ``84.1 %``; a non-breaking space keeps number and sign together."""
    return DASH if value is None else f"{100 * value:.{digits}f}\u00a0%".replace("-", _MINUS)


def points_text(value: float | None) -> str:
    """A difference of fractions in percentage points, signed: ``+2.4``; what rounds to nothing has no sign."""
    if value is None:
        return DASH
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", _MINUS)


def n_text(n: float) -> str:
    """How many images, without a break: ``n = 525``."""
    return f"n\u00a0=\u00a0{n:.0f}"


def interval_text(low: float | None, high: float | None) -> str:
    """A 95 % interval of a fraction, in percent: ``81.0–87.0``."""
    return "" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"


def macs_text(value: float | None) -> str:
    r"""Multiply-adds: ``3.12 G``.

    Example:
        >>> macs_text(3_120_000_000) == "3.12\N{NO-BREAK SPACE}G"
        True
    """
    return DASH if value is None else _scaled(value, ("", "K", "M", "G", "T"))


def bytes_text(value: float | None) -> str:
    """Bytes in decimal units: ``25.0 MB``."""
    return DASH if value is None else _scaled(value, ("B", "KB", "MB", "GB", "TB"))


def peak_text(value: float | None) -> str:
    """A process's peak memory: ``312.4 MB``, because schedules differ by little of it."""
    return DASH if value is None else f"{significant(value / 1e6, 4)}\u00a0MB"


def ratio_text(value: float | None) -> str:
    """How many times: ``2.9×``.

    Example:
        >>> ratio_text(2.94), ratio_text(0.52)
        ('2.9×', '0.52×')
    """
    if value is None:
        return DASH
    return f"{value:.1f}×" if value >= 1.95 else f"{value:.2f}×"


def date_text(text: str | None) -> str:
    """An ISO date and time without its seconds' fraction; anything else as it is.

    Example:
        >>> date_text("2026-11-21T04:47:09.123456+00:00")
        '2026-11-21 04:47 UTC'
    """
    if not text:
        return DASH
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = "" if moment.tzinfo is None else f" {moment:%Z}"
    return f"{moment:%Y-%m-%d %H:%M}{zone}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    power = 0
    while power + 1 < len(units) and abs(value) >= 999.5:
        value, power = value / 1000, power + 1
    number = f"{value:.0f}" if power == 0 else significant(value)
    return f"{number}\u00a0{units[power]}".rstrip("\u00a0").replace("-", _MINUS)
