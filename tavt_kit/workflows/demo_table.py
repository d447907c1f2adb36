"""The demo's closing table: every file on the same test images and in the same bench, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.records import read_record

if TYPE_CHECKING:
    from tavt_kit.reports.marks import Kind

__all__ = ["conclusions", "read_table", "write_table"]


ROWS: tuple[tuple[str, str, str, Kind], ...] = (
    ("dense", "f32", "dense f32", "dense"),
    ("dense", "int8", "dense INT8", "int8"),
    ("low-resolution", "f32", "lower resolution f32", "resolution"),
    ("chosen", "f32", "chosen f32", "chosen"),
    ("chosen", "int8", "chosen + INT8", "chosen-int8"),
)
"""Export folder, precision, name and kind of each row, dense first."""


def write_table(out: Path, budget: str, low: str) -> None:
    """Write ``final.json`` from the exports' ``check.json`` and the demo's ``bench.json``.

    A file that failed its check was not measured; its row has the accuracy and the verdict alone.

    Args:
        out: The demo's folder.
        budget: Its text.
        low: The size of the lower-resolution baseline's images, for people.
    """
    from tavt_kit.core.budget import Budget
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.core.verdict import judge_latency
    from tavt_kit.reports import FinalRow, write_final

    bench = read_record(out / "bench.json", "fgvc-kit/bench", 1)
    measured = {Path(row["thing"]).resolve(): row for row in bench["candidates"]}
    (limit,) = Budget.parse([budget]).limits
    rows = []
    for folder, precision, name, kind in ROWS:
        check = _check_of(out / "export" / folder, precision)
        timed = measured.get((out / "export" / folder / check["artifact"]).resolve(), {})
        fits = judge_latency(limit, Measurement.from_record(timed["latency_ms"])) if timed else None
        notes = [low if kind == "resolution" else "", f"check: {check['verdict']}"]
        rows.append(
            FinalRow(
                name,
                kind,
                accuracy=check["artifact_top1"],
                macs=timed.get("macs"),
                latency=timed.get("latency_ms"),
                ratio=timed.get("ratio"),
                verdict=None if fits is None else str(fits),
                note=", ".join(filter(None, notes)),
            )
        )
    write_final(out, rows, target=bench["candidates"][0]["target"], budgets=[budget], host=bench["host"])


def _check_of(folder: Path, precision: str) -> dict[str, Any]:
    checks = read_record(folder / "check.json", "fgvc-kit/check", 1)["checks"]
    found: dict[str, Any] = next(check for check in checks if check["precision"] == precision)
    return found


def read_table(out: Path) -> dict[str, Any]:
    """What ``write_table`` wrote."""
    return read_record(out / "final.json", "fgvc-kit/final", 1)


def conclusions(out: Path) -> list[str]:
    """Sentences a reader would ask for: did distillation help, did anything beat the choice."""
    return [*_lifted(out), *_against_baselines(read_table(out))]


def _lifted(out: Path) -> list[str]:
    """Before and after distillation, at equal schedules, on val."""
    results = read_record(out / "distilled" / "run.json", "fgvc-kit/run", 1)["results"]
    sentences = []
    for before, after in zip(results["before"], results["after"], strict=True):
        low, high = (100 * end for end in after["difference"]["ci95"])
        sentences.append(
            f"distillation, {after['name']}: {100 * before['accuracy']['value']:.1f} -> "
            f"{100 * after['accuracy']['value']:.1f} % top-1 on val, paired difference [{low:+.1f}, {high:+.1f}]"
        )
    return sentences


def _against_baselines(final: Mapping[str, Any]) -> list[str]:
    """Every baseline that answers better than the choice, as the report says it too."""
    from tavt_kit.reports.rows import better_baselines, final_rows

    if not any(row.kind == "chosen" and row.time is not None for row in final_rows(final)):
        return ["The chosen model failed its check, so nothing is compared."]
    return better_baselines(final) or ["No baseline does better than the chosen model."]
