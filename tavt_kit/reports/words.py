"""Numbers and phrases as people read them: one place, so that page, terminal and charts agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tavt_kit.core.budget import Budget, Limit
from tavt_kit.reports.records import text, whole

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


def macs_text(value: float | None) -> str:
    """Multiply-adds: ``3.12 G``, with a non-breaking space."""
    return DASH if value is None else _scaled(value, ("", "K", "M", "G", "T"))


def bytes_text(value: float | None) -> str:
    """Bytes in decimal units: ``25.0 MB``."""
    return DASH if value is None else _scaled(value, ("B", "KB", "MB", "GB", "TB"))


def ratio_text(value: float | None) -> str:
    """How many times: ``2.9×``, below two ``0.52×``."""
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


_RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}
_PROCESSORS = {"cpu": "CPU", "cuda": "CUDA", "gpu": "GPU", "npu": "NPU", "tensorrt": "TensorRT"}
_METRICS = {"top1": "top-1", "macro_f1": "macro F1", "agreement": "agreement with dense",
            "fidelity": "fidelity to dense"}  # fmt: skip
_QUANTILES = {"p50": "median latency", "p90": "p90 latency", "p99": "p99 latency"}


def metric_words(metric: str) -> str:
    """``top1`` as ``top-1``."""
    return _METRICS.get(metric, metric)


def target_words(target: Mapping[str, Any]) -> str:
    """A target's record as ``OpenVINO CPU, 2 threads, f32, batch 1``; empty if there is none."""
    runtime, processor = text(target, "runtime"), text(target, "processor")
    if runtime is None or processor is None:
        return ""
    index = whole(target, "index")
    number = f" {index}" if index and processor != "cpu" else ""
    threads, batch = whole(target, "threads"), whole(target, "batch")
    parts = [
        f"{_RUNTIMES.get(runtime, runtime)} {_PROCESSORS.get(processor, processor)}{number}",
        None if threads is None else plural(threads, "thread").replace(" ", "\u00a0"),
        text(target, "precision"),
        None if batch is None else f"batch\u00a0{batch}",
        text(target, "mode"),
    ]
    return ", ".join(filter(None, parts))


def limit_words(limit: Limit) -> str:
    """A limit as ``8 ms (p90)`` or ``top-1 of at least 84.0 %``."""
    if limit.quantity == "latency":
        return f"{limit.value:.4g}\u00a0ms ({limit.statistic or 'p90'})"
    if limit.quantity == "flops":
        return f"{macs_text(limit.value)} multiply-adds"
    if limit.quantity == "drop":
        loss = significant(100 * limit.value)  # a limit is exact, so 2 points and not 2.00
        return f"a loss of at most {loss.rstrip('0').rstrip('.') if '.' in loss else loss} points"
    if limit.is_quality:
        name = limit.name if limit.statistic else metric_words(limit.quantity)
        return f"{name} of at least {percent_text(limit.value)}"
    return f"{limit.quantity} {limit.show(limit.value)}"


def budget_words(budget: Budget) -> str:
    """All limits in one phrase; ``no budget`` for none."""
    return " and ".join(map(limit_words, budget)) or "no budget"


def quantile_words(statistic: str) -> str:
    """``p90`` as ``p90 latency``, ``p50`` as ``median latency``."""
    return _QUANTILES.get(statistic, f"{statistic} latency")


def plural(count: int, word: str, many: str = "") -> str:
    """``1 thread``, ``2 threads``; ``many`` where an s is not enough."""
    return f"{count} {word}" if count == 1 else f"{count} {many or word + 's'}"
