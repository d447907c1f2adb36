"""ONNX: dynamic batch, token counts frozen in or (switchable) a second input; run before it is handed over.

torch's tracing exporter writes in a third of a second where the dynamo one takes five or more, and only its graph can
be quantized by NNCF. But it lacks operators (RMS norm) and writes a wrong graph for others (``repeat_interleave`` in
rope_mixed). So it is asked first, its graph is compared with torch at three batch sizes, and the other one is asked
where it fails (torch 2.13, onnxruntime 1.31, nncf 3.4).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tavt_kit.core.artifact_card import METADATA_KEY, SEAL_KEY, WEIGHTS_SUFFIX, ArtifactCard, seal
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError, first_line
from tavt_kit.exporters.options import EXPORTERS
from tavt_kit.models.token_reduction import Selection
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, SwitchableViT
from tavt_kit.runtimes import open_file
from tavt_kit.runtimes.session import INPUT, LENGTHS
from tavt_kit.runtimes.suppress_output import quiet_exporters

OUTPUT = "logits"

_TRACED = 2  # a batch of one would be baked into the graph
_BATCHES = (1, _TRACED, 3)
_TOLERANCE = 1e-3  # of the largest logit; a right graph differs by 1e-6

_log = logging.getLogger(__name__)


def to_onnx(
    adaptive: AdaptiveViT, card: ArtifactCard, path: Path, exporters: Sequence[tuple[str, int]] = EXPORTERS
) -> str:
    """Write the model at the card's schedule, or with its counts as an input, with the card inside.

    Kept tokens are chosen by TopK, whose ties ONNX defines to stay at the lowest index, as onnxruntime has it
    (OpenVINO's importer has not); a stable sort cannot be exported. With presets on the card the file becomes
    switchable.

    Returns:
        The exporter that wrote it, ``"tracing"`` or ``"dynamo"``.

    Raises:
        ExportError: No exporter writes a graph that agrees with torch.
        UnsupportedBackbone: Nothing of the model can be dropped, but the card has presets.
    """
    module, inputs = traceable(adaptive, card, "topk")
    reasons = []
    for exporter, opset in exporters:
        reason = _write(module, inputs, path, exporter, opset) or _disagreement(module, card, path)
        if reason is None:
            finish(path, card)
            _log.info("wrote %s by torch's %s exporter, opset %d", path.name, exporter, opset)
            return exporter
        _log.info("torch's %s exporter failed: %s", exporter, reason)
        reasons.append((exporter, opset, reason))
        path.unlink(missing_ok=True)
    at = f"schedule {card.schedule}" if not card.is_switchable else "switchable counts"
    said = "; ".join(f"{exporter}, opset {opset}: {reason}" for exporter, opset, reason in reasons)
    raise ExportError(f"exporting {card.model.name} with {at} to ONNX failed ({said}); try `format` openvino")


def example_images(card: ArtifactCard, batch: int = _TRACED) -> Tensor:
    """(batch, 3, H, W) noise; always the same, and of no constant patch."""
    return torch.rand(batch, 3, *card.image_size, generator=torch.Generator().manual_seed(batch))


def traceable(adaptive: AdaptiveViT, card: ArtifactCard, selection: Selection) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module that a file of this card is made from, and its example inputs: images, and counts if switchable."""
    images = example_images(card)
    if not card.is_switchable:
        return LeanViT(adaptive, card.schedule, selection).eval(), (images,)
    module = SwitchableViT(adaptive, selection, card.schedule.executed, card.sites)
    return module.eval(), (images, torch.tensor(card.schedule.counts, dtype=torch.int64))


def _write(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, exporter: str, opset: int) -> str | None:
    """Write the graph; None, or why it could not be written."""
    how: dict[str, Any] = {"dynamic_axes": {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}}
    if exporter == "dynamo":
        # This exporter puts weights elsewhere unless told; one file is better while it is large enough.
        large = sum(weight.nbytes for weight in module.state_dict().values()) > LARGEST
        shapes = ({0: torch.export.Dim("batch")}, *(None for _ in inputs[1:]))
        how = {"dynamic_shapes": shapes, "external_data": large, "verbose": False}
    names = [INPUT, LENGTHS][: len(inputs)]
    try:
        with quiet_exporters(), torch.no_grad():
            torch.onnx.export(
                module, inputs, str(path), dynamo=exporter == "dynamo", opset_version=opset, input_names=names,
                output_names=[OUTPUT], **how,
            )  # fmt: skip
    except OSError:
        raise
    except Exception as error:  # the exporters raise whatever the failing operator raises
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def _disagreement(module: nn.Module, card: ArtifactCard, path: Path) -> str | None:
    """Run the file at three batch sizes, a switchable one at each preset; None, or where it leaves torch.

    One image in all may differ: where two tokens score equal to the last bits, both choices are right.
    """
    strayed = []
    schedules: list[TokenSchedule | None] = list(dict.fromkeys(card.presets.values())) or [None]
    try:
        session = open_file(path, TargetDevice("onnxruntime", "cpu"), card.lengths)
        for schedule in schedules:
            run = session if schedule is None else session.at(schedule.counts)
            lengths = () if schedule is None else (torch.tensor(schedule.counts),)
            for batch in _BATCHES:
                images = example_images(card, batch)
                with torch.inference_mode():
                    expected = module(images, *lengths).float().numpy()
                error = np.abs(run(images.numpy()) - expected).max(axis=1) / max(np.abs(expected).max(), 1e-12)
                strayed += [(batch, float(worst)) for worst in error if not worst <= _TOLERANCE]
    except Exception as error:  # onnxruntime's exceptions have no parent of their own
        return first_line(error)
    if len(strayed) <= 1:
        return None
    batch, worst = strayed[0]
    return f"its logits differ from torch's by {100 * worst:.2g} % of the largest at batch {batch}"


LARGEST = 2**31 - 2**24  # bytes of a protobuf file, less what the graph itself takes
_LEAST = 1024  # bytes of a tensor that is worth a place of its own


def attach_card(model: onnx.ModelProto, card: ArtifactCard) -> None:
    """Put the card into the model's metadata, in place of any other."""
    others = {entry.key: entry.value for entry in model.metadata_props if entry.key not in (METADATA_KEY, SEAL_KEY)}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: card.as_text()})


def finish(path: Path, card: ArtifactCard) -> None:
    """Put the card into a file just exported; weights that an exporter put elsewhere are gathered again."""
    strewn = {file for file in path.parent.iterdir() if file != path}
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    strewn &= {path.parent / name for name in places}
    save(onnx.load(str(path)), card, path)
    for file in strewn:
        file.unlink(missing_ok=True)
    onnx.checker.check_model(str(path))


def save(model: onnx.ModelProto, card: ArtifactCard, path: Path) -> None:
    """Write a model with its card; one too large for a file gets its weights into ``STEM-HASH.weights`` beside it."""
    tensors = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= _LEAST]
    if sum(len(tensor.raw_data) for tensor in tensors) > LARGEST:
        content = hashlib.sha256()
        for tensor in tensors:
            content.update(tensor.raw_data)
        card = replace(card, weights_file=f"{path.stem}-{content.hexdigest()[:8]}{WEIGHTS_SUFFIX}")
        for tensor in tensors:
            onnx.external_data_helper.set_external_data(tensor, str(card.weights_file))
        (path.parent / str(card.weights_file)).unlink(missing_ok=True)  # onnx would write behind what is there
    attach_card(model, card)
    onnx.save(model, str(path))
    seal(path)
