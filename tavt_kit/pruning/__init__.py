"""Structured pruning: heads, feed-forward and embedding channels by torch-pruning's graph, and whole blocks."""

from __future__ import annotations

from tavt_kit.pruning.importance import IMPORTANCES
from tavt_kit.pruning.prune import LabelledImages, Pruned, prune
from tavt_kit.pruning.targets import Targets

__all__ = ["IMPORTANCES", "LabelledImages", "Pruned", "Targets", "prune"]
