"""Which tokens an exported graph keeps: as many as its card says, and of equal scores the first.

Real pictures hardly ever tie, and a rounded graph may keep one token too many without anyone seeing it in its accuracy.
So the graph itself is asked. How many it keeps is read off its TopK nodes. Its rule for ties is tried: a copy of the
graph gets scores that tie in halves, and once more the same scores with the ties resolved towards the first; both must
give the same logits, in the very runtime and precision that is being checked.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tavt_kit.artifact_card import ArtifactCard
from tavt_kit.device import TargetDevice
from tavt_kit.runtimes.openvino_core import openvino_core

__all__ = ["TokenChoice", "choice_of"]

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # of the largest logit; the same tokens in the same order give the same logits to the bit
_SWAY = "fgvc_kit_sway"


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What was found of a graph's choice of tokens.

    Args:
        kept: Patches kept by each choice, in the order of the graph; ``None`` where it does not say.
        ties_difference: Between logits under tied and under resolved scores, as a share of the largest; ``None`` where
            it could not be tried.
        reason: One clause, where it is not what the card says.
        untried: Why ties could not be tried, where that was.
    """

    kept: tuple[int, ...] | None
    ties_difference: float | None
    reason: str = ""
    untried: str = ""

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = None if self.kept is None else list(self.kept)
        return {
            "kept": kept,
            "ties_difference": self.ties_difference,
            "reason": self.reason,
            "untried": self.untried,
        }


