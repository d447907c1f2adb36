"""What is timed for a latency table, as plain data, and the clocks that time it on a runtime.

The plan can be carried to a machine that has neither torch nor us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import TimedModel
from tavt_kit.core.schedule import TokenSchedule

Array = npt.NDArray[Any]
"""Tokens (B, n, D) or images (B, 3, H, W) as float32, or places (B, n) as int64."""


@dataclass(frozen=True, slots=True)
class CellPlan:
    """One time of the table.

    Args:
        kind: ``stem attend drop feed last head``, or ``empty`` for the cost of starting an inference.
        part: Name of the part that runs; several cells share one.
        count: Tokens that come in.
        kept: Tokens that stay; 0 where the part does not drop.
        layers: How many layers the part runs, at least 1.
        inputs: What it takes, in order: ``images``, ``tokens`` or ``places``.
    """

    kind: str
    part: str
    count: int
    kept: int
    layers: int
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TablePlan(Record):
    """All times of one table, and what the table will say of the model.

    Args:
        target: Where it is to be measured; threads may still be open.
        model: The model to time.
        width: Features of a token.
        cells: The parts to time.
        wholes: The schedules of the whole passes that the sums are to meet; the first one is dense.
        calibration: What int8 was calibrated on, or ``None``.
        all_rows: Of attention's products with weights the share that is of all tokens, in a layer that drops and in
            the last one before a head that reads leading tokens only.
    """

    target: TargetDevice
    model: TimedModel = field(metadata=recorded_as(inline=True))
    width: int
    cells: tuple[CellPlan, ...]
    wholes: tuple[TokenSchedule, ...]
    calibration: str | None = None
    all_rows: tuple[float, float] = (0.75, 0.5)
    pooled: bool | None = None
    """The model's layout says it; of a record it is where the layout has it from."""

    def __post_init__(self) -> None:
        if self.pooled is None:
            object.__setattr__(self, "pooled", not self.model.layout.token_pooled)
        object.__setattr__(self, "model", self.model.with_pooling(not self.pooled))

    def images(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """(B, 3, H, W) random images."""
        assert self.model.image_size is not None  # only tables of older versions lack it
        return rng.standard_normal((self.target.batch, 3, *self.model.image_size), dtype=np.float32)

    def inputs(self, cell: CellPlan, images: npt.NDArray[np.float32], rng: np.random.Generator) -> list[Array]:
        """What a cell's part is run on; equal inputs are one array."""
        batch, count = self.target.batch, cell.count
        made: dict[str, Array] = {"images": images}
        if "tokens" in cell.inputs:
            made["tokens"] = rng.standard_normal((batch, count, self.width), dtype=np.float32)
        if "places" in cell.inputs:
            made["places"] = np.tile(np.arange(count, dtype=np.int64), (batch, 1))
        return [made[name] for name in cell.inputs]

    def example(self, part: str) -> tuple[CellPlan, list[Array]]:
        """The largest cell of a part, and inputs to convert or calibrate it by."""
        cell = max((cell for cell in self.cells if cell.part == part), key=lambda cell: (cell.count, cell.kept))
        rng = np.random.default_rng(0)
        return cell, self.inputs(cell, self.images(rng), rng)


class PartClocks(Protocol):
    """Makes clocks for the parts of one model on one target."""

    def clock(self, part: str, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        """A function that runs a part once and returns its milliseconds.

        Args:
            part: Its name in the plan.
            inputs: What it takes.
            kept: How many tokens stay, for a part that drops.
        """
        ...


class TorchClocks:
    """Parts run eagerly. All clocks share the weights of one model.

    Args:
        parts: torch modules, on the target's device and in its precision.
        target: Where they run.
    """

    def __init__(self, parts: Mapping[str, Any], target: TargetDevice) -> None:
        self._parts, self._target = parts, target.resolved()

    def clock(self, part: str, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        from tavt_kit.runtimes.on_torch import torch_clock

        module, tensors = self._parts[part], [self._tensor(part, array) for array in inputs]
        arguments = tensors if kept is None else [kept, *tensors]
        return torch_clock(lambda: module(*arguments), self._target)

    def _tensor(self, part: str, array: Array) -> Any:
        import torch

        parameter = next(self._parts[part].parameters())
        tensor = torch.from_numpy(array).to(parameter.device)
        return tensor.to(parameter.dtype) if tensor.is_floating_point() else tensor


class OpenvinoClocks:
    """Graphs of any length, compiled for each; the batch stays open, as in exports.

    Args:
        graph: Gives the ``openvino.Model`` of a part; the number of kept tokens is the first input of one that drops.
        target: Where they run.
    """

    def __init__(self, graph: Callable[[str], Any], target: TargetDevice) -> None:
        self._graph, self._target = graph, target.resolved()

    def clock(self, part: str, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        import openvino

        from tavt_kit.runtimes.on_openvino import compile_for, request_clock

        model = self._graph(part).clone()
        if kept is not None:
            _fix_first_input(model, kept)
        lengths = [openvino.PartialShape([-1, *array.shape[1:]]) for array in inputs]
        model.reshape({place: length for place, length in enumerate(lengths)})
        return request_clock(compile_for(model, self._target), inputs)


class OnnxClocks:
    """Graphs of any length in one session each: onnxruntime runs them as fast as ones of a fixed length.

    Args:
        graph: Gives the ``.onnx`` file of a part, as its path or its bytes; the number of kept tokens is the first
            input of one that drops.
        target: Where they run.
    """

    def __init__(self, graph: Callable[[str], Any], target: TargetDevice) -> None:
        self._graph, self._target = graph, target.resolved()
        self._sessions: dict[str, Any] = {}

    def clock(self, part: str, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        from tavt_kit.runtimes.on_onnxruntime import open_session, run_clock

        if part not in self._sessions:
            self._sessions[part] = open_session(self._graph(part), self._target)
        arrays = [*([] if kept is None else [np.array(kept, dtype=np.int64)]), *inputs]
        return run_clock(self._sessions[part], arrays)


def _fix_first_input(model: Any, value: int) -> None:
    """Turn the first input, a whole number, into a constant: the static count of a real schedule."""
    import openvino

    constant = openvino.opset13.constant(np.int64(value))
    parameter = model.inputs[0].get_node()
    for reader in parameter.output(0).get_target_inputs():
        reader.replace_source_output(constant.output(0))
    model.remove_parameter(parameter)
