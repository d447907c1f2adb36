"""What a model looks at in a picture: attention rollout, kept patches, and the maps of the systems' own parts."""

from __future__ import annotations

from tavt_kit.explaining.looking import Explained, Heat, Marked, explain
from tavt_kit.explaining.rollout import attention_rollout

__all__ = ["Explained", "Heat", "Marked", "attention_rollout", "explain"]
