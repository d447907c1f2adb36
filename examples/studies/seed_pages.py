"""The seeds' tables as Markdown, from the records of ``seed_tables``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seed_models import TAVT

from tavt_kit.core.measurement import Measurement, paired_ratio

PUBLISHED = {
    "vitaev2": "Published (ViTAEv2's repository, its GPU is not named): at 224 ViTAEv2-S 722 and Swin-T 815 images/s, "
    "so 0.89 of Swin-T.",
    "tavt": "Published (TAVT's abstract, without saying against what): GPU latency up to 10x, memory up to 5.5x, "
    "FLOPs up to 13x less.",
}


def page(name: str, title: str, body: Mapping[str, Any], counted: Mapping[str, int], kept: Mapping[str, Any]) -> str:
    """A table with its heading, and what was published.

    Args:
        name: ``vitaev2`` or ``tavt``.
        title: Of this table.
        body: Record of the times.
        counted: Row -> multiply-adds of one image.
        kept: Row -> its memory, or why there is none.
    """
    write = speeds if name == "vitaev2" else factors
    return f"## {title}\n\n{write(body, counted, kept)}\n{PUBLISHED[name]}\n"


def above(kept: Mapping[str, Any], row: str) -> float | None:
    """MB that a network and its pass add to a process."""
    found, base = kept[row].get("mb"), kept[""].get("mb")
    return None if found is None or base is None else float(found - base)


def speeds(body: Mapping[str, Any], counted: Mapping[str, int], kept: Mapping[str, Any]) -> str:
    """ViTAEv2's table: ratios of the throughput to the second row's, ViT-B at the least size."""
    names = list(body["asked"]["rows"])
    times = {row: Measurement.from_record(one) for row, one in body["times"].items()}
    base = names[1]
    lines = [
        f"| network | GMACs | ms a batch | speed, ratio to {base} | MB above a bare process |",
        "|---|---|---|---|---|",
    ]
    for row in names:
        lines.append(f"| {row} | {counted[row] / 1e9:.1f} | {cell(body, times, row)} | {ratio(times, base, row)} | "
                     f"{mb(above(kept, row))} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def factors(body: Mapping[str, Any], counted: Mapping[str, int], kept: Mapping[str, Any]) -> str:
    """TAVT's factors: how many times less than each denominator."""
    times = {row: Measurement.from_record(one) for row, one in body["times"].items()}
    head = ["network", "GMACs", "ms a batch", "MB above a bare process"]
    head += [f"{what}: times less than {name}" for name in TAVT for what in ("latency", "memory", "MACs")]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in body["asked"]["rows"]:
        mine = above(kept, row)
        cells = [row, f"{counted[row] / 1e9:.1f}", cell(body, times, row), mb(mine)]
        for base in TAVT.values():
            theirs = above(kept, base)
            less = "" if mine is None or theirs is None else f"{theirs / mine:.2f}x"
            cells += [ratio(times, base, row), less, f"{counted[base] / counted[row]:.2f}x"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(body: Mapping[str, Any], times: Mapping[str, Measurement], row: str) -> str:
    if row in times:
        return f"{times[row].median:.1f}{'' if times[row].steady else ', unsteady'}"
    return f"does not run: {body['refused'][row]}"


def ratio(times: Mapping[str, Measurement], base: str, row: str) -> str:
    """How many times faster than ``base``, paired by rounds."""
    if row not in times or base not in times:
        return ""
    found = paired_ratio(times[base], times[row])
    return f"{found.value:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def mb(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
