"""Structured pruning: heads, feed-forward and embedding channels by torch-pruning's graph, and whole blocks."""

from __future__ import annotations

from tavt_kit.pruning.prune import IMPORTANCES, LabelledImages, Pruned, Targets, prune

__all__ = ["IMPORTANCES", "LabelledImages", "Pruned", "Targets", "prune"]
