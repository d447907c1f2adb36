"""The one place that imports timm; the package's own ``__init__`` sees to it that torchvision can be imported."""

from __future__ import annotations

import importlib
from typing import Any

timm: Any = importlib.import_module("timm")  # Any: timm is half typed and re-exports by star
