"""Accuracy of schedules by OpenVINO: the model is converted once, with the token counts as an input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.adaptive import SwitchableViT
from tavt_kit.device import TargetDevice
from tavt_kit.errors import ScheduleError, TargetError
from tavt_kit.preprocess import normalise
from tavt_kit.runtimes.on_openvino import compile_for, convert_module, executed_precision
from tavt_kit.schedule import TokenSchedule
from tavt_kit.shared_evaluation import SharedEvaluator

__all__ = ["OpenvinoEvaluator"]


@dataclass(slots=True)
class OpenvinoEvaluator(SharedEvaluator):
    """A ``SharedEvaluator`` whose schedules run one after the other on each batch, on the CPU, compiled.

    Nothing is shared but the pictures; ``precision`` is OpenVINO's.

    Args:
        threads: Of the processor; ``None`` for all.

    Raises:
        ExportError: OpenVINO cannot convert the model.
        TargetError: The processor does not run the precision.
    """

    threads: int | None = None
    _request: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        super(OpenvinoEvaluator, self).__post_init__()
        target = TargetDevice("openvino", "cpu", threads=self.threads, precision=self.precision)
        size, layers = self.preprocessing.image_size, self.model.layers
        dense = torch.tensor(self.model.dense_schedule.counts)
        example = (torch.rand(2, 3, *size), dense)
        module = convert_module(SwitchableViT(self.model).eval(), example, [(-1, 3, *size), (layers,)])
        compiled = compile_for(module, target)
        if executed_precision(compiled) != self.precision:
            raise TargetError(
                f"OpenVINO runs {executed_precision(compiled)} on this processor where {self.precision} was asked for; "
                f"evaluate on openvino:{executed_precision(compiled)}"
            )
        self._request = compiled.create_infer_request()

    def _batch_of(
        self, schedules: Sequence[TokenSchedule], begin: int, end: int
    ) -> Iterator[tuple[TokenSchedule, NDArray[np.float32]]]:
        images = np.ascontiguousarray(normalise(self.pixels[begin:end], self.preprocessing), dtype=np.float32)
        for schedule in schedules:
            if schedule.executed is not None:
                raise ScheduleError(f"layers cannot be skipped in a converted model, got {schedule}")
            self._request.infer({0: images, 1: np.asarray(schedule.counts, dtype=np.int64)}, share_inputs=True)
            yield schedule, np.array(self._request.get_output_tensor(0).data, dtype=np.float32)
