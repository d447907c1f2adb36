"""Structured pruning: heads and feed-forward channels, and whole blocks."""

from __future__ import annotations

from tavt_kit.pruning.prune import IMPORTANCES, LabelledImages, Pruned, Targets, prune

__all__ = ["IMPORTANCES", "LabelledImages", "Pruned", "Targets", "prune"]
