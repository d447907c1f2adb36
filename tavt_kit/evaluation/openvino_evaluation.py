"""Accuracy of schedules by OpenVINO: the model is converted once, with the token counts as an input."""

from __future__ import annotations

import time
from typing import Any

import torch

from tavt_kit.core.device import TargetDevice
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.switchable_evaluation import SwitchableEvaluator
from tavt_kit.models.wrap import AdaptiveViT, SwitchableViT
from tavt_kit.runtimes.on_openvino import OpenvinoSession, convert_module

__all__ = ["openvino_evaluator"]


def openvino_evaluator(
    model: AdaptiveViT, pixels: Any, labels: Any, preprocessing: Preprocessing, *, precision: str = "f32",
    threads: int | None = None, **more: Any,
) -> SwitchableEvaluator:  # fmt: skip
    """An evaluator on the CPU, compiled.

    Args:
        model: As of ``LeanEvaluator``, with what follows.
        pixels: Likewise.
        labels: Likewise.
        preprocessing: Likewise.
        precision: OpenVINO's: ``f32`` or ``bf16``.
        threads: Of the processor; ``None`` for all.
        more: What else a ``LeanEvaluator`` takes.

    Raises:
        ExportError: OpenVINO cannot convert the model.
        TargetError: The processor does not run the precision.
    """
    begin, size, layers = time.perf_counter(), preprocessing.image_size, model.layers
    dense = model.dense_schedule.counts
    module = convert_module(
        SwitchableViT(model).eval(), (torch.rand(2, 3, *size), torch.tensor(dense)), [(-1, 3, *size), (layers,)]
    )
    target = TargetDevice("openvino", "cpu", threads=threads, precision=precision)
    session = OpenvinoSession(module, target, begin, of_file=False, lengths=dense)
    return SwitchableEvaluator(model, pixels, labels, preprocessing, precision=precision, session=session, **more)
