"""The time of each part of a torch model: the lean path, stopped after the stem, every layer and the head."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.part_names import OTHER, part_names
from tavt_kit.runtimes.by_layer import LayerTimes
from tavt_kit.runtimes.node_times import repeated, warm_up
from tavt_kit.runtimes.on_torch import placed, torch_device, torch_dtype, torch_threads
from tavt_kit.runtimes.session import Images

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT, LeanViT

__all__ = ["torch_part_times"]


def torch_part_times(module: LeanViT, target: TargetDevice, images: Images) -> LayerTimes:
    """Milliseconds of the parts, op by op; on CUDA between events on the stream, on a CPU by the monotonic clock.

    Args:
        module: On the CPU, in eval mode.
        target: ``torch:cpu`` or ``torch:cuda``, eager.
        images: (B, 3, H, W).
    """
    target = target.resolved()
    lean: Any = placed(module, target)
    model: AdaptiveViT = lean.adaptive
    inputs = torch.from_numpy(images).to(torch_device(target), torch_dtype(target))
    found: dict[str, list[float]] = defaultdict(list)
    one_run = _on_cpu if target.is_cpu else _on_cuda

    def run() -> None:
        for name, ms in one_run(model, inputs).items():
            found[name].append(ms)

    here = nullcontext() if target.is_cpu else torch.cuda.device(target.index)
    with torch.inference_mode(), torch_threads(target.threads), here:
        warm_up(run)
        found.clear()
        times = repeated(run)
    parts = dict.fromkeys((*part_names(model.layers), OTHER), 0.0)
    parts |= {name: median(took) for name, took in found.items()}
    return LayerTimes(parts, median(times), len(times))


def _on_cpu(model: AdaptiveViT, images: Tensor) -> dict[str, float]:
    """One run; the milliseconds of each part."""
    found, before = dict[str, float](), time.perf_counter()
    for name, _ in model.lean_parts(images):
        now = time.perf_counter()
        found[name], before = (now - before) * 1e3, now
    return found


def _on_cuda(model: AdaptiveViT, images: Tensor) -> dict[str, float]:
    """As ``_on_cpu``; kernels of one part are done before those of the next begin, for they share a stream."""
    marks = [("", _event())]
    for name, _ in model.lean_parts(images):
        marks.append((name, _event()))
    marks[-1][1].synchronize()
    return {name: float(before.elapsed_time(after)) for (_, before), (name, after) in pairwise(marks)}


def _event() -> torch.cuda.Event:
    """Put on the stream now."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
