"""Weights: where they come from, how they are read safely, and how a model is written down and read again."""

from __future__ import annotations

from tavt_kit.checkpoints.build import build, open_model
from tavt_kit.checkpoints.convert import convert, convert_checkpoint
from tavt_kit.checkpoints.folder import is_run, load_model, save_model

__all__ = ["build", "convert", "convert_checkpoint", "is_run", "load_model", "open_model", "save_model"]
