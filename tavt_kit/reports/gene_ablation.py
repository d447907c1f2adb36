"""What each gene of a joint search changes, from evaluations that were really made."""

from __future__ import annotations

from typing import Any

from tavt_kit.reports.numbers import points_text
from tavt_kit.reports.views import number, text

__all__ = ["ablation_text"]

_GENES = {
    "image_size": "The image size",
    "layers": "Leaving layers out",
    "score": "The other score",
    "precision": "The other precision",
    "tokens": "Dropping tokens",
}


def ablation_text(record: Any) -> str:
    """A sentence on one gene of the chosen candidate.

    Args:
        record: An entry of ``gene_ablation`` in ``front.json``.
    """
    shares = {"multiply-adds": number(record, "macs_ratio"), "time": number(record, "time_ratio")}
    low, high = number(record, "difference", "ci95", 0), number(record, "difference", "ci95", 1)
    changes = {what: points_text(share - 1) for what, share in shares.items() if share is not None}
    cost = [f"{change} % {what}" for what, change in changes.items() if change != "0.0"]
    gene = _GENES.get(text(record, "gene") or "", "A gene")
    points = points_text(number(record, "difference", "difference"))
    what = ", ".join(cost) or "nothing"
    return (
        f"{gene} bought {what} for {points} points, 95 % {points_text(low)} to {points_text(high)} (against "
        f"{text(record, 'without', 'text')})."
    )
