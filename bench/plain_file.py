"""A model under one schedule as the file that a runtime opens: in f32, by the exporters' defaults."""

from __future__ import annotations

from pathlib import Path

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.artifact_card import ArtifactCard
from tavt_kit.model_card import ModelCard
from tavt_kit.schedule import TokenSchedule

__all__ = ["write_plain"]


def write_plain(model: AdaptiveViT, schedule: TokenSchedule, path: Path) -> None:
    """Write the file that its suffix names: ``.onnx``, else OpenVINO's.

    Args:
        model: Wrapped, with its card.
        schedule: Whose counts the file has.
        path: Its folder exists.

    Raises:
        ExportError: The model cannot be written so.
    """
    assert isinstance(model.card, ModelCard)  # what open_model promises
    card = ArtifactCard(model.card, schedule, model.tokens, model.prefix)
    if path.suffix == ".onnx":
        from tavt_kit.exporters.to_onnx import to_onnx

        to_onnx(model, card, path)
    else:
        from tavt_kit.exporters.to_openvino import to_openvino

        to_openvino(model, card, path)
