"""Phrases that several sections share: targets, budgets and metrics as people say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.core.budget import Budget, Limit
from tavt_kit.reports.numbers import macs_text, percent_text, significant
from tavt_kit.reports.views import text, whole

__all__ = ["budget_words", "limit_words", "metric_words", "plural", "quantile_words", "target_words"]

_RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}
_PROCESSORS = {"cpu": "CPU", "cuda": "CUDA", "gpu": "GPU", "npu": "NPU", "tensorrt": "TensorRT"}
_METRICS = {"top1": "top-1", "macro_f1": "macro F1", "agreement": "agreement with dense"}
_QUANTILES = {"p50": "median latency", "p90": "p90 latency", "p99": "p99 latency", "e2e": "end-to-end latency"}


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
    parts = [f"{_RUNTIMES.get(runtime, runtime)} {_PROCESSORS.get(processor, processor)}{number}"]
    threads = whole(target, "threads")
    if threads is not None:
        parts.append(plural(threads, "thread").replace(" ", "\u00a0"))
    parts += [part for part in (text(target, "precision"),) if part]
    batch = whole(target, "batch")
    if batch is not None:
        parts.append(f"batch\u00a0{batch}")
    parts += [part for part in (text(target, "mode"),) if part]
    return ", ".join(parts)


def limit_words(limit: Limit) -> str:
    """A limit as ``8 ms (p90)`` or ``top-1 of at least 84.0 %``."""
    if limit.quantity == "latency":
        return f"{limit.value:.4g}\u00a0ms ({limit.statistic or 'p90'})"
    if limit.quantity == "flops":
        return f"{macs_text(limit.value)} multiply-adds"
    if limit.quantity == "drop":
        return f"a loss of at most {significant_short(100 * limit.value)} points"
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


def significant_short(value: float) -> str:
    """Three significant digits, without zeros at the end: a limit is exact, so 8 ms and not 8.00 ms."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def plural(count: int, word: str, many: str = "") -> str:
    """``1 thread``, ``2 threads``; ``many`` where an s is not enough."""
    return f"{count} {word}" if count == 1 else f"{count} {many or word + 's'}"
