"""The one place that imports timm, after torchvision was made importable."""

from __future__ import annotations

import importlib
from typing import Any

from tavt_kit.vision_ops import declare_missing_ops

declare_missing_ops()

timm: Any = importlib.import_module("timm")  # Any: timm is half typed and re-exports by star

__all__ = ["timm"]
