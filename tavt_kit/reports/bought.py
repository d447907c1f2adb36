"""What each gene of a joint search bought, from evaluations that were really made."""

from __future__ import annotations

from typing import Any

from tavt_kit.reports.numbers import points_text
from tavt_kit.reports.views import number, text

__all__ = ["bought_text"]

_GENES = {
    "image_size": "The image size",
    "layers": "Leaving layers out",
    "score": "The other score",
    "precision": "The other precision",
    "tokens": "Dropping tokens",
}


def bought_text(record: Any) -> str:
    """A sentence on one gene of the chosen candidate.

    Args:
        record: An entry of ``bought`` in ``front.json``.
    """
    macs, time = number(record, "macs_ratio"), number(record, "time_ratio")
    low, high = number(record, "difference", "ci95", 0), number(record, "difference", "ci95", 1)
    cost = [] if macs is None else [f"{100 * (macs - 1):+.0f} % multiply-adds"]
    if time is not None:
        cost.append(f"{100 * (time - 1):+.0f} % time")
    gene = _GENES.get(text(record, "gene") or "", "A gene")
    points = points_text(number(record, "difference", "difference"))
    return (
        f"{gene} bought {', '.join(cost)} for {points} points, 95 % {points_text(low)} to {points_text(high)} (against "
        f"{text(record, 'without', 'text')})."
    )
