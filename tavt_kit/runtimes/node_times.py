"""The time of every node of a graph, by the profile that its own runtime keeps: OpenVINO's or onnxruntime's."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tavt_kit.core.device import TargetDevice
from tavt_kit.runtimes.graph_parts import Node
from tavt_kit.runtimes.session import LENGTHS, Images, Lengths, lengths_for

__all__ = ["NodeTimes", "counted_since", "counters", "onnxruntime_nodes", "openvino_nodes", "repeated", "warm_up"]

_WARM = 3
"""Runs before those that count; the first one prepares kernels."""

_RUNS, _LEAST, _SECONDS = 30, 5, 3.0
"""Runs that count: so many, or for slow models as many as fit the seconds, but never below the least."""

_COMPILED = 3
"""How often a graph is compiled for OpenVINO, whose counters cannot be set back."""

_KERNEL = "_kernel_time"
"""How onnxruntime ends the names of the events that are nodes at work."""


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """A profiled graph.

    Args:
        nodes: All of it, each after what it reads.
        ms: Of each node that ran, by its name.
        run_ms: Of a whole profiled run by the clock, median.
        runs: How many.
    """

    nodes: Sequence[Node]
    ms: Mapping[str, float]
    run_ms: float
    runs: int


def warm_up(run: Callable[[], None]) -> None:
    """The runs that do not count."""
    for _ in range(_WARM):
        run()


def repeated(run: Callable[[], None], parts: int = 1) -> list[float]:
    """Run so often that a median means something; the milliseconds of each run.

    Args:
        run: One run.
        parts: Of how many such series this is one, which share the runs and the time.
    """
    begin, times = time.perf_counter(), list[float]()
    while len(times) < _LEAST or (len(times) < _RUNS / parts and time.perf_counter() - begin < _SECONDS / parts):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def openvino_nodes(source: Any, target: TargetDevice, images: Images, lengths: Lengths | None) -> Iterator[NodeTimes]:
    """By OpenVINO's own counters, from several compilations, whose generated names differ.

    Such a counter is the mean over all runs since the compilation, in whole microseconds; the runs that warm up are
    taken out of it again, and what disturbs the machine for a while falls into one compilation of several.

    Args:
        source: An ``.xml`` or ``.onnx`` file, or an ``openvino.Model``.
        target: Where to run.
        images: (B, 3, H, W) to run.
        lengths: Of a switchable file: the counts to run it at.

    Raises:
        TargetError: OpenVINO cannot compile it for the target.
    """
    from tavt_kit.runtimes.on_openvino import compile_for
    from tavt_kit.runtimes.openvino_core import openvino_core

    model = openvino_core().read_model(source) if isinstance(source, Path) else source
    layers = model.inputs[1].shape[0] if len(model.inputs) > 1 else None
    inputs = dict(enumerate([images, *lengths_for("the graph", layers, lengths)]))
    for _ in range(_COMPILED):
        compiled = compile_for(model, target, PERF_COUNT="YES")
        yield _counted(compiled, lambda request: request.infer(inputs))


def _counted(compiled: Any, infer: Callable[[Any], object]) -> NodeTimes:
    request = compiled.create_infer_request()

    def run() -> None:
        infer(request)

    warm_up(run)
    before = counters(request)
    times = repeated(run, _COMPILED)
    ms = counted_since(before, request, _WARM, len(times))
    return NodeTimes(_openvino_graph(compiled), ms, median(times), len(times))


def counters(request: Any) -> dict[str, float]:
    """The mean milliseconds of every node since the graph was compiled."""
    return {node.node_name: node.real_time.total_seconds() * 1e3 for node in request.profiling_info}


def counted_since(before: dict[str, float], request: Any, warm: int, runs: int) -> dict[str, float]:
    """The mean milliseconds of every node over the last ``runs``, the ``warm`` ones before them taken out again.

    Args:
        before: What ``counters`` said between the two.
    """
    return {
        name: max(0.0, (mean * (warm + runs) - before.get(name, 0.0) * warm) / runs)
        for name, mean in counters(request).items()
    }


def _openvino_graph(compiled: Any) -> list[Node]:
    nodes = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        name = node.get_friendly_name()
        fused = facts["originalLayersNames"].astype(str) if "originalLayersNames" in facts else ""
        inputs = tuple(port.get_source_output().get_node().get_friendly_name() for port in node.inputs())
        kind = facts["layerType"].astype(str) if "layerType" in facts else ""
        nodes.append(Node(name, fused or name, inputs, constant=kind == "Const"))
    return nodes


def onnxruntime_nodes(source: Path | bytes, target: TargetDevice, images: Images, lengths: Lengths | None) -> NodeTimes:
    """By onnxruntime's own profile, and the graph that it made of the file: medians over the runs.

    Args:
        source: The ``.onnx`` file, or its bytes.
        target: Where to run; a CPU.
        images: (B, 3, H, W) to run.
        lengths: Of a switchable file: the counts to run it at.

    Raises:
        DataError: The file cannot be read, or the images do not fit it.
    """
    import onnx

    from tavt_kit.runtimes.on_onnxruntime import open_session

    with tempfile.TemporaryDirectory(prefix="fgvc-kit-layers-") as name:
        folder = Path(name)
        session = open_session(source, target, folder / "optimised.onnx", folder / "profile")
        feed = _feed(session, images, lengths)

        def run() -> None:
            session.run(None, feed)

        warm_up(run)
        times = repeated(run)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(str(folder / "optimised.onnx"), load_external_data=False).graph
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[event["name"].removesuffix(_KERNEL)].append(event["dur"] / 1e3)
    return NodeTimes(_onnx_graph(graph), _medians(found, len(times)), median(times), len(times))


def _feed(session: Any, images: Images, lengths: Lengths | None) -> dict[str, Any]:
    """The inputs of a file by their names."""
    first, *others = session.get_inputs()
    layers = next((one.shape[0] for one in others if one.name == LENGTHS), None)
    shown = images.astype(np.float16) if first.type == "tensor(float16)" else images
    return dict(zip((first.name, LENGTHS), (shown, *lengths_for("the graph", layers, lengths)), strict=False))


def _onnx_graph(graph: Any) -> list[Node]:
    weights = [Node(one.name, one.name, constant=True) for one in graph.initializer]
    makers = {output: node.name for node in graph.node for output in node.output}
    nodes = [
        Node(node.name, node.name, tuple(makers.get(each, each) for each in node.input if each)) for node in graph.node
    ]
    return [*weights, *nodes]


def _medians(found: Mapping[str, Sequence[float]], runs: int) -> dict[str, float]:
    """Of each name's time in a run, over the last runs; several nodes of one name are one."""
    medians = {}
    for name, times in found.items():
        each = max(1, len(times) // (runs + _WARM))
        medians[name] = median([sum(times[at : at + each]) for at in range(0, len(times), each)][-runs:])
    return medians
