"""An ``.onnx`` file's choices of tokens: how many they keep, and what becomes of them under made-up scores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.swayed import SWAY, Swayed, first_sample
from tavt_kit.core.device import TargetDevice

__all__ = ["OnnxChoice"]

_GATHERS = ("Gather", "GatherElements", "GatherND")
_CARRIERS = (*_GATHERS, "Add", "Cast", "Concat", "Expand", "Flatten", "Identity", "Mul", "Neg", "Reshape", "Slice",
             "Squeeze", "Sub", "TopK", "Transpose", "Unsqueeze")  # fmt: skip
"""What lies between the indices that are chosen and those that are gathered by: order, offsets, shapes."""


@dataclass(slots=True)
class OnnxChoice:
    """See ``ChoosingGraph``."""

    model: Any
    target: TargetDevice

    @classmethod
    def read(cls, path: Path, target: TargetDevice) -> OnnxChoice | None:
        """``None`` of a file that takes more than images."""
        import onnx

        model = onnx.load(str(path))
        return cls(model, target) if len(model.graph.input) == 1 else None

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

    def sway(self, images: NDArray[np.float32]) -> Swayed | None:
        import onnx
        from onnx import TensorProto, helper

        from tavt_kit.runtimes.on_onnxruntime import open_session

        graph, choices = self.model.graph, self._choices()
        if not choices:
            return None
        image, logits = graph.input[0].name, graph.output[0].name
        indices = [self._gathered_by(choice) for choice in choices]
        for place, choice in enumerate(choices):
            at, name = list(graph.node).index(choice), f"{SWAY}_{place}"
            for node in reversed(_scores(choice, name)):
                graph.node.insert(at, node)
            choice.input[0] = f"{name}_scores"
        graph.input.append(helper.make_tensor_value_info(SWAY, TensorProto.INT64, []))
        shown = list(dict.fromkeys(index for index in indices if index is not None))
        graph.output.extend(helper.make_empty_tensor_value_info(index) for index in shown)
        with tempfile.TemporaryDirectory(prefix="fgvc-kit-check-") as folder:
            path = Path(folder) / "probe.onnx"
            onnx.save_model(self.model, str(path), save_as_external_data=True, location="probe.data")
            session = open_session(path, self.target)
            half = session.get_inputs()[0].type == "tensor(float16)"
            feed = images.astype(np.float16) if half else images
            (tied, *rows), (resolved, *_) = (
                session.run([logits, *shown], {image: feed, SWAY: np.array(on, np.int64)}) for on in (0, 1)
            )
        found = {index: first_sample(np.asarray(one), len(images)) for index, one in zip(shown, rows, strict=True)}
        return Swayed(
            np.asarray(tied, np.float32),
            np.asarray(resolved, np.float32),
            tuple(None if index is None else found[index] for index in indices),
        )

    def _choices(self) -> list[Any]:
        """The TopK nodes that look for the largest along the second axis; sorting indices looks for the smallest."""
        found = []
        for node in self.model.graph.node:
            given = {one.name: one.i for one in node.attribute}
            if node.op_type == "TopK" and given.get("largest", 1) == 1 and given.get("axis", -1) in (1, -1):
                found.append(node)
        return found

    def _gathered_by(self, choice: Any) -> str | None:
        """The indices that a gather after this choice takes; of several the first, as all take the same rows."""
        carried = {choice.output[1]}
        for node in self.model.graph.node:  # in topological order, as ONNX demands
            inputs = list(node.input)
            if node.op_type in _GATHERS and len(inputs) > 1 and inputs[1] in carried:
                index: str = inputs[1]
                return index
            if node.op_type in _CARRIERS and carried & set(inputs):
                carried.update(node.output)
        return None


def _scores(choice: Any, name: str) -> list[Any]:
    """Nodes that make ``{name}_scores`` of a TopK's scores (B, n): see ``swayed``."""
    return list(_score_nodes(choice.input[0], name))


def _score_nodes(scores: str, name: str) -> Iterator[Any]:
    from onnx import helper, numpy_helper

    for label, value in (("zero", 0), ("one", 1), ("two", 2)):
        tensor = numpy_helper.from_array(np.asarray(np.int64(value)))
        yield helper.make_node("Constant", [], [f"{name}_{label}"], name=f"{name}_{label}", value=tensor)
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
    places = {"@": scores, "sway": SWAY}
    for kind, (*inputs, output) in steps:
        given = [places.get(one, f"{name}_{one}") for one in inputs]
        yield helper.make_node(kind, given, [f"{name}_{output}"], name=f"{name}_{output}")
