"""tavt_kit: fine-grained Vision Transformers that fit a latency budget on the machine they run on.

Public names are imported when they are first used, so ``import tavt_kit`` loads neither torch nor timm.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout search/, distill/, bench/ and cli.py lie beside this folder; in a wheel, inside it.
_here = Path(__file__).resolve().parent
if not (_here / "search" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

# OpenVINO and NNCF report each import and conversion to their maker, each time from a fork of this process: seconds of
# processor time, in the middle of what is being measured. Without this package they report nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

if TYPE_CHECKING:
    from tavt_kit.checkpoints import convert_checkpoint, load_model
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.core.budget import Budget
    from tavt_kit.core.candidate import Candidate
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.front import ParetoFront
    from tavt_kit.core.layout import TokenLayout
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.errors import (
        BudgetError,
        BudgetTooTight,
        CheckpointError,
        DataError,
        ExportError,
        MeasurementError,
        MissingDependency,
        OutputError,
        ParameterError,
        RecordError,
        ScheduleError,
        TargetError,
        TavtError,
        TrainingError,
        UnknownName,
        UnsupportedBackbone,
    )
    from tavt_kit.models.flops import count_macs
    from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
    from tavt_kit.workflows.average import average
    from tavt_kit.workflows.bench import bench
    from tavt_kit.workflows.check import check
    from tavt_kit.workflows.compare import compare
    from tavt_kit.workflows.distill import distill
    from tavt_kit.workflows.evaluate import evaluate
    from tavt_kit.workflows.explain import explain
    from tavt_kit.workflows.export import export
    from tavt_kit.workflows.fit import fit
    from tavt_kit.workflows.predict import predict
    from tavt_kit.workflows.profile import profile
    from tavt_kit.workflows.prune import prune
    from tavt_kit.workflows.report import report
    from tavt_kit.workflows.search import search
    from tavt_kit.workflows.train import train

_HOMES = {
    **dict.fromkeys((
        "BudgetError", "BudgetTooTight", "CheckpointError", "DataError", "ExportError", "MeasurementError",
        "MissingDependency", "OutputError", "ParameterError", "RecordError", "ScheduleError", "TargetError",
        "TavtError", "TrainingError", "UnknownName", "UnsupportedBackbone",
    ), "errors"),
    **{name: f"workflows.{name}" for name in (
        "average", "check", "compare", "evaluate", "explain", "export", "fit", "predict", "profile", "prune", "report",
        "train",
    )},
    **dict.fromkeys(("AdaptiveViT", "LeanViT", "wrap"), "models.wrap"),
    **dict.fromkeys(("convert_checkpoint", "load_model"), "checkpoints"),
    "Accuracy": "core.accuracy",
    "Budget": "core.budget",
    "Candidate": "core.candidate",
    "Measurement": "core.measurement",
    "ParetoFront": "core.front",
    "Preprocessing": "data.preprocess",
    "TargetDevice": "core.device",
    "TokenLayout": "core.layout",
    "TokenSchedule": "core.schedule",
    "count_macs": "models.flops",
}  # fmt: skip

_PACKAGES = ("bench", "distill", "search")
"""Parts whose name is a workflow too: the package itself can be called."""

__all__ = [
    "Accuracy", "AdaptiveViT", "Budget", "BudgetError", "BudgetTooTight", "Candidate", "CheckpointError", "DataError",
    "ExportError", "LeanViT", "Measurement", "MeasurementError", "MissingDependency", "OutputError", "ParameterError",
    "ParetoFront", "Preprocessing", "RecordError", "ScheduleError", "TargetDevice", "TargetError", "TavtError",
    "TokenLayout", "TokenSchedule", "TrainingError", "UnknownName", "UnsupportedBackbone", "__version__", "average",
    "bench", "check", "compare", "convert_checkpoint", "count_macs", "distill", "evaluate", "explain", "export", "fit",
    "load_model", "predict", "profile", "prune", "report", "search", "train", "wrap",
]  # fmt: skip


class _TorchvisionFinder:
    """Lets torchvision be imported beside a CPU-only torch, ``import timm`` with it; see ``vision_ops``.

    Nothing happens before somebody imports torchvision, and nothing where it is whole.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Torchvision's own spec, but that missing operators are declared before its code runs."""
        spec = PathFinder.find_spec(name) if name == "torchvision" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def declare_and_execute(module: ModuleType) -> None:
            importlib.import_module("tavt_kit.models.vision_ops").declare_missing_ops()
            execute(module)

        spec.loader.exec_module = declare_and_execute  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _TorchvisionFinder)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"tavt_kit.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tavt_kit' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"tavt_kit.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
