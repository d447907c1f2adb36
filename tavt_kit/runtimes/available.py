"""Whether a target is on this machine, and what each runtime calls it; each absence is one sentence."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tavt_kit.core.device import TargetDevice, available_threads
from tavt_kit.errors import MissingDependency, TargetError, first_line


@cache
def openvino_core() -> Any:
    """The ``openvino.Core`` that everything here reads and compiles by: one for the process, for as long as it lives.

    Each core's CPU plugin gives the thread that makes it a signal stack, and puts the one before it back when it goes.
    Of several cores that do not go in the opposite order, one puts back a stack that is no longer there, and the next
    signal (Ctrl-C) ends the process by a segmentation fault. Seen with OpenVINO 2026.4.1 on Linux.
    """
    import openvino

    return openvino.Core()


def check_available(target: TargetDevice) -> None:
    """Return if the target can run here.

    Raises:
        MissingDependency: The runtime's package is not installed.
        TargetError: The device is absent or cannot compute in this precision, or there are more threads than CPUs that
            this process may use.
    """
    try:
        import_module(target.runtime)
    except ImportError as error:  # absent, or broken
        lacks = f"target {target} needs the {target.runtime} package ({first_line(error)})"
        raise MissingDependency(f"{lacks}; install it (pip install {target.runtime})") from None
    allowed = available_threads()
    if target.threads is not None and target.threads > allowed:  # they would take turns: a time of their quarrel
        raise TargetError(
            f"target {target} asks for {target.threads} threads, but this process may use "
            f"{allowed} {'CPU' if allowed == 1 else 'CPUs'} (by its affinity and control group); ask for at most that "
            "many"
        )
    if target.runtime == "openvino":
        _check_openvino(target)
    elif target.runtime == "onnxruntime":
        import onnxruntime

        provider, available = name_provider(target), onnxruntime.get_available_providers()
        if provider not in available:
            raise TargetError(
                f"target {target} needs onnxruntime's {provider}, but this build has {', '.join(available)}; "
                "choose onnxruntime:cpu or install onnxruntime-gpu"
            )
    elif not target.is_cpu:
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


def is_available(target: TargetDevice) -> bool:
    """Whether the target can run here: in a precision, for example, of which torch has kernels and OpenVINO has not."""
    try:
        check_available(target)
    except TargetError:
        return False
    return True


def _check_openvino(target: TargetDevice) -> None:
    core, device = openvino_core(), name_device(target)
    devices = core.available_devices
    if device not in devices and not (target.index == 0 and target.processor.upper() in devices):
        raise TargetError(
            f"target {target} needs OpenVINO device {device}, but this machine has {', '.join(devices)}; "
            "choose openvino:cpu"
        )
    if not target.is_cpu:
        return
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}
    able = [precision for precision, name in names.items() if name in capabilities]
    if target.precision not in able:
        # What its CPU plugin falls back to, without a word; measured for f16 on a CPU with bf16.
        instead = "bf16" if target.precision == "f16" and "bf16" in able else "f32"
        raise TargetError(
            f"this CPU cannot compute in {target.precision} (OpenVINO would silently run {instead} instead); "
            f"choose {', '.join(able)}"
        )


def refuse_modes(target: TargetDevice) -> None:
    """Raise TargetError unless the target runs in its runtime's usual mode: tables of layers know no other."""
    if not target.is_usual:
        raise TargetError(
            f"layers are timed, and schedules searched, in a runtime's usual mode only, got {target}; leave out "
            f"{target.mode}, and measure what was found in that mode by fgvc-kit bench"
        )


def name_provider(target: TargetDevice) -> str:
    """onnxruntime's name of the target's processor."""
    return {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}[target.processor] + "ExecutionProvider"


def name_device(target: TargetDevice) -> str:
    """OpenVINO's name of the target's processor."""
    return "CPU" if target.is_cpu else f"{target.processor.upper()}.{target.index}"


def accelerator_name(target: TargetDevice) -> str | None:
    """The product name of the target's GPU or NPU, or ``None`` for a CPU or an unnamed device.

    A slice of a GPU has that in its name (``MIG 1g.10gb``); one of several says which it is.
    """
    if target.is_cpu:
        return None
    if target.runtime == "openvino":
        return str(openvino_core().get_property(name_device(target), "FULL_DEVICE_NAME"))
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    name, number = torch.cuda.get_device_name(target.index), torch.cuda.device_count()
    return name if number == 1 else f"{name}, number {target.index} of {number} counted from 0"
