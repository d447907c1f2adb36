"""What is said of a model's answers to labelled pictures, and the files that show it; neither torch nor timm."""

from __future__ import annotations

from tavt_kit.evaluating.answers import Answered, answer
from tavt_kit.evaluating.figures import figures_of
from tavt_kit.evaluating.reject import Threshold, choose_threshold

__all__ = ["Answered", "Threshold", "answer", "choose_threshold", "figures_of"]
