"""ONNX: static token counts, dynamic batch.

The exporter is torch's tracing one at opset 17: it writes the graph in a third of a second where the dynamo exporter
takes five, runs equally fast in onnxruntime, and its graph is the one of the two that NNCF can quantize (all measured on
torch 2.13, onnxruntime 1.31, nncf 3.4).
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from tavt_kit.adaptive import AdaptiveViT, LeanViT
from tavt_kit.errors import ExportError
from tavt_kit.exporters.artifact import METADATA_KEY, ArtifactCard

__all__ = ["INPUT", "OPSET", "OUTPUT", "attach_card", "example_images", "to_onnx"]

OPSET = 17
INPUT, OUTPUT = "images", "logits"

_BATCH = 2  # a batch of one would be baked into the graph
_LARGEST = 2**31  # bytes of a protobuf file

_log = logging.getLogger(__name__)


def to_onnx(adaptive: AdaptiveViT, card: ArtifactCard, path: Path) -> None:
    """Write the model at the card's schedule as one ``.onnx`` file, with the card inside.

    Kept tokens are chosen by TopK, which in onnxruntime and OpenVINO keeps ties at the lowest index; a stable sort
    cannot be exported.

    Args:
        adaptive: The wrapped model; it stays as it is.
        card: Its schedule, image size and metadata.
        path: The file; its folder exists.

    Raises:
        ExportError: torch cannot export the model, or it is larger than one ONNX file can be.
    """
    _check_size(adaptive)
    lean = LeanViT(adaptive, card.schedule, selection="topk").eval()
    batch = {0: "batch"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The token counts of one schedule are constants of its graph; tracing warns of each of them.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                lean,
                (example_images(card),),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: batch, OUTPUT: batch},
            )
    except Exception as error:  # the exporter raises whatever the failing operator raises
        raise ExportError(
            f"exporting {card.model.name} with schedule {card.schedule} to ONNX opset {OPSET} failed "
            f"({type(error).__name__}: {_first_line(error)}); try --format openvino"
        ) from error
    model = onnx.load(str(path))
    attach_card(model, card)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    _log.info("wrote %s: opset %d, %d nodes", path.name, OPSET, len(model.graph.node))


def attach_card(model: onnx.ModelProto, card: ArtifactCard) -> None:
    """Put the card into the model's metadata, in place of any other."""
    others = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: card.as_text()})


def example_images(card: ArtifactCard) -> torch.Tensor:
    """(2, 3, H, W) to trace with; always the same, and of no constant patch."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(_BATCH, 3, *card.image_size, generator=generator)


def _check_size(adaptive: AdaptiveViT) -> None:
    size = sum(weight.numel() * weight.element_size() for weight in adaptive.state_dict().values())
    if size >= _LARGEST:
        raise ExportError(
            f"one ONNX file holds at most 2 GiB, but the model has {size / 2**30:.1f} GiB of weights; "
            "use --format openvino"
        )


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
