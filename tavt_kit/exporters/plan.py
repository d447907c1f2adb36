"""Plan and Exported: what is asked of an export, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.checks import Gate
from tavt_kit.core.device import TargetDevice
from tavt_kit.exporters.forms import Form
from tavt_kit.exporters.int8 import Int8Options
from tavt_kit.exporters.onnx_options import OnnxOptions
from tavt_kit.exporters.writer import DEFAULT_IMAGES


@dataclass(frozen=True, slots=True)
class Plan:
    """What to export and how to judge it.

    Args:
        forms: The files.
        gate: What they may lose.
        split: Of the check's images; ``None`` takes ``test``, else ``val``.
        limit: Images of the check; ``None`` takes all.
        calibrate: Training images that int8 is calibrated on.
        dense: Whether to compare with the dense model too.
        accept_inconclusive: Whether an INCONCLUSIVE file gets its final name.
        allow_unreadable: Images that may be skipped.
        target: Where the files are run; ``None`` for each one's own runtime on the CPU.
        onnx: Which of torch's exporters writes ONNX, and which opset.
        int8: How int8 is made.
        tensorrt: Whether ONNX files must be such as TensorRT takes.
        share: Whether ONNX files keep their weights in one file beside them.
    """

    forms: tuple[Form, ...]
    gate: Gate = Gate()
    split: str | None = None
    limit: int | None = None
    calibrate: int = DEFAULT_IMAGES
    dense: bool = True
    accept_inconclusive: bool = False
    allow_unreadable: int = 0
    target: TargetDevice | None = None
    onnx: OnnxOptions = OnnxOptions()
    int8: Int8Options = Int8Options()
    tensorrt: bool = False
    share: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export left.

    Args:
        folder: Where.
        entries: One for each form, as ``exported.json`` has them.
        checks: Their checks, as ``check.json`` has them; of a switchable file one for each preset.
    """

    folder: Path
    entries: tuple[Mapping[str, Any], ...]
    checks: tuple[Mapping[str, Any], ...]

    @property
    def settled(self) -> bool:
        """Whether every file got its final name."""
        return all(entry["status"] == "final" for entry in self.entries)
