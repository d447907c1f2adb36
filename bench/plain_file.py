"""A model under one schedule as the file that a runtime opens: by the exporters' defaults, or in int8 to be weighed."""

from __future__ import annotations

from pathlib import Path

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import AdaptiveViT


def write_plain(model: AdaptiveViT, schedule: TokenSchedule, path: Path) -> None:
    """Write the file that its suffix names, ``.onnx``, else OpenVINO's, in f32.

    Args:
        model: Wrapped, with its card.
        schedule: Whose counts the file has.
        path: Its folder exists.

    Raises:
        ExportError: The model cannot be written so.
    """
    card = ArtifactCard(model.require_card(), schedule, model.tokens, model.prefix)
    if path.suffix == ".onnx":
        from tavt_kit.exporters.to_onnx import to_onnx

        to_onnx(model, card, path)
    else:
        from tavt_kit.exporters.to_openvino import to_openvino

        to_openvino(model, card, path)


def write_int8(model: AdaptiveViT, schedule: TokenSchedule, path: Path, target: TargetDevice) -> None:
    """As ``write_plain`` for a target in int8, calibrated on random data: it weighs what a shipped one weighs.

    Raises:
        ExportError: The model cannot be written or quantized so.
    """
    from tavt_kit.bench.parts import whole_graph

    graph = whole_graph(model, schedule, target)
    if isinstance(graph, bytes):
        path.write_bytes(graph)
    else:
        import openvino

        openvino.save_model(graph, path, compress_to_fp16=False)
