"""torch as a runtime. It is imported when a target is checked or a module opened, not when a target is read."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import TargetError
from tavt_kit.runtimes.available import Runtime
from tavt_kit.runtimes.session import PartClocks, Session


class TorchRuntime(Runtime):
    """Modules as they are, with the weights of the model itself."""

    package, takes = "torch", "modules"
    processors, precisions = ("cpu", "cuda"), ("f32", "f16", "bf16")
    # Op by op, through its compiler, or by replaying a CUDA graph.
    modes = {"eager": ("cpu", "cuda"), "compile": ("cpu", "cuda"), "graph": ("cuda",)}

    def check(self, target: TargetDevice) -> None:
        if target.is_cpu:
            return
        import torch

        if not torch.cuda.is_available():
            raise TargetError(
                f"target {target} needs a CUDA device, but torch {torch.__version__} sees none; choose "
                "torch:cpu or install a CUDA build of torch on a machine with an NVIDIA GPU"
            )
        if target.index >= torch.cuda.device_count():
            raise TargetError(
                f"target {target} names CUDA device {target.index}, but there are {torch.cuda.device_count()}, "
                "counted from 0"
            )

    def open(self, model: Any, target: TargetDevice, begin: float, shape: tuple[int, int, int, int]) -> Session:
        from tavt_kit.runtimes.torch_session import TorchSession

        return TorchSession(model, target, begin, shape)

    def part_clocks(self, part: Callable[[str], Any], target: TargetDevice) -> PartClocks:
        from tavt_kit.runtimes.torch_session import part_clocks

        return part_clocks(part, target)

    def accelerator_name(self, target: TargetDevice) -> str | None:
        if find_spec("torch") is None:
            return None
        import torch

        if not torch.cuda.is_available():
            return None
        name, number = torch.cuda.get_device_name(target.index), torch.cuda.device_count()
        return name if number == 1 else f"{name}, number {target.index} of {number} counted from 0"


RUNTIME = TorchRuntime()