class _Graph(Protocol):
    """A model file of one runtime."""

    def kept(self) -> tuple[int, ...] | None: ...

    def sway(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Logits (B, classes) under tied scores and under resolved ones."""


def choice_of(path: Path, card: ArtifactCard, target: TargetDevice, images: NDArray[np.float32]) -> TokenChoice | None:
    """Ask a file for its choice of tokens.

    Args:
        path: An ``.onnx`` or ``.xml`` file that the target can run.
        card: What it says of itself.
        target: Where it runs.
        images: (B, 3, H, W), preprocessed; two are enough.

    Returns:
        ``None`` of a file that drops nothing, or that takes more than images (a switchable one).
    """
    if card.is_dense or path.suffix not in (".onnx", ".xml"):
        return None
    graph = _OpenvinoGraph.read(path, target) if target.runtime == "openvino" else _OnnxGraph.read(path, target)
    if graph is None:
        return None
    kept, wanted = graph.kept(), _wanted(card)
    if kept is not None and not _holds(kept, wanted):
        said = f"it keeps {_list(kept)} patches, where its card says {_list(wanted)}"
        return TokenChoice(kept, None, said)
    try:
        answers = graph.sway(images)
    except Exception as error:  # a graph whose choices are made otherwise; what its runtime says of that is recorded
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        _log.info("the choice of tokens of %s could not be tried: %s", path.name, line)
        return TokenChoice(kept, None, untried=line[:200])
    if answers is None:
        return TokenChoice(kept, None, untried="it chooses no tokens by TopK")
    tied, resolved = answers
    apart = float(np.abs(tied - resolved).max() / max(float(np.abs(resolved).max()), 1e-12))
    broken = not apart <= _TOLERANCE
    reason = (
        f"of tokens with equal scores it keeps others than the first where {target.runtime} runs it" if broken else ""
    )
    return TokenChoice(kept, apart if np.isfinite(apart) else None, reason)


def _wanted(card: ArtifactCard) -> tuple[int, ...]:
    """Patches that stay after each layer that drops some."""
    counts, runs = card.schedule.counts, card.schedule.runs
    executed = [count for layer, count in enumerate(counts) if runs(layer)]
    before = [card.tokens, *executed[:-1]]
    return tuple(count - card.prefix for count, old in zip(executed, before, strict=True) if count < old)


def _holds(kept: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the choices are among those found, in order: a family may have choices of its own beside them.

    The last one may be missing: a head that reads only the class token makes none in the last layer.
    """
    if len(kept) == len(wanted) and tuple(kept[:-1]) == tuple(wanted[:-1]):
        return kept[-1] == wanted[-1]
    rest = iter(kept)
    return all(count in rest for count in wanted[:-1])


def _list(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) or "none"


@dataclass(slots=True)
class _OnnxGraph:
    model: Any
    target: TargetDevice

    @classmethod
    def read(cls, path: Path, target: TargetDevice) -> _OnnxGraph | None:
        import onnx

        model = onnx.load(str(path))
        return cls(model, target) if len(model.graph.input) == 1 else None

    def _choices(self) -> list[Any]:
        """The TopK nodes that look for the largest along the second axis; sorting indices looks for the smallest."""
        found = []
        for node in self.model.graph.node:
            given = {one.name: one.i for one in node.attribute}
            if node.op_type == "TopK" and given.get("largest", 1) == 1 and given.get("axis", -1) in (1, -1):
                found.append(node)
        return found

    def kept(self) -> tuple[int, ...] | None:
        from onnx import numpy_helper

        known = {one.name: one for one in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                known[node.output[0]] = node.attribute[0].t
        sizes = [known.get(node.input[1]) for node in self._choices()]
        if not sizes or any(size is None for size in sizes):
            return None
        return tuple(int(numpy_helper.to_array(size).reshape(-1)[0]) for size in sizes)

    def sway(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper

        from tavt_kit.runtimes.available import provider_of

        graph, choices = self.model.graph, self._choices()
        if not choices:
            return None
        nodes = [node for place, choice in enumerate(choices) for node in _onnx_scores(choice, f"{_SWAY}_{place}")]
        image, logits = graph.input[0].name, graph.output[0].name
        for place, choice in enumerate(choices):
            at = list(graph.node).index(choice)
            choice.input[0] = f"{_SWAY}_{place}_scores"
            for node in reversed([one for one in nodes if one.name.startswith(f"{_SWAY}_{place}_")]):
                graph.node.insert(at, node)
        graph.input.append(helper.make_tensor_value_info(_SWAY, TensorProto.INT64, []))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.target.resolved().threads or 1
        where = {} if self.target.is_cpu else {"device_id": str(self.target.index)}
        with tempfile.TemporaryDirectory(prefix="fgvc-kit-check-") as folder:
            path = Path(folder) / "probe.onnx"
            onnx.save_model(self.model, str(path), save_as_external_data=True, location="probe.data")
            session: Any = onnxruntime.InferenceSession(path, options, providers=[(provider_of(self.target), where)])
            half = session.get_inputs()[0].type == "tensor(float16)"
            feed = images.astype(np.float16) if half else images
            tied, resolved = (
                np.asarray(session.run([logits], {image: feed, _SWAY: np.array(on, np.int64)})[0], np.float32)
                for on in (0, 1)
            )
        return tied, resolved


def _onnx_scores(choice: Any, name: str) -> list[Any]:
    """Nodes that make ``{name}_scores`` of a TopK's scores (B, n): see ``_level``."""
    from onnx import helper, numpy_helper

    def constant(label: str, value: Any) -> Any:
        return helper.make_node("Constant", [], [f"{name}_{label}"], value=numpy_helper.from_array(np.asarray(value)))

    steps = [
        ("Shape", ["@", "shape"]),
        ("Gather", ["shape", "one", "n"]),
        ("Range", ["zero", "n", "one", "row"]),
        ("Mod", ["row", "two", "odd"]),
        ("Sub", ["n", "one", "less"]),
        ("Mul", ["odd", "less", "spread"]),
        ("Add", ["spread", "row", "finer"]),
        ("Mul", ["finer", "sway", "swayed"]),
        ("Add", ["odd", "swayed", "level"]),
        ("Neg", ["level", "down"]),
        ("CastLike", ["down", "@", "pattern"]),
        ("Sub", ["@", "@", "nothing"]),
        ("Add", ["nothing", "pattern", "scores"]),
    ]
    places = {"@": choice.input[0], "sway": _SWAY}
    nodes = [constant("zero", np.int64(0)), constant("one", np.int64(1)), constant("two", np.int64(2))]
    for kind, (*inputs, output) in steps:
        given = [places.get(one, f"{name}_{one}") for one in inputs]
        nodes.append(helper.make_node(kind, given, [f"{name}_{output}"]))
    for node in nodes:
        node.name = f"{name}_{node.output[0]}"
    return nodes


@dataclass(slots=True)
class _OpenvinoGraph:
    model: Any
    target: TargetDevice

    @classmethod
    def read(cls, path: Path, target: TargetDevice) -> _OpenvinoGraph | None:

        model = openvino_core().read_model(path)
        return cls(model, target) if len(model.inputs) == 1 else None

    def _choices(self, mode: str) -> list[Any]:
        return [
            node
            for node in self.model.get_ordered_ops()
            if node.get_type_name() == "TopK"
            and node.get_attributes()["mode"] == mode
            and node.get_attributes()["axis"] in (1, -1)
            and node.input(0).get_partial_shape().rank == 2  # (B, n) scores; a family may pick along others
        ]

    def kept(self) -> tuple[int, ...] | None:
        shape = self.model.inputs[0].get_partial_shape()
        sizes = [1, *(size.get_length() if size.is_static else -1 for size in list(shape)[1:])]
        if -1 in sizes:
            return None
        alone = self.model.clone()
        alone.reshape({0: sizes})
        graph = _OpenvinoGraph(alone, self.target)
        # A stable sort is a TopK of everything; how many of it stay shows where their indices are put in order.
        nodes = graph._choices("min") or graph._choices("max")
        found = [node.output(0).get_partial_shape()[1] for node in nodes]
        if not found or any(size.is_dynamic for size in found):
            return None
        return tuple(size.get_length() for size in found)

    def sway(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        from openvino import opset13 as ops

        from tavt_kit.runtimes.on_openvino import compile_for

        choices = self._choices("max")
        if not choices:
            return None
        sway = ops.parameter([], np.int64, name=_SWAY)
        for choice in choices:
            choice.input(0).replace_source_output(_openvino_scores(choice.input_value(0), sway).output(0))
        self.model.add_parameters([sway])
        self.model.validate_nodes_and_infer_types()
        request = compile_for(self.model, self.target).create_infer_request()
        found = []
        for on in (0, 1):
            request.infer({0: images, 1: np.array(on, np.int64)})
            found.append(np.array(request.get_output_tensor(0).data, dtype=np.float32))
        return found[0], found[1]


def _openvino_scores(scores: Any, sway: Any) -> Any:
    """A node that makes other scores (B, n) of a TopK's: see ``_level``."""
    from openvino import opset13 as ops

    def whole(value: int) -> Any:
        return ops.constant(value, np.int64)

    n = ops.gather(ops.shape_of(scores), whole(1), whole(0))
    row = ops.range(whole(0), n, whole(1), output_type="i64")
    level = _level(row, ops.mod(row, whole(2)), n, sway, ops.add, ops.multiply, whole(-1))
    pattern = ops.convert_like(ops.multiply(level, whole(-1)), scores)
    return ops.add(ops.subtract(scores, scores), pattern)


def _level(row: Any, odd: Any, n: Any, sway: Any, add: Any, multiply: Any, minus_one: Any) -> Any:
    """The negated scores: 0 for even rows and 1 for odd ones; swayed, every row its own, in the same order.

    Whole numbers up to 2 n, which half precision holds exactly for up to 1024 tokens.
    """
    finer = add(multiply(odd, add(n, minus_one)), row)
    return add(odd, multiply(finer, sway))
