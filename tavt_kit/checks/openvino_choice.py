"""An OpenVINO model's choices of tokens: how many they keep, and what becomes of them under made-up scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.swayed import SWAY, Swayed, first_sample, level
from tavt_kit.core.device import TargetDevice
from tavt_kit.runtimes.openvino_core import openvino_core

__all__ = ["OpenvinoChoice"]

_GATHERS = ("Gather", "GatherElements", "GatherND")
_CARRIERS = (*_GATHERS, "Add", "Broadcast", "Concat", "Convert", "Multiply", "Reshape", "Slice", "Squeeze",
             "StridedSlice", "Subtract", "TopK", "Transpose", "Unsqueeze")  # fmt: skip
"""What lies between the indices that are chosen and those that are gathered by: order, offsets, shapes."""


@dataclass(slots=True)
class OpenvinoChoice:
    """See ``ChoosingGraph``."""

    model: Any
    target: TargetDevice

    @classmethod
    def read(cls, path: Path, target: TargetDevice) -> OpenvinoChoice | None:
        """``None`` of a file that takes more than images."""
        model = openvino_core().read_model(path)
        return cls(model, target) if len(model.inputs) == 1 else None

    def kept(self) -> tuple[int, ...] | None:
        shape = self.model.inputs[0].get_partial_shape()
        sizes = [1, *(size.get_length() if size.is_static else -1 for size in list(shape)[1:])]
        if -1 in sizes:
            return None
        alone = self.model.clone()
        alone.reshape({0: sizes})
        graph = OpenvinoChoice(alone, self.target)
        # A stable sort is a TopK of everything; how many of it stay shows where their indices are put in order.
        nodes = graph._choices("min") or graph._choices("max")
        found = [node.output(0).get_partial_shape()[1] for node in nodes]
        if not found or any(size.is_dynamic for size in found):
            return None
        return tuple(size.get_length() for size in found)

    def sway(self, images: NDArray[np.float32]) -> Swayed | None:
        from openvino import opset13 as ops

        from tavt_kit.runtimes.on_openvino import compile_for

        choices = self._choices("max")
        if not choices:
            return None
        indices = [self._gathered_by(choice) for choice in choices]
        seen = [place for place, index in enumerate(indices) if index is not None]
        sway = ops.parameter([], np.int64, name=SWAY)
        for choice in choices:
            choice.input(0).replace_source_output(_scores(choice.input_value(0), sway).output(0))
        self.model.add_parameters([sway])
        self.model.add_outputs([indices[place] for place in seen])
        self.model.validate_nodes_and_infer_types()
        request = compile_for(self.model, self.target).create_infer_request()
        answers, rows = [], []
        for on in (0, 1):
            request.infer({0: images, 1: np.array(on, np.int64)})
            given = [np.array(request.get_output_tensor(place).data) for place in range(1 + len(seen))]
            answers.append(given[0].astype(np.float32))
            rows.append([first_sample(index, len(images)) for index in given[1:]])
        tied = dict(zip(seen, rows[0], strict=True))
        return Swayed(answers[0], answers[1], tuple(tied.get(place) for place in range(len(choices))))

    def _choices(self, mode: str) -> list[Any]:
        return [
            node
            for node in self.model.get_ordered_ops()
            if node.get_type_name() == "TopK"
            and node.get_attributes()["mode"] == mode
            and node.get_attributes()["axis"] in (1, -1)
            and node.input(0).get_partial_shape().rank == 2  # (B, n) scores; a family may pick along others
        ]

    def _gathered_by(self, choice: Any) -> Any | None:
        """The indices that a gather after this choice takes; of several the first, as all take the same rows."""
        carried = {_key(choice.output(1))}
        for node in self.model.get_ordered_ops():
            sources = [node.input_value(port) for port in range(node.get_input_size())]
            kind = node.get_type_name()
            if kind in _GATHERS and _key(sources[1]) in carried:
                return sources[1]
            if kind in _CARRIERS and any(_key(source) in carried for source in sources):
                carried.update(_key(output) for output in node.outputs())
        return None


def _key(output: Any) -> tuple[str, int]:
    return str(output.get_node().get_name()), int(output.get_index())


def _scores(scores: Any, sway: Any) -> Any:
    """A node that makes other scores (B, n) of a TopK's: see ``swayed``."""
    from openvino import opset13 as ops

    def whole(value: int) -> Any:
        return ops.constant(value, np.int64)

    n = ops.gather(ops.shape_of(scores), whole(1), whole(0))
    row = ops.range(whole(0), n, whole(1), output_type="i64")
    down = level(row, ops.mod(row, whole(2)), n, sway, ops.add, ops.multiply, whole(-1))
    pattern = ops.convert_like(ops.multiply(down, whole(-1)), scores)
    return ops.add(ops.subtract(scores, scores), pattern)
