"""OnnxOptions: which of torch's two exporters writes an ONNX file, and in which opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tavt_kit.errors import ExportError

EXPORTERS = {"tracing": range(17, 21), "dynamo": range(18, 24)}
"""torch's exporters, each with the opsets it writes (torch 2.13). Below 17 there is no LayerNormalization, which would
fall apart into nine operators."""


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """How to write ONNX.

    Args:
        exporter: ``"tracing"`` or ``"dynamo"``; ``None`` tries both, tracing first.
        opset: ``None`` takes the oldest that the exporter writes, which most runtimes read.

    Raises:
        ExportError: An unknown exporter, or an opset that it does not write.

    Example:
        >>> OnnxOptions().attempts
        [('tracing', 17), ('dynamo', 18)]
        >>> OnnxOptions(opset=23).attempts
        [('dynamo', 23)]
    """

    exporter: str | None = None
    opset: int | None = None

    def __post_init__(self) -> None:
        if self.exporter is not None and self.exporter not in EXPORTERS:
            raise ExportError(f"torch's exporters are {', '.join(EXPORTERS)}, got {self.exporter!r}")
        if not self.attempts:
            asked = "" if self.exporter is None else f" by the {self.exporter} exporter"
            names = EXPORTERS if self.exporter is None else (self.exporter,)
            low, high = min(EXPORTERS[n][0] for n in names), max(EXPORTERS[n][-1] for n in names)
            raise ExportError(f"ONNX is written{asked} in opset {low} to {high}, got {self.opset}")

    @classmethod
    def parse(cls, exporter: str | None, opset: str | None) -> OnnxOptions:
        """From the command line, where an opset is a number or ``newest``.

        Raises:
            ExportError: As ``OnnxOptions``, or the opset is neither.
        """
        if opset is None or opset == "newest":
            return cls(exporter, None if opset is None else EXPORTERS[exporter or "dynamo"][-1])
        if not (opset.isascii() and opset.isdecimal()):
            raise ExportError(f"an opset is a number or newest, got {opset!r}")
        return cls(exporter, int(opset))

    @property
    def attempts(self) -> list[tuple[str, int]]:
        """The exporters to ask, in order, with the opset of each."""
        names = list(EXPORTERS) if self.exporter is None else [self.exporter]
        return [
            (name, EXPORTERS[name][0] if self.opset is None else self.opset)
            for name in names
            if self.opset is None or self.opset in EXPORTERS[name]
        ]

    def as_record(self) -> dict[str, Any] | None:
        """JSON-ready; ``None`` where nothing was asked for."""
        asked = {"exporter": self.exporter, "opset": self.opset}
        return asked if any(value is not None for value in asked.values()) else None
