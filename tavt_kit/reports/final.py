"""``final.json``: the closing table, each model on the same held-out images and measured in one bench.

Written by the verb that compares (``demo``), read by the report. Each row: ``name``; ``kind`` (``dense``, ``int8``,
``resolution``, ``layers``, ``taper``, ``chosen``, ``chosen-int8``, ``other``); ``split``, ``top1``, ``n``, ``ci95``;
``macs``; ``latency_ms`` (a measurement's record without its raw samples); ``ratio`` (dense time over this time; a
number, or an object with ``value``, ``low``, ``high``); ``verdict`` and ``note``. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.records import write_record
from tavt_kit.reports.charts import KINDS, Kind

__all__ = ["FINAL_FILE", "FinalRow", "write_final"]

FINAL_FILE = "final.json"


@dataclass(frozen=True, slots=True)
class FinalRow:
    """One model of the closing table.

    Args:
        name: For people: ``"dense, INT8"``.
        kind: Which baseline it is.
        accuracy: Record of an ``Accuracy`` (metric, split, value, n, ci95), or ``None``.
        macs: Multiply-adds of one image, rule ``executed``.
        latency: Record of a ``Measurement``, or ``None``; its raw samples stay in ``bench.json``.
        ratio: Record of the paired ratio dense over this, a number, or ``None``.
        verdict: Over the budget, or ``None``.
        note: A few words, such as the image size or the schedule.
    """

    name: str
    kind: Kind
    accuracy: Mapping[str, Any] | None = None
    macs: int | None = None
    latency: Mapping[str, Any] | None = None
    ratio: Mapping[str, Any] | float | None = None
    verdict: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a final row is one of {', '.join(KINDS)}, got {self.kind!r}")

    def as_record(self) -> dict[str, Any]:
        """The row as ``final.json`` has it."""
        accuracy, latency = self.accuracy or {}, self.latency
        return {
            "name": self.name,
            "kind": self.kind,
            "split": accuracy.get("split"),
            accuracy.get("metric", "top1"): accuracy.get("value"),
            "n": accuracy.get("n"),
            "ci95": accuracy.get("ci95"),
            "macs": self.macs,
            "latency_ms": None if latency is None else _without_samples(latency),
            "ratio": self.ratio if self.ratio is None or isinstance(self.ratio, int | float) else dict(self.ratio),
            "verdict": self.verdict,
            "note": self.note,
        }


def write_final(
    folder: Path,
    rows: Sequence[FinalRow],
    *,
    target: Mapping[str, Any],
    budgets: Sequence[str] = (),
    metric: str = "top1",
    host: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``final.json`` into ``folder`` and give its path.

    Args:
        folder: The run's.
        rows: In the order to be shown; dense first.
        target: Record of the target device all rows were measured on.
        budgets: Their texts.
        metric: The accuracy's name.
        host: Record of the host facts.
    """
    path = Path(folder) / FINAL_FILE
    body = {
        "metric": metric,
        "target": dict(target),
        "budgets": list(budgets),
        "host": None if host is None else dict(host),
    }
    write_record(path, "final", {**body, "rows": [row.as_record() for row in rows]})
    return path


def _without_samples(latency: Mapping[str, Any]) -> dict[str, Any]:
    samples = latency.get("samples")
    kept = {name: value for name, value in latency.items() if name not in ("samples", "rounds")}
    return {**kept, "samples": len(samples) if isinstance(samples, list | tuple) else samples}
