"""What is asked of an export: forms, torch's exporter of ONNX, how int8 is made, and all of it as a ``Plan``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tavt_kit.checks import Gate
from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.device import TargetDevice, read_precision
from tavt_kit.errors import ExportError, TargetError

FORMATS = {"onnx": ("f32", "f16", "int8"), "openvino": ("f32", "f16", "bf16", "int8"), "safetensors": ("f32",)}
"""Formats, each with the precisions it is written in."""

SWITCHABLE = "switchable"

_WHY_NOT = {
    "onnx": "onnxruntime has no bf16 kernels on a CPU, and would run f32 instead",
    "safetensors": "safetensors hold what training goes on from",
}


@dataclass(frozen=True, slots=True)
class Form:
    """One file to write, of the schedule of a label: ``""`` for the only one, or ``SWITCHABLE`` for all of them."""

    format: str
    precision: str = "f32"
    label: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ExportError(f"a model is exported as {', '.join(FORMATS)}, got {self.format!r}")
        try:
            object.__setattr__(self, "precision", read_precision(self.precision))
        except TargetError as error:
            raise ExportError(str(error)) from None
        if self.precision not in FORMATS[self.format]:
            raise ExportError(
                f"{self.format} is exported in {' or '.join(FORMATS[self.format])}, got {self.precision}: "
                + _WHY_NOT[self.format]
            )
        if self.format == "safetensors" and self.label:
            raise ExportError(
                "safetensors are rebuilt in torch, where one model runs every schedule; give one schedule, and no "
                "`switchable`, for them"
            )

    @property
    def is_switchable(self) -> bool:
        """Whether the token counts become an input of the file."""
        return self.label == SWITCHABLE

    @property
    def file(self) -> str:
        """The name of the file that is opened."""
        if self.format == "safetensors":
            return "model.safetensors"
        label = f".{self.label}" if self.label else ""
        return f"model{label}.{self.precision}{'.onnx' if self.format == 'onnx' else '.xml'}"


def forms_of(formats: Iterable[str], precisions: Iterable[str], labels: Sequence[str] = ("",)) -> tuple[Form, ...]:
    """Every format in every precision for every schedule, each once; formats and precisions may be lists with commas.

    Example:
        >>> [form.file for form in forms_of(["onnx,openvino"], ["f32"])]
        ['model.f32.onnx', 'model.f32.xml']
    """

    def words(texts: Iterable[str]) -> list[str]:
        return [word.strip().lower() for text in texts for word in text.split(",") if word.strip()]

    wanted = words(formats), words(precisions)
    forms = [Form(format, precision, label) for label in labels for format, precision in product(*wanted)]
    if not forms:
        raise ExportError(f"name a format ({', '.join(FORMATS)}) and a precision")
    return tuple(dict.fromkeys(forms))


EXPORTERS = (("tracing", 17), ("dynamo", 18))
"""torch's exporters in the order in which they are asked, each with its oldest opset, which most runtimes read.

Below 17 there is no LayerNormalization, which would fall apart into nine operators."""

QUANTIZERS = ("nncf", "onnxruntime")
SMOOTH = {"both": (True, False), "on": (True,), "off": (False,)}

DEFAULT_IMAGES = 300
"""Training images that calibrate."""


@dataclass(frozen=True, slots=True)
class Int8Options(Record):
    """How int8 is made.

    Args:
        quantizer: ``"nncf"`` or ``"onnxruntime"`` (for ONNX alone); ``None`` tries all that suit the format.
        smooth: NNCF's SmoothQuant: ``"both"`` are tried, or ``"on"`` or ``"off"``.
    """

    quantizer: str | None = None
    smooth: str = field(default="both", metadata=recorded_as("smooth_quant"))

    def __post_init__(self) -> None:
        if self.quantizer is not None and self.quantizer not in QUANTIZERS:
            raise ExportError(f"int8 is made by {' or '.join(QUANTIZERS)}, got {self.quantizer!r}")
        if self.smooth not in SMOOTH:
            raise ExportError(f"SmoothQuant is tried {', '.join(SMOOTH)}, got {self.smooth!r}")

    def ways(self, format: str) -> list[dict[str, Any]]:
        """What is tried for a format; raises ExportError where nothing suits it."""
        if format == "openvino" and self.quantizer == "onnxruntime":
            raise ExportError("onnxruntime quantizes ONNX files, not OpenVINO's; leave out `quantizer`")
        nncf = [{"quantizer": "nncf", "smooth_quant": smooth} for smooth in SMOOTH[self.smooth]]
        static = [{"quantizer": "onnxruntime", "smooth_quant": False}] if format == "onnx" else []
        return [way for way in (*nncf, *static) if self.quantizer in (None, way["quantizer"])]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to export and how to judge it.

    Args:
        split: Split of the check's images; ``None`` takes ``test``, else ``val``.
        target: Where the files are run; ``None`` for each one's own runtime on the CPU.
        pixels: Order of the uint8 images that the files take and prepare themselves; ``None`` where they are prepared
            before.
        unlabelled: Folder of images without labels, which help to decide about a file (``checks.small_sets``).
    """

    forms: tuple[Form, ...] = ()
    gate: Gate = Gate()
    split: str | None = None
    limit: int | None = None
    calibrate: int = DEFAULT_IMAGES
    dense: bool = True
    accept_inconclusive: bool = False
    target: TargetDevice | None = None
    int8: Int8Options = Int8Options()
    pixels: str | None = None
    unlabelled: Path | None = None
