"""A clock for one part of a model: how long one pass through the part takes, on torch or on a converted graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tavt_kit.bench.table_plan import Array
from tavt_kit.core.device import TargetDevice

__all__ = ["OnnxClocks", "OpenvinoClocks", "PartClocks", "TorchClocks"]


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
