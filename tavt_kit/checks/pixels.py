"""A file that prepares its images itself: how far its pixels are from those of the kit's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.source import Source
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.codec import Record
from tavt_kit.data import thin_out
from tavt_kit.data.preprocess import normalise, open_image, resize_crop
from tavt_kit.runtimes.session import PREPARED, arrange

# Levels of 255 that a value may be off: each of two passes rounds, and of a squashed image Pillow may turn them round.
# Measured: at most 2 of a cut, 4 of a squashed image; without antialias, or one pixel beside, it is tens.
MOST_LEVELS = 4
_COMPARED = 200  # images, at most, whose pixels are compared


@dataclass(frozen=True, slots=True)
class PixelCheck(Record):
    """A file's own preprocessing against the kit's, on so many images.

    The largest difference of a value is in levels of 255, ``differing`` the share of the values that differ, ``moved``
    the images whose logits differ from the source's by their pixels alone.
    """

    images: int
    largest: int
    differing: float
    moved: int = 0

    @property
    def sentence(self) -> str:
        """A clause for people."""
        if not self.differing:
            return f"its own preprocessing gives the kit's very pixels on {self.images} images"
        said = (
            f"its own preprocessing gives the kit's pixels on {self.images} images but for "
            f"{100 * self.differing:.2g} % of the values, which are up to {self.largest} of 255 levels off"
        )
        return said + (f", and that alone changes the logits of {self.moved} images" if self.moved else "")

    @property
    def fault(self) -> str:
        """The clause, where the pixels are too far away to be called the same; else nothing."""
        return self.sentence if self.largest > MOST_LEVELS else ""


@dataclass(frozen=True, slots=True)
class OwnPixels:
    """What a file makes of an image in its own order before its network sees it: (1, 3, H, W) uint8 RGB."""

    prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    order: str

    @classmethod
    def of(cls, path: Path, card: ArtifactCard) -> OwnPixels:
        """Open the front part of an ``.onnx`` or ``.xml`` file; the network is left out."""
        assert card.pixels is not None
        return cls((_onnx if path.suffix == ".onnx" else _openvino)(path), card.pixels)

    def at(self, source: Source, indices: Sequence[int]) -> NDArray[np.float32]:
        """(n, 3, H, W), normalised: the source's images at these indices."""
        pixels = [self._of(source.samples[index].path) for index in indices]
        return normalise(np.stack(pixels), source.preprocessing)

    def compare(self, source: Source, moved: int) -> PixelCheck:
        """Against the kit's, on the images of a check."""
        samples, largest, differing = thin_out(source.samples, _COMPARED), 0, 0.0
        for sample in samples:
            apart = np.abs(
                self._of(sample.path).astype(int) - resize_crop(open_image(sample.path), source.preprocessing)
            )
            largest = max(largest, int(apart.max()))
            differing += float((apart > 0).mean()) / len(samples)
        return PixelCheck(len(samples), largest, differing, moved)

    def _of(self, path: Path) -> NDArray[np.uint8]:
        made: NDArray[np.uint8] = self.prepare(arrange(np.asarray(open_image(path))[None], self.order))[0]
        return made


def _onnx(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    model = onnx.load(str(path), load_external_data=False)
    nodes = list(model.graph.node)
    end = next(index for index, node in enumerate(nodes) if PREPARED in node.output)
    front = nodes[: end + 1]
    used = {name for node in front for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    output = helper.make_tensor_value_info(PREPARED, TensorProto.UINT8, None)
    graph = helper.make_graph(front, "front", [model.graph.input[0]], [output], constants)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {model.graph.input[0].name: image})[0])


def _openvino(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    import openvino

    from tavt_kit.runtimes.on_openvino import openvino_core

    model: Any = openvino_core().read_model(path)
    last = next(node for node in model.get_ops() if node.get_friendly_name() == PREPARED)
    front = openvino.Model([last.output(0)], [model.get_parameters()[0]], "front")
    compiled = openvino_core().compile_model(front, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: np.array(compiled([image])[0])
