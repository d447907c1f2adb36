"""Where the time goes by layer, measured: by the profile that a runtime keeps, or by torch's parts one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.part_names import OTHER, part_names
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError, TargetError
from tavt_kit.runtimes.graph_parts import layers_named, place
from tavt_kit.runtimes.node_times import NodeTimes, onnxruntime_nodes, openvino_nodes
from tavt_kit.runtimes.session import Images, Lengths

__all__ = ["LayerTimes", "layer_times", "refuse_unprofiled"]


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Milliseconds of the parts of one inference, as a profile gave them over many runs: scaled to nothing.

    Args:
        parts: ``stem``, ``0``, ``1``, ..., ``head`` and ``other``, in this order; a layer that does not run takes 0.
        run_ms: A whole profiled run by the clock. More than the parts together: what lies between the nodes, and the
            keeping of the profile.
        runs: How many there were.
        placed_ms: The part of the sum that is of nodes which name no layer, and were placed with what they read from.
    """

    parts: Mapping[str, float]
    run_ms: float
    runs: int
    placed_ms: float = 0.0

    @property
    def sum_ms(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "parts_ms": {name: round(ms, 5) for name, ms in self.parts.items()},
            "sum_ms": round(self.sum_ms, 5),
            "run_ms": round(self.run_ms, 5),
            "runs": self.runs,
            "placed_ms": round(self.placed_ms, 5),
        }


def refuse_unprofiled(target: TargetDevice) -> None:
    """Raise TargetError where nothing tells the time of a layer."""
    if not target.is_usual:
        raise TargetError(
            f"layers are told apart in a runtime's usual mode only, got {target}; leave out {target.mode}, or measure "
            "without `layers`"
        )
    if target.runtime == "onnxruntime" and not target.is_cpu:
        raise TargetError(
            f"onnxruntime's profile tells how long kernels took on a CPU only, got {target}; measure without `layers`, "
            "or on torch:cuda"
        )


def layer_times(
    source: Any, target: TargetDevice, images: Images, schedule: TokenSchedule, lengths: Lengths | None = None
) -> LayerTimes:
    """Run a model once more, with a profile, and add up what each of its layers took.

    Args:
        source: A ``LeanViT``; or for OpenVINO and onnxruntime a file, for OpenVINO an ``openvino.Model``, for
            onnxruntime the bytes of an ``.onnx`` file.
        target: Where it runs.
        images: (B, 3, H, W).
        schedule: What the model runs at; says which layers there are.
        lengths: Of a switchable file: the counts to run it at.

    Raises:
        TargetError: The target is not here, or has no such profile.
        MeasurementError: The graph does not tell the layers apart.
        DataError: onnxruntime cannot read the file.
    """
    refuse_unprofiled(target)
    if target.runtime == "torch":
        from tavt_kit.runtimes.torch_parts import torch_part_times

        return torch_part_times(source, target, images)
    if target.runtime == "onnxruntime":
        return _of_nodes(onnxruntime_nodes(source, target, images, lengths), schedule)
    found = openvino_nodes(_openvino_source(source, images), target, images, lengths)
    return _medians([_of_nodes(one, schedule) for one in found])


def _openvino_source(source: Any, images: Images) -> Any:
    """A file or graph as it is, a module converted."""
    if isinstance(source, Path) or hasattr(source, "get_ordered_ops"):
        return source
    from tavt_kit.runtimes.on_openvino import image_model

    return image_model(source, images.shape)


def _of_nodes(found: NodeTimes, schedule: TokenSchedule) -> LayerTimes:
    """The nodes' times by part.

    Raises:
        MeasurementError: The layers that the graph names are not those that run.
    """
    placed = place(found.nodes)
    named, run = layers_named(placed), {layer for layer in range(schedule.layers) if schedule.runs(layer)}
    if named != run:
        raise MeasurementError(
            f"the graph names {len(named)} layers, but the model runs {len(run)}, so its time cannot be told apart by "
            "layer; if an older version exported it, export it again"
        )
    parts = dict.fromkeys((*part_names(schedule.layers), OTHER), 0.0)
    reckoned = 0.0
    for name, ms in found.ms.items():
        one = placed.get(name)
        parts[OTHER if one is None else one.part] += ms
        if one is not None and one.part != OTHER and not one.by_name:
            reckoned += ms
    return LayerTimes(parts, found.run_ms, found.runs, reckoned)


def _medians(found: Sequence[LayerTimes]) -> LayerTimes:
    """Of several profiles of one model, part by part."""
    return LayerTimes(
        {name: median(one.parts[name] for one in found) for name in found[0].parts},
        median(one.run_ms for one in found),
        sum(one.runs for one in found),
        median(one.placed_ms for one in found),
    )
