"""Writer: one model at one schedule, written in any form and opened again; conversions are shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.artifact_card import ArtifactCard
from tavt_kit.checks import Artifact
from tavt_kit.data import ImageSet, load_arrays, thin_out
from tavt_kit.device import TargetDevice
from tavt_kit.exporters.forms import Form
from tavt_kit.exporters.quantize import DEFAULT_IMAGES, RECIPE
from tavt_kit.preprocess import Preprocessing
from tavt_kit.schedule import TokenSchedule

if TYPE_CHECKING:
    from tavt_kit.adaptive import AdaptiveViT

__all__ = ["Tell", "Writer", "describe", "silent"]

Tell = Callable[[str, float | None], None]
"""Told what is done now, and which share of it is done."""


def silent(doing: str, share: float | None) -> None:
    """A Tell that says nothing."""


def describe(adaptive: AdaptiveViT, schedule: TokenSchedule) -> ArtifactCard:
    """The f32 card of a model that ``load_model`` read, at a schedule.

    Raises:
        ScheduleError: The schedule does not fit the model.
    """
    schedule.check(tokens=adaptive.tokens, layers=adaptive.layers, prefix=adaptive.prefix)
    model: Any = adaptive.card
    model = replace(model, score=adaptive.score, pool=adaptive.pool)
    return ArtifactCard(model, schedule, adaptive.tokens, adaptive.prefix)


@dataclass(slots=True)
class Writer:
    """See the module.

    Args:
        adaptive: The wrapped model, with its card.
        schedule: The token counts to freeze.
        images: Whose ``train`` split int8 is calibrated on.
        calibrate: How many of them, spread evenly.
        allow_unreadable: How many of those may be skipped.
        target: Where files are opened; ``None`` for each one's own runtime on the CPU.
        tell: Told what is being done.
    """

    adaptive: AdaptiveViT
    schedule: TokenSchedule
    images: ImageSet
    calibrate: int = DEFAULT_IMAGES
    allow_unreadable: int = 0
    target: TargetDevice | None = None
    tell: Tell = silent
    _made: dict[str, Any] = field(default_factory=dict)

    def card_of(self, form: Form) -> ArtifactCard:
        """The card of one form; of int8 it says how it is calibrated."""
        card = describe(self.adaptive, self.schedule)
        if form.precision != "int8":
            return replace(card, precision=form.precision)
        count = len(thin_out(self.images.split("train"), self.calibrate))
        return card.quantized(
            {**RECIPE, "split": "train", "images": count, "data": self.images.name, "sha256": self.images.sha256}
        )

    def write(self, form: Form, folder: Path) -> Artifact:
        """Write one form into ``folder`` and open it.

        Raises:
            ExportError: A converter or quantizer refuses the model.
            DataError: Too many training images cannot be read.
        """
        path, card = folder / form.file, self.card_of(form)
        self.tell(f"writing {form.file}", None)
        if form.format == "safetensors":
            return _write_safetensors(self.adaptive, card, folder)
        if form.format == "onnx":
            self._write_onnx(card, path)
        else:
            self._write_openvino(card, path)
        return Artifact.open(path, self.target)

    def _write_onnx(self, card: ArtifactCard, path: Path) -> None:
        from tavt_kit.exporters.to_onnx import attach_card, to_onnx

        to_onnx(self.adaptive, card, path)
        if card.precision == "int8":
            import onnx

            from tavt_kit.exporters.quantize import quantize

            model = quantize(onnx.load(str(path)), self._calibration_images())
            attach_card(model, card)
            onnx.save(model, str(path))

    def _write_openvino(self, card: ArtifactCard, path: Path) -> None:
        from tavt_kit.exporters.to_openvino import convert, save

        if "model" not in self._made:
            self._made["model"] = convert(self.adaptive, card)
        model = self._made["model"]
        if card.precision == "int8":
            from tavt_kit.exporters.quantize import quantize

            model = quantize(model, self._calibration_images())
        save(model, card, path)

    def _calibration_images(self) -> Any:
        if "images" not in self._made:
            self.tell("reading training images to calibrate on", None)
            self._made["images"] = load_arrays(
                self.images.split("train"),
                Preprocessing.from_record(describe(self.adaptive, self.schedule).preprocessing),
                limit=self.calibrate,
                allow_unreadable=self.allow_unreadable,
            ).images
        self.tell("quantizing", None)
        return self._made["images"]


def _write_safetensors(adaptive: AdaptiveViT, card: ArtifactCard, folder: Path) -> Artifact:
    """The weights and the model card, read back and rebuilt in torch."""
    from tavt_kit.adaptive import LeanViT
    from tavt_kit.checkpoints import load_model, save_model
    from tavt_kit.runtimes import open_module

    save_model(folder, adaptive, card.model)
    lean = LeanViT(load_model(folder), card.schedule).eval()
    session = open_module(lean, TargetDevice("torch", "cpu"), (1, 3, *card.image_size))
    return Artifact("model.safetensors", card, session, (folder / "model.json", folder / "model.safetensors"))
