"""The forms a model is shipped in: a format and a precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tavt_kit.device import read_precision
from tavt_kit.errors import ExportError, TargetError

__all__ = ["FORMATS", "Form", "forms_of"]

FORMATS = {"onnx": ("f32", "int8"), "openvino": ("f32", "f16", "int8"), "safetensors": ("f32",)}
"""Formats, each with the precisions its weights are stored in."""

_WHY_NOT = {
    ("onnx", "f16"): "onnxruntime computes f16 on a CPU by casting to and fro, slower than f32",
    ("safetensors", "int8"): "safetensors hold what training goes on from",
    ("safetensors", "f16"): "safetensors hold what training goes on from",
}


@dataclass(frozen=True, slots=True)
class Form:
    """One file to write.

    Raises:
        ExportError: An unknown format, or a precision the format is not written in.
    """

    format: str
    precision: str = "f32"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ExportError(f"a model is exported as {', '.join(FORMATS)}, got {self.format!r}")
        try:
            object.__setattr__(self, "precision", read_precision(self.precision))
        except TargetError as error:
            raise ExportError(str(error)) from None
        if self.precision not in FORMATS[self.format]:
            why = "" if self.precision == "bf16" else _WHY_NOT.get((self.format, self.precision), "")
            if self.precision == "bf16":
                why = "bf16 is how a file is run (--target openvino:cpu:precision=bf16), not how it is stored"
            raise ExportError(
                f"{self.format} is exported in {' or '.join(FORMATS[self.format])}, got {self.precision}"
                + (f": {why}" if why else "")
            )

    @property
    def file(self) -> str:
        """The name of the file that is opened."""
        if self.format == "safetensors":
            return "model.safetensors"
        return f"model.{self.precision}{'.onnx' if self.format == 'onnx' else '.xml'}"


def forms_of(formats: Iterable[str], precisions: Iterable[str]) -> tuple[Form, ...]:
    """Every format in every precision, each once; texts may be lists with commas.

    Raises:
        ExportError: As ``Form``, or none is asked for.

    Example:
        >>> [form.file for form in forms_of(["onnx,openvino"], ["f32"])]
        ['model.f32.onnx', 'model.f32.xml']
    """
    found = [Form(kind, how) for kind in _words(formats) for how in _words(precisions)]
    if not found:
        raise ExportError(f"name a format ({', '.join(FORMATS)}) and a precision")
    return tuple(dict.fromkeys(found))


def _words(texts: Iterable[str]) -> list[str]:
    return [word.strip().lower() for text in texts for word in text.split(",") if word.strip()]
