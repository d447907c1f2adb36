"""What ``honesty`` calls reached, and what missed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from honesty_plants import LOADS

CLOSE, SHARE, OFTEN = 0.03, 0.10, 0.95
"""Largest difference of twins, and of medians by two programs; the planted slowdown; in which share of repetitions."""


def goals(rows_of: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each goal with what was found.

    Args:
        rows_of: The repetitions of each part, as the study's record has them.
    """
    found = list[dict[str, Any]]()

    def goal(words: str, met: bool, what: str) -> None:
        found.append({"goal": words, "met": met, "found": what})

    for part in (*LOADS, "quiet"):
        if rows := rows_of.get(part):
            n, least = len(rows), math.ceil(OFTEN * len(rows) - 1e-9)
            apart = [abs(row["twin"]["ratio"] - 1) for row in rows]
            close = sum(one < CLOSE for one in apart)
            what = f"{close} of {n}; median {median(apart):.1%}, worst {max(apart):.1%}"
            goal(f"{part}: twins differ by less than {CLOSE:.0%} in {least} of {n}", close >= least, what)
            seen = sum(row["slowed"]["ci95"][0] > 1 for row in rows)
            what = f"{seen} of {n}; median ratio {median(row['slowed']['ratio'] for row in rows):.3f}"
            goal(f"{part}: a slowdown of {SHARE:.0%} is found in {least} of {n}", seen >= least, what)
    for row in rows_of.get("cheats", ()):
        words = f"no doubt: {row['plant']}" if row["wanted"] == "nothing" else f"reported: {row['plant']}"
        goal(words, row["met"], "; ".join(row["said"]) or "nothing said")
    for name in dict.fromkeys(row["peer"] for row in rows_of.get("peers", ())):
        ratios = [row["ours_ms"] / row["theirs_ms"] for row in rows_of.get("peers", ()) if row["peer"] == name]
        what = f"ours / theirs {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} turns)"
        goal(f"p50 within {CLOSE:.0%} of {name}", abs(median(ratios) - 1) <= CLOSE, what)
    return found
