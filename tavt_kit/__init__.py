"""tavt_kit: fine-grained Vision Transformers that fit a latency budget on the machine they run on.

Public names are imported when they are first used, so ``import tavt_kit`` loads neither torch nor timm.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout search/, distill/, bench/ and cli.py lie beside this folder; in a wheel, inside it.
_here = Path(__file__).resolve().parent
if not (_here / "search" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

if TYPE_CHECKING:
    from tavt_kit.adaptive import AdaptiveViT, LeanViT, wrap
    from tavt_kit.budget import Budget
    from tavt_kit.candidate import Candidate
    from tavt_kit.checkpoints import load_model
    from tavt_kit.device import TargetDevice
    from tavt_kit.errors import TavtError
    from tavt_kit.front import ParetoFront
    from tavt_kit.macs import count_macs
    from tavt_kit.measurement import Measurement
    from tavt_kit.preprocess import Preprocessing
    from tavt_kit.schedule import TokenSchedule

_HOMES = {
    "AdaptiveViT": "adaptive",
    "Budget": "budget",
    "Candidate": "candidate",
    "LeanViT": "adaptive",
    "Measurement": "measurement",
    "ParetoFront": "front",
    "Preprocessing": "preprocess",
    "TargetDevice": "device",
    "TavtError": "errors",
    "TokenSchedule": "schedule",
    "count_macs": "macs",
    "load_model": "checkpoints",
    "wrap": "adaptive",
}

__all__ = [
    "AdaptiveViT",
    "Budget",
    "Candidate",
    "LeanViT",
    "Measurement",
    "ParetoFront",
    "Preprocessing",
    "TargetDevice",
    "TavtError",
    "TokenSchedule",
    "__version__",
    "count_macs",
    "load_model",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tavt_kit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tavt_kit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
