"""ONNX: static token counts, dynamic batch; run once before it is handed over.

torch has two exporters. The tracing one (opset 17) writes the graph in a third of a second where the dynamo one (opset
18) takes five or more, runs equally fast in onnxruntime, and only its graph can be quantized by NNCF. But it lacks
operators (RMS norm) and writes a wrong graph for others (``repeat_interleave`` in rope_mixed: an invalid Expand). So it
is asked first, its graph is compared with torch at three batch sizes, and the other one is asked where it fails.
All of this was measured on torch 2.13, onnxruntime 1.31 and nncf 3.4.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tavt_kit.adaptive import AdaptiveViT, LeanViT
from tavt_kit.artifact_card import METADATA_KEY, ArtifactCard
from tavt_kit.device import TargetDevice
from tavt_kit.errors import ExportError
from tavt_kit.runtimes import open_file

__all__ = ["INPUT", "OPSETS", "OUTPUT", "attach_card", "example_images", "to_onnx"]

INPUT, OUTPUT = "images", "logits"
OPSETS = {"tracing": 17, "dynamo": 18}

_TRACED = 2  # a batch of one would be baked into the graph
_BATCHES = (1, _TRACED, 3)
_TOLERANCE = 1e-3  # of the largest logit; a right graph differs by 1e-6
_LARGEST = 2**31  # bytes of a protobuf file

_log = logging.getLogger(__name__)


def to_onnx(adaptive: AdaptiveViT, card: ArtifactCard, path: Path) -> str:
    """Write the model at the card's schedule as one ``.onnx`` file, with the card inside.

    Kept tokens are chosen by TopK, whose ties ONNX defines to stay at the lowest index, as onnxruntime has it
    (OpenVINO's importer has not); a stable sort cannot be exported.

    Args:
        adaptive: The wrapped model; it stays as it is.
        card: Its schedule, image size and metadata.
        path: The file; its folder exists.

    Returns:
        The exporter that wrote it, ``"tracing"`` or ``"dynamo"``.

    Raises:
        ExportError: Neither exporter writes a graph that agrees with torch, or the model is larger than one ONNX file
            can be.
    """
    _check_size(adaptive)
    lean = LeanViT(adaptive, card.schedule, selection="topk").eval()
    reasons = []
    for exporter, opset in OPSETS.items():
        reason = _write(lean, card, path, exporter, opset) or _disagreement(lean, card, path)
        if reason is None:
            _finish(path, card)
            _log.info("wrote %s by torch's %s exporter, opset %d", path.name, exporter, opset)
            return exporter
        _log.info("torch's %s exporter failed: %s", exporter, reason)
        reasons.append(f"{exporter}: {reason}")
    path.unlink(missing_ok=True)
    raise ExportError(
        f"exporting {card.model.name} with schedule {card.schedule} to ONNX failed ({'; '.join(reasons)}); "
        "try --format openvino"
    )


def attach_card(model: onnx.ModelProto, card: ArtifactCard) -> None:
    """Put the card into the model's metadata, in place of any other."""
    others = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: card.as_text()})


def example_images(card: ArtifactCard, batch: int = _TRACED) -> torch.Tensor:
    """(batch, 3, H, W) noise; always the same, and of no constant patch."""
    return torch.rand(batch, 3, *card.image_size, generator=torch.Generator().manual_seed(batch))


def _write(lean: LeanViT, card: ArtifactCard, path: Path, exporter: str, opset: int) -> str | None:
    """Write the graph; None, or why it could not be written."""
    common: Any = {"opset_version": opset, "input_names": [INPUT], "output_names": [OUTPUT]}
    try:
        with _silenced(), torch.no_grad():
            if exporter == "tracing":
                axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
                torch.onnx.export(lean, (example_images(card),), str(path), dynamo=False, dynamic_axes=axes, **common)
            else:
                shapes = ({0: torch.export.Dim("batch")},)
                torch.onnx.export(
                    lean,
                    (example_images(card),),
                    str(path),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    external_data=False,
                    verbose=False,
                    **common,
                )
    except Exception as error:  # the exporters raise whatever the failing operator raises
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _disagreement(lean: LeanViT, card: ArtifactCard, path: Path) -> str | None:
    """Run the file at three batch sizes; None, or where it leaves torch.

    One image in all may differ: where two tokens score equal to the last bits, both choices are right.
    """
    strayed = []
    try:
        session = open_file(path, TargetDevice("onnxruntime", "cpu"))
        for batch in _BATCHES:
            images = example_images(card, batch)
            with torch.inference_mode():
                expected = lean(images).float().numpy()
            error = np.abs(session(images.numpy()) - expected).max(axis=1) / max(np.abs(expected).max(), 1e-12)
            strayed += [(batch, float(worst)) for worst in error if not worst <= _TOLERANCE]
    except Exception as error:  # onnxruntime's exceptions have no parent of their own
        return _first_line(error)
    if len(strayed) <= 1:
        return None
    batch, worst = strayed[0]
    return f"its logits differ from torch's by {100 * worst:.2g} % of the largest at batch {batch}"


def _finish(path: Path, card: ArtifactCard) -> None:
    model = onnx.load(str(path))
    attach_card(model, card)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _check_size(adaptive: AdaptiveViT) -> None:
    size = sum(weight.numel() * weight.element_size() for weight in adaptive.state_dict().values())
    if size >= _LARGEST:
        raise ExportError(
            f"one ONNX file holds at most 2 GiB, but the model has {size / 2**30:.1f} GiB of weights; "
            "use --format openvino"
        )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Both exporters warn of every constant token count, and print and log what they skip."""
    chatty = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:200] if lines else "no reason given"
