"""The graph that a runtime made of a file: which kernels its products ran as, and what fell back to slow ones."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.device import TargetDevice
from tavt_kit.runtimes.session import Images, Lengths

_IN_OPENVINO = ("Convolution", "FullyConnected", "MatMul", "MHA", "ScaledDotProductAttention")
_IN_ONNX = ("Attention", "Conv", "Gather", "Gemm", "LayerNormalization", "MatMul", "QuantizeLinear", "TopK")
_WORTH_TELLING = 0.001  # of the time
_RUNS = 3  # after the one that prepares kernels


@dataclass(frozen=True, slots=True)
class ExecutedGraph(Record):
    """What ran.

    Args:
        kernels: How often each kind of heavy node ran, by its name and, in OpenVINO, its kernel; int8 shows there
            (``FullyConnected brgemm_avx512_i8``), in onnxruntime in the kind (``QLinearMatMul``).
        reference: Reference kernels, which have no fast code, with their shares of the time, from a thousandth;
            ``None`` in onnxruntime, which has none.
    """

    kernels: Mapping[str, int]
    reference: Mapping[str, float] | None = field(metadata=recorded_as("reference_time"))

    def __str__(self) -> str:
        """For people.

        Example:
            >>> str(ExecutedGraph({"MatMul brgemm_avx512_f32": 4}, {"Sort ref_any": 0.0123}))
            '4 MatMul brgemm_avx512_f32; reference kernels: 1.23 % Sort ref_any'
        """
        found = ", ".join(f"{count} {kind}" for kind, count in self.kernels.items())
        if self.reference is None:
            return found
        slow = ", ".join(f"{100 * share:.3g} % {kind}" for kind, share in self.reference.items())
        return f"{found}; reference kernels: {slow or 'none'}"


def executed_graph(path: Path, target: TargetDevice, images: Images, lengths: Lengths | None = None) -> ExecutedGraph:
    """Load a file once more and look at what its runtime made of it.

    Raises:
        DataError: The file cannot be read.
        TargetError: The target is not here.
    """
    if target.runtime == "onnxruntime":  # of its own optimised graph; every operator of the CPU has one kernel
        import onnx

        from tavt_kit.runtimes.on_onnxruntime import open_session

        with tempfile.TemporaryDirectory(prefix="fgvc-kit-executed-") as folder:
            optimised = Path(folder) / "optimised.onnx"
            open_session(path, target, optimised)
            nodes = onnx.load(str(optimised), load_external_data=False).graph.node
        heavy = Counter(node.op_type for node in nodes if any(word in node.op_type for word in _IN_ONNX))
        return ExecutedGraph(dict(heavy.most_common()), None)
    from tavt_kit.runtimes.available import openvino_core
    from tavt_kit.runtimes.on_openvino import compile_for

    request = compile_for(openvino_core().read_model(path), target, PERF_COUNT="YES").create_infer_request()
    inputs: dict[int, Any] = {0: images}
    if lengths is not None:
        inputs[1] = np.asarray(lengths, np.int64)
    request.infer(inputs)
    cold = _mean_ms(request)  # of the run that prepares kernels, to be taken out of the mean over all
    for _ in range(_RUNS):
        request.infer(inputs)
    took = {
        name: max(0.0, (mean * (1 + _RUNS) - cold.get(name, 0.0)) / _RUNS) for name, mean in _mean_ms(request).items()
    }
    kinds, slow, whole = Counter[str](), defaultdict[str, float](float), 0.0
    for node in request.profiling_info:
        kind, spent = f"{node.node_type} {node.exec_type}", took[node.node_name]
        whole += spent
        if node.node_type in _IN_OPENVINO:
            kinds[kind] += 1
        if node.exec_type.startswith("ref"):
            slow[kind] += spent
    ordered = sorted(slow.items(), key=lambda item: item[1], reverse=True)
    shares = {kind: round(spent / whole, 5) for kind, spent in ordered if spent > _WORTH_TELLING * whole}
    return ExecutedGraph(dict(kinds.most_common()), shares)


def _mean_ms(request: Any) -> dict[str, float]:
    """Of every node, over all runs since OpenVINO compiled the graph."""
    return {node.node_name: node.real_time.total_seconds() * 1e3 for node in request.profiling_info}
