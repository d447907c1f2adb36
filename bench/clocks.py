"""A clock for one part of a model, on torch or OpenVINO: how long one pass through the part takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.bench.parts import DropPart, Part
from tavt_kit.device import TargetDevice
from tavt_kit.errors import TargetError
from tavt_kit.runtimes.available import check_available
from tavt_kit.runtimes.on_torch import placed, torch_clock, torch_device

__all__ = ["Array", "PartClocks", "clocks_for"]

Array = npt.NDArray[Any]
"""Tokens (B, n, D) or images (B, 3, H, W) as float32, or places (B, n) as int64."""


class PartClocks(Protocol):
    """Makes clocks for the parts of one model on one target."""

    model: AdaptiveViT
    """The model whose layers the parts are to be made of."""
    own_weights: bool
    """Whether every clock has its own copy of the weights, so that no other leaves them in the caches."""

    def clock(self, part: Part, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        """A function that runs the part once and returns its milliseconds.

        Args:
            part: Made of ``model``.
            inputs: What its ``forward`` takes.
            kept: How many tokens stay, for a ``DropPart``.
        """
        ...


def clocks_for(model: AdaptiveViT, target: TargetDevice) -> PartClocks:
    """The clocks of a target.

    Raises:
        TargetError: The target is absent, or does not run live models.
    """
    check_available(target)
    if target.runtime == "torch":
        return TorchClocks(model, target)
    if target.runtime == "openvino" and target.precision != "int8":
        return OpenvinoClocks(model, target)
    raise TargetError(
        f"a latency table is measured on torch or OpenVINO in floating point, got {target}; choose the f32 "
        "or bf16 target nearest to it, and let the bench of the exported file decide"
    )


class TorchClocks:
    """Parts run eagerly. All clocks share the weights of one model."""

    own_weights = False

    def __init__(self, model: AdaptiveViT, target: TargetDevice) -> None:
        self.target = target.resolved()
        self.model = _placed(model, self.target)
        self._dtype = next(self.model.parameters()).dtype

    def clock(self, part: Part, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        tensors = [self._tensor(array) for array in inputs]
        arguments = tensors if kept is None else [kept, *tensors]
        return torch_clock(lambda: part(*arguments), self.target)

    def _tensor(self, array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(array).to(torch_device(self.target))
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


class OpenvinoClocks:
    """Parts converted once for any length, then compiled for each; the batch stays open, as in exports."""

    own_weights = True

    def __init__(self, model: AdaptiveViT, target: TargetDevice) -> None:
        self.target = target.resolved()
        self.model = _placed(model, TargetDevice("torch", "cpu"))
        self._converted: dict[Part, Any] = {}

    def clock(self, part: Part, inputs: Sequence[Array], kept: int | None = None) -> Callable[[], float]:
        import openvino

        from tavt_kit.runtimes.on_openvino import compile_for, request_clock

        if part not in self._converted:
            self._converted[part] = _convert(part, inputs)
        model = self._converted[part].clone()
        if kept is not None:
            _fix_first_input(model, kept)
        lengths = [openvino.PartialShape([-1, *array.shape[1:]]) for array in inputs]
        model.reshape({place: length for place, length in enumerate(lengths)})
        return request_clock(compile_for(model, self.target), inputs)


def _placed(model: AdaptiveViT, target: TargetDevice) -> AdaptiveViT:
    module = placed(model, target)
    assert isinstance(module, AdaptiveViT)
    return module


def _convert(part: Part, inputs: Sequence[Array]) -> Any:
    """The part with open batch and length; a DropPart's number of kept tokens becomes its first input."""
    from tavt_kit.runtimes.on_openvino import convert_module

    # Two samples: tracing must not take the batch for a constant.
    tensors = [torch.from_numpy(np.repeat(array[:1], 2, axis=0)) for array in inputs]
    shapes: list[tuple[int, ...]] = [
        (-1, *array.shape[1:]) if array.ndim == 4 else (-1, -1, *array.shape[2:]) for array in inputs
    ]
    if isinstance(part, DropPart):
        tensors = [torch.tensor(inputs[0].shape[1] - 1), *tensors]
        shapes = [(), *shapes]
    return convert_module(part, tuple(tensors), shapes)


def _fix_first_input(model: Any, value: int) -> None:
    """Turn the first input, a whole number, into a constant: the static count of a real schedule."""
    import openvino

    constant = openvino.opset13.constant(np.int64(value))
    parameter = model.inputs[0].get_node()
    for reader in parameter.output(0).get_target_inputs():
        reader.replace_source_output(constant.output(0))
    model.remove_parameter(parameter)
