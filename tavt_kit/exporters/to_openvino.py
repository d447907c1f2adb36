"""OpenVINO: converted from the module, static token counts, dynamic batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import openvino

from tavt_kit.core.artifact_card import METADATA_KEY, ArtifactCard, seal
from tavt_kit.errors import ExportError
from tavt_kit.exporters.preprocessing import prepend_openvino
from tavt_kit.exporters.to_onnx import OUTPUT, traceable
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes.on_openvino import convert_module
from tavt_kit.runtimes.session import INPUT, LENGTHS

_log = logging.getLogger(__name__)


def to_openvino(adaptive: AdaptiveViT, card: ArtifactCard, path: Path) -> None:
    """Write the model at the card's schedule as ``.xml`` and ``.bin``, with the card inside; raises as ``convert``."""
    save(convert(adaptive, card), card, path)


def convert(adaptive: AdaptiveViT, card: ArtifactCard) -> Any:
    """An ``openvino.Model`` in f32; input ``images`` (?, 3, H, W), output ``logits`` (?, classes).

    With presets on the card, a second input ``lengths`` int64[layers] takes the token counts.

    Kept tokens are chosen by a stable sort, which OpenVINO's own converter keeps (ties at the lowest index); going
    through ONNX would lose that.

    Raises:
        ExportError: OpenVINO cannot convert the model.
        UnsupportedBackbone: Nothing of the model can be dropped, but the card has presets.
    """
    module, inputs = traceable(adaptive, card, "argsort")
    try:
        model = convert_module(module, inputs, [(-1, *inputs[0].shape[1:]), *(tuple(x.shape) for x in inputs[1:])])
    except ExportError as error:
        reason = str(error).partition(": ")[2].rpartition("; try")[0]
        raise ExportError(
            f"OpenVINO cannot convert {card.model.name}: {reason}; try `format` onnx, or safetensors for torch"
        ) from error
    if card.is_switchable:
        model.inputs[1].get_tensor().set_names({LENGTHS})
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    return name_by_place(model, card.model.name)  # before a quantizer derives names of its own from these


def save(model: Any, card: ArtifactCard, path: Path) -> None:
    """Write a model with its card; for ``f16`` and ``bf16`` weights are kept in f16, which the runtime widens again."""
    if card.pixels is not None:
        model = prepend_openvino(model, card)
    model = name_by_place(model, card.model.name)
    model.set_rt_info(card.as_text(), METADATA_KEY)
    openvino.save_model(model, path, compress_to_fp16=card.precision in ("f16", "bf16"))
    seal(path)
    _log.info("wrote %s: %d operators", path.name, len(model.get_ops()))


def name_by_place(model: Any, name: str) -> Any:
    """The model, its nodes named by their place in it where OpenVINO numbered them.

    It counts whatever a process made before, so that the same model would be other bytes after another one.
    """
    model.set_friendly_name(name)
    for place, node in enumerate(model.get_ordered_ops()):
        kind, _, number = node.get_friendly_name().rpartition("_")
        if kind.isalnum() and number.isdecimal():  # of what was traced it keeps the names, which have dots in them
            node.set_friendly_name(f"{kind}_{place}")
    return model
