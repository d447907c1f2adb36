"""Models of a search as int8 files: quantized as ``fgvc-kit export`` does it, on training pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tavt_kit.checks import Artifact
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.exporters.forms import SWITCHABLE, Form
from tavt_kit.exporters.int8 import Int8How
from tavt_kit.exporters.writer import Writer
from tavt_kit.runtimes import FileSession
from tavt_kit.verbs.search_live import say_stage
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["int8_session", "write_int8"]

_CALIBRATE = 100
"""Training pictures; as many others at most choose whether SmoothQuant helps."""

_DROPPED = {"steep": 0.25, "mild": 0.1, "dense": 0.0}
"""In every layer: the schedules that a file for all schedules is calibrated at, in turns."""


def write_int8(
    subject: Subject,
    request: Request,
    model: AdaptiveViT,
    schedules: Mapping[str, TokenSchedule],
    folder: Path,
    label: str = "",
) -> Artifact:
    """The file for the target's runtime, opened on the target.

    Args:
        subject: Has the training pictures.
        request: Names the target, which is here.
        model: With its card.
        schedules: As of ``Writer``.
        folder: For the file.
        label: Which of the schedules, or ``SWITCHABLE`` for a file whose counts are an input.

    Raises:
        ExportError: The model cannot be converted or quantized.
        DataError: Too many training pictures cannot be read.
    """
    target = request.target
    assert target is not None  # quantized for a machine
    form = Form("openvino" if target.runtime == "openvino" else "onnx", "int8", label)
    how = Int8How("nncf" if target.runtime == "openvino" else "onnxruntime")
    opened = replace(target, precision="f32")  # a quantized file says itself what is in 8 bits
    writer = Writer(model, schedules, subject.images, _CALIBRATE, request.allow_unreadable, opened, int8=how)
    return writer.write(form, folder)


def int8_session(
    subject: Subject, request: Request, model: AdaptiveViT, executed: tuple[int, ...] | None = None
) -> FileSession:
    """The model, or a variant of it, in one int8 file for all schedules of the layers that run; made once.

    Raises:
        TavtError: As ``write_int8``.
    """
    key = id(model), executed
    if key not in subject.quantized:
        schedules = {
            name: TokenSchedule.taper(model.tokens, model.layers, ratio, model.prefix, executed)
            for name, ratio in _DROPPED.items()
        }
        size = "x".join(map(str, model.backbone.image_size))
        fewer = "" if executed is None else f" with {len(executed)} layers"
        say_stage(f"Quantizing the model at {size} px{fewer}, so that it answers in int8; about a minute.")
        with tempfile.TemporaryDirectory(prefix="fgvc-kit-int8-") as folder:
            written = write_int8(subject, request, model, schedules, Path(folder), SWITCHABLE)
        subject.quantized[key] = cast(FileSession, written.session)
    return subject.quantized[key]
