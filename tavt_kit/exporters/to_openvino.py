"""OpenVINO: converted from the module, static token counts, dynamic batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import openvino

from tavt_kit.adaptive import AdaptiveViT, LeanViT
from tavt_kit.artifact_card import METADATA_KEY, ArtifactCard
from tavt_kit.exporters.to_onnx import INPUT, OUTPUT, example_images
from tavt_kit.runtimes.on_openvino import convert_module

__all__ = ["convert", "save", "to_openvino"]

_log = logging.getLogger(__name__)


def to_openvino(adaptive: AdaptiveViT, card: ArtifactCard, path: Path) -> None:
    """Write the model at the card's schedule as ``.xml`` and ``.bin``, with the card inside.

    Args:
        adaptive: The wrapped model; it stays as it is.
        card: Its schedule, image size, precision (``f32`` or ``f16``) and metadata.
        path: The ``.xml`` file; its folder exists.

    Raises:
        ExportError: OpenVINO cannot convert the model.
    """
    save(convert(adaptive, card), card, path)


def convert(adaptive: AdaptiveViT, card: ArtifactCard) -> Any:
    """An ``openvino.Model`` in f32; input ``images`` (?, 3, H, W), output ``logits`` (?, classes).

    Kept tokens are chosen by a stable sort, which OpenVINO's own converter keeps (ties at the lowest index); going
    through ONNX would lose that.

    Raises:
        ExportError: OpenVINO cannot convert the model.
    """
    lean = LeanViT(adaptive, card.schedule, selection="argsort").eval()
    model = convert_module(lean, (example_images(card),), [(-1, 3, *card.image_size)])
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    return model


def save(model: Any, card: ArtifactCard, path: Path) -> None:
    """Write a model with its card; ``f16`` halves the weights, which the runtime may widen again."""
    model.set_rt_info(card.as_text(), METADATA_KEY)
    openvino.save_model(model, path, compress_to_fp16=card.precision == "f16")
    _log.info("wrote %s: %d operators", path.name, len(model.get_ops()))
