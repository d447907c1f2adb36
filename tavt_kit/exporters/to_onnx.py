"""ONNX: dynamic batch, token counts frozen in or (switchable) a second input; run before it is handed over.

torch has two exporters. The tracing one (from opset 17) writes the graph in a third of a second where the dynamo one
(from opset 18) takes five or more, runs equally fast in onnxruntime, and only its graph can be quantized by NNCF. But
it lacks operators (RMS norm) and writes a wrong graph for others (``repeat_interleave`` in rope_mixed: an invalid
Expand). So it is asked first, its graph is compared with torch at three batch sizes, and the other one is asked where
it fails. All of this was measured on torch 2.13, onnxruntime 1.31 and nncf 3.4.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError
from tavt_kit.exporters.culprit import refused_layer
from tavt_kit.exporters.onnx_file import LARGEST, finish
from tavt_kit.exporters.onnx_options import OnnxOptions
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, SwitchableViT
from tavt_kit.runtimes import open_file
from tavt_kit.runtimes.onnx_graph import quiet_exporters
from tavt_kit.runtimes.session import LENGTHS

INPUT, OUTPUT = "images", "logits"

_TRACED = 2  # a batch of one would be baked into the graph
_BATCHES = (1, _TRACED, 3)
_TOLERANCE = 1e-3  # of the largest logit; a right graph differs by 1e-6

_log = logging.getLogger(__name__)


def to_onnx(adaptive: AdaptiveViT, card: ArtifactCard, path: Path, how: OnnxOptions | None = None) -> str:
    """Write the model at the card's schedule, or with its counts as an input, with the card inside.

    Kept tokens are chosen by TopK, whose ties ONNX defines to stay at the lowest index, as onnxruntime has it
    (OpenVINO's importer has not); a stable sort cannot be exported. A switchable graph sorts all tokens by TopK and
    takes the first.

    Args:
        adaptive: The wrapped model; it stays as it is.
        card: Its schedule, image size and metadata; with presets the file becomes switchable.
        path: The file; its folder exists. Of a model too large for one file the weights lie beside it.
        how: Which exporter and opset; by default what works.

    Returns:
        The exporter that wrote it, ``"tracing"`` or ``"dynamo"``.

    Raises:
        ExportError: No exporter writes a graph that agrees with torch; the message names the layer where one is at
            fault.
        UnsupportedBackbone: Nothing of the model can be dropped, but the card has presets.
    """
    module = _module(adaptive, card)
    reasons = []
    for exporter, opset in (how or OnnxOptions()).attempts:
        reason = _write(module, card, path, exporter, opset) or _disagreement(module, card, path)
        if reason is None:
            finish(path, card)
            _log.info("wrote %s by torch's %s exporter, opset %d", path.name, exporter, opset)
            return exporter
        _log.info("torch's %s exporter failed: %s", exporter, reason)
        reasons.append((exporter, opset, reason))
        path.unlink(missing_ok=True)
    at = f"schedule {card.schedule}" if not card.is_switchable else "switchable counts"
    said = "; ".join(f"{exporter}, opset {opset}: {reason}" for exporter, opset, reason in reasons)
    layer = _culprit(adaptive, card, *reasons[-1][:2])
    raise ExportError(
        f"exporting {card.model.name} with {at} to ONNX failed{f' at layer {layer}' if layer else ''} ({said}); "
        "try another `opset`, or `format` openvino"
    )


def example_images(card: ArtifactCard, batch: int = _TRACED) -> Tensor:
    """(batch, 3, H, W) noise; always the same, and of no constant patch."""
    return torch.rand(batch, 3, *card.image_size, generator=torch.Generator().manual_seed(batch))


def example_lengths(card: ArtifactCard) -> Tensor:
    """int64[layers]: the card's schedule, as a switchable graph takes it."""
    return torch.tensor(card.schedule.counts, dtype=torch.int64)


def _module(adaptive: AdaptiveViT, card: ArtifactCard) -> nn.Module:
    if card.is_switchable:
        return SwitchableViT(adaptive, "topk", card.schedule.executed, card.sites).eval()
    return LeanViT(adaptive, card.schedule, selection="topk").eval()


def _write(module: nn.Module, card: ArtifactCard, path: Path, exporter: str, opset: int) -> str | None:
    """Write the graph; None, or why it could not be written."""
    names, inputs = [INPUT], [example_images(card)]
    if card.is_switchable:
        names.append(LENGTHS)
        inputs.append(example_lengths(card))
    try:
        _export(module, tuple(inputs), path, exporter, opset, names)
    except OSError:
        raise
    except Exception as error:  # the exporters raise whatever the failing operator raises
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, exporter: str, opset: int, names: list[str]
) -> None:
    common: Any = {"opset_version": opset, "input_names": names, "output_names": [OUTPUT]}
    with quiet_exporters(), torch.no_grad():
        if exporter == "tracing":
            axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
            torch.onnx.export(module, inputs, str(path), dynamo=False, dynamic_axes=axes, **common)
        else:
            shapes = ({0: torch.export.Dim("batch")}, *(None for _ in inputs[1:]))
            # This exporter puts weights elsewhere unless told; one file is better while it is large enough.
            large = sum(weight.nbytes for weight in module.state_dict().values()) > LARGEST
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=large,
                verbose=False,
                **common,
            )


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
        return _first_line(error)
    if len(strayed) <= 1:
        return None
    batch, worst = strayed[0]
    return f"its logits differ from torch's by {100 * worst:.2g} % of the largest at batch {batch}"


def _culprit(adaptive: AdaptiveViT, card: ArtifactCard, exporter: str, opset: int) -> str | None:
    """The layer that one exporter refuses by itself."""

    def convert(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder, quiet_exporters(), torch.no_grad():
            path = str(Path(folder) / "part.onnx")
            torch.onnx.export(part, inputs, path, dynamo=exporter == "dynamo", opset_version=opset)

    return refused_layer(adaptive.bare, example_images(card), convert)


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:200] if lines else "no reason given"
