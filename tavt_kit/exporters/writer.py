"""Writer: one model at one or more schedules, written in any form and opened again; conversions are shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.checks import Artifact
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Arrays, ImageSet, Sample, load_arrays, thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.options import EXPORTERS, Form, Plan

if TYPE_CHECKING:
    from tavt_kit.exporters.quantize import Examples
    from tavt_kit.models.wrap import AdaptiveViT

HELD_OUT = 200
"""Other training images, at most, by which the way of quantizing is chosen."""


def describe(adaptive: AdaptiveViT, schedule: TokenSchedule) -> ArtifactCard:
    """The f32 card of a model that ``load_model`` read, at a schedule."""
    schedule.check(adaptive.layout)
    model = replace(adaptive.require_card(), schedule=None)
    return ArtifactCard(model, schedule, adaptive.tokens, adaptive.prefix)


@dataclass(slots=True)
class Writer:
    """See the module. Schedules are by the forms' labels; of a switchable form the presets, cheapest first."""

    adaptive: AdaptiveViT
    schedules: Mapping[str, TokenSchedule]
    images: ImageSet
    plan: Plan = field(default_factory=Plan)
    progress: Progress = field(default_factory=Silent)
    _made: dict[str, Any] = field(default_factory=dict)

    def card_of(self, form: Form) -> ArtifactCard:
        """The card of one form; of int8 it says how it is to be calibrated."""
        presets = dict(self.schedules) if form.is_switchable else {}
        schedule = presets.get("balanced", next(iter(self.schedules.values())))
        described = describe(self.adaptive, schedule if presets else self.schedules[form.label])
        card = replace(described, precision=form.precision, presets=presets, pixels=self.plan.pixels)
        if form.precision != "int8":
            return card
        facts = {"split": "train", "images": len(self._calibrating()), "data": self.images.name}
        return card.quantized({**self.plan.int8.as_record(), **facts, "sha256": self.images.sha256})

    def write(self, form: Form, folder: Path) -> Artifact:
        """Write one form into ``folder`` and open it; raises as converters, quantizers and readers of images do."""
        path, card = folder / form.file, self.card_of(form)
        self.progress.update(f"writing {form.file}")
        if form.format == "safetensors":
            return self._write_safetensors(card, folder)
        if form.format == "onnx":
            self._write_onnx(card, path)
        else:
            self._write_openvino(card, path, form.label)
        return Artifact.open(path, self.plan.target)

    def _write_onnx(self, card: ArtifactCard, path: Path) -> None:
        import onnx

        from tavt_kit.exporters.preprocessing import OPSET, prepend_onnx
        from tavt_kit.exporters.quantize import halve
        from tavt_kit.exporters.to_onnx import save, to_onnx

        plain = replace(card, precision="f32", calibration=None, pixels=None)
        least = 0 if card.pixels is None else OPSET
        to_onnx(self.adaptive, plain, path, [(exporter, max(opset, least)) for exporter, opset in EXPORTERS])
        model = onnx.load(str(path))
        if card.precision == "int8":
            model, card = self._quantized(model, card)
        elif card.precision == "f16":
            model = halve(model)
        if card.pixels is not None:
            model = prepend_onnx(model, card)
        save(model, card, path)

    def _write_openvino(self, card: ArtifactCard, path: Path, label: str) -> None:
        from tavt_kit.exporters.to_openvino import convert, save

        key = f"model {label}"
        if key not in self._made:
            self._made[key] = convert(self.adaptive, card)
        model = self._made[key]
        if card.precision == "int8":
            model, card = self._quantized(model, card)
        save(model, card, path)

    def _quantized(self, model: Any, card: ArtifactCard) -> tuple[Any, ArtifactCard]:
        from tavt_kit.exporters.quantize import make_int8

        made, record = make_int8(model, card, self._examples(), self.plan.int8, self.progress)
        return made, card.quantized({**(card.calibration or {}), **record})

    def _calibrating(self) -> list[Sample]:
        """As many as asked for, but no more than leave a quarter of the split to choose by."""
        train = self.images.split("train")
        return list(thin_out(train, min(self.plan.calibrate, max(1, 3 * len(train) // 4))))

    def _examples(self) -> Examples:
        """Read once for all files."""
        if "examples" not in self._made:
            self.progress.update("reading training images to calibrate on")
            calibrating = self._calibrating()
            taken = {sample.path for sample in calibrating}
            held_out = thin_out([sample for sample in self.images.split("train") if sample.path not in taken], HELD_OUT)
            preprocessing = Preprocessing.from_record(self.adaptive.require_card().preprocessing)
            first = load_arrays(calibrating, preprocessing)
            spare = load_arrays(held_out, preprocessing) if held_out else Arrays(first.images[:0], first.labels[:0])
            from tavt_kit.exporters.quantize import Examples

            self._made["examples"] = Examples(first.images, spare.images, spare.labels)
        examples: Examples = self._made["examples"]
        return examples

    def _write_safetensors(self, card: ArtifactCard, folder: Path) -> Artifact:
        """The weights and the model card with its schedule, read back and rebuilt in torch."""
        from tavt_kit.checkpoints import load_model, save_model
        from tavt_kit.models.wrap import LeanViT
        from tavt_kit.runtimes import open_module

        save_model(folder, self.adaptive, replace(card.model, schedule=card.schedule.counts))
        lean = LeanViT(load_model(folder)).eval()
        session = open_module(lean, TargetDevice("torch", "cpu"), (1, 3, *card.image_size))
        return Artifact("model.safetensors", card, session, (folder / "model.json", folder / "model.safetensors"))
