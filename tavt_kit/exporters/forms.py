"""The forms a model is shipped in: a format, a precision, and which of the schedules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tavt_kit.core.device import read_precision
from tavt_kit.errors import ExportError, TargetError

FORMATS = {
    "onnx": ("f32", "f16", "int8", "w8"),
    "openvino": ("f32", "f16", "bf16", "int8", "w8"),
    "safetensors": ("f32",),
}
"""Formats, each with the precisions it is written in; ``w8`` has weights of 8 bits and computes in float."""

SWITCHABLE = "switchable"

_WHY_NOT = {
    "onnx": "onnxruntime has no bf16 kernels on a CPU, and would run f32 instead",
    "safetensors": "safetensors hold what training goes on from",
}


@dataclass(frozen=True, slots=True)
class Form:
    """One file to write.

    Args:
        format: Of ``FORMATS``.
        precision: In which the weights are stored.
        label: Which of several schedules, ``""`` for the only one, or ``SWITCHABLE`` for all of them.

    Raises:
        ExportError: An unknown format, or a precision or label the format is not written in.
    """

    format: str
    precision: str = "f32"
    label: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ExportError(f"a model is exported as {', '.join(FORMATS)}, got {self.format!r}")
        object.__setattr__(self, "precision", _precision(self.precision))
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

    Raises:
        ExportError: As ``Form``, or none is asked for.

    Example:
        >>> [form.file for form in forms_of(["onnx,openvino"], ["f32"])]
        ['model.f32.onnx', 'model.f32.xml']
    """
    found = [Form(kind, how, label) for label in labels for kind in _words(formats) for how in _words(precisions)]
    if not found:
        raise ExportError(f"name a format ({', '.join(FORMATS)}) and a precision")
    return tuple(dict.fromkeys(found))


def _precision(text: str) -> str:
    if text == "w8":
        return text
    try:
        return read_precision(text)
    except TargetError as error:
        raise ExportError(f"{error}, or w8 for weights of 8 bits alone") from None


def _words(texts: Iterable[str]) -> list[str]:
    return [word.strip().lower() for text in texts for word in text.split(",") if word.strip()]
