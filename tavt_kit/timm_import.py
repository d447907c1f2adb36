"""The one place that imports timm, after torchvision was made importable."""

from __future__ import annotations

from tavt_kit.vision_ops import declare_missing_ops

declare_missing_ops()

import timm  # noqa: E402

__all__ = ["timm"]
