"""The table of ``docs/merging.md``, from the record of ``untrained_merging.py``.

python examples/studies/merging_table.py examples/studies/results/untrained-merging.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def table(record: Mapping[str, Any]) -> str:
    """Markdown: what was run, then a row for each schedule and network."""
    host = record["host"]
    rows = record["rows"]
    lines = [
        f"ELPV (8 classes), {record['model']} at 112 px, f32, torch {host['packages']['torch']}, {host['cores']} cores "
        f"of an {host['cpu']}, {host['date'][:10]}; {record['folds']} of {record['of']} folds, n = {rows[0]['n']} test "
        "pictures; points against the same network's dense answers, paired 95 % intervals; KL in nats.",
        "",
        "| network | schedule | fewer multiply-adds | merge, points | KL | drop, points | KL |",
        "|---|---|---|---|---|---|---|",
    ]
    merged = {(one["network"], one["name"]): one for one in rows if one["reduction"] == "merge"}
    dropped = {(one["network"], one["name"]): one for one in rows if one["reduction"] == "drop"}
    for key, one in merged.items():
        beside = dropped[key]
        lines.append(
            f"| {key[0]} ({100 * one['dense_top1']:.1f} %) | `{one['schedule']}` | {one['fewer_multiply_adds']:.2f}x | "
            f"{_points(one)} | {one['kl']:.3f} | {_points(beside)} | {beside['kl']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _points(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{row['points']:+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
