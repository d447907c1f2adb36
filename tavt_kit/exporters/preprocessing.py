"""Preprocessing inside of a file: uint8 images of any size go in, and the graph resizes, crops and normalises them.

It resizes bytes as Pillow does, whose weights the runtimes round otherwise: some values are one level of 255 off. On
floats they would be several off, for nothing is rounded between the two passes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.runtimes.session import INPUT, PREPARED

OPSET = 18
"""The first of ONNX whose Resize knows ``antialias``."""

_MODES = {"bicubic": "cubic", "bilinear": "linear"}
_CUBE = -0.5  # Pillow's and timm's; ONNX and OpenVINO have -0.75 unless told


def refuse_outside_alone(preprocessing: Preprocessing) -> None:
    """Return if a graph can do what Pillow does. Raises ExportError: it cannot; the message says what it can do."""
    height, width = preprocessing.image_size
    cut = preprocessing.crop_mode == "center" and height == width and preprocessing.crop_pct <= 1
    if not (cut or preprocessing.crop_mode == "squash") or preprocessing.interpolation not in _MODES:
        raise ExportError(
            "a file can hold the preprocessing that cuts a square out of the centre or squashes the image, by bicubic "
            f"or bilinear interpolation, got crop_mode {preprocessing.crop_mode}, crop_pct {preprocessing.crop_pct:g}, "
            f"interpolation {preprocessing.interpolation} and {height}x{width} pixels; leave `preprocessing` outside"
        )


def model_info(card: ArtifactCard) -> dict[str, str]:
    """What OpenVINO's ModelAPI reads to run the file; it parts labels at blanks, so that theirs become underscores."""
    height, width = card.image_size
    return {
        "model_type": "Classification",
        "labels": " ".join("_".join(name.split()) for name in card.classes),
        "topk": str(min(5, len(card.classes))),
        "embedded_processing": "True",
        "orig_height": str(height),
        "orig_width": str(width),
    }


def _scaled(preparing: Preprocessing) -> NDArray[np.int64]:
    return np.array([math.floor(size / preparing.crop_pct) for size in preparing.image_size], np.int64)


def prepend_onnx(model: Any, card: ArtifactCard) -> Any:
    """The ``onnx.ModelProto`` of opset 18 with its card's preprocessing before it; it changes in place."""
    import onnx
    from onnx import TensorProto, helper

    assert card.pixels is not None
    preparing = Preprocessing.from_record(card.preprocessing)
    graph, layout = model.graph, card.pixels.partition(":")[0]
    half = graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(value: Any, kind: Any = np.int64) -> str:
        constants.append(onnx.numpy_helper.from_array(np.asarray(value, kind), f"pixels/{len(constants)}"))
        return str(constants[-1].name)

    def node(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = f"pixels/{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    image = INPUT if layout == "nchw" else node("Transpose", INPUT, perm=[0, 3, 1, 2])
    if card.pixels.endswith("bgr"):
        image = node("Gather", image, constant([2, 1, 0]), axis=1)
    if preparing.crop_mode == "squash":
        size = constant(_scaled(preparing))
    else:
        given = node("Shape", image, start=2, end=4)
        # Whole numbers: the shorter edge becomes the wanted one, the other is rounded down.
        size = node("Div", node("Mul", given, constant(_scaled(preparing))), node("ReduceMin", given, keepdims=1))
    sizes = node("Concat", node("Shape", image, start=0, end=2), size, axis=0)
    mode = _MODES[preparing.interpolation]
    image = node(
        "Resize", image, "", "", sizes, mode=mode, antialias=1, exclude_outside=1,
        coordinate_transformation_mode="half_pixel", cubic_coeff_a=_CUBE,
    )  # fmt: skip
    over = node("Cast", node("Sub", size, constant(preparing.image_size)), to=TensorProto.FLOAT)
    start = node("Cast", node("Round", node("Mul", over, constant(0.5, np.float32))), to=TensorProto.INT64)
    end = node("Add", start, constant(preparing.image_size))
    image = node("Slice", image, start, end, constant([2, 3]))
    image = node("Reshape", image, constant([0, 3, *preparing.image_size]), output=PREPARED)
    values = node("Div", node("Cast", image, to=TensorProto.FLOAT), constant(255, np.float32))
    values = node("Sub", values, constant(_channels(preparing.mean), np.float32))
    values = node("Div", values, constant(_channels(preparing.std), np.float32))
    ready = node("Cast", values, to=TensorProto.FLOAT16) if half else values
    for reader in graph.node:
        for index, name in enumerate(reader.input):
            if name == INPUT:
                reader.input[index] = ready
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
    graph.initializer.extend(constants)
    free = ["height", "width"]
    sizes_of_input = ["batch", 3, *free] if layout == "nchw" else ["batch", *free, 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, sizes_of_input))
    for key, value in model_info(card).items():
        model.metadata_props.add(key=f"model_info {key}", value=value)
    return model


def prepend_openvino(model: Any, card: ArtifactCard) -> Any:
    """A copy of the OpenVINO model with its card's preprocessing before it, by OpenVINO's PrePostProcessor."""
    import openvino
    from openvino import opset13 as ops
    from openvino.preprocess import ColorFormat, PrePostProcessor

    assert card.pixels is not None
    preparing = Preprocessing.from_record(card.preprocessing)
    layout, _, colours = card.pixels.partition(":")

    def whole(value: Any) -> Any:
        return ops.constant(np.asarray(value, np.int64))

    def resize_crop(image: Any) -> Any:
        size = whole(_scaled(preparing))
        if preparing.crop_mode == "center":
            given = ops.gather(ops.shape_of(image, "i64"), whole([2, 3]), whole(0))
            size = ops.divide(ops.multiply(given, size), ops.reduce_min(given, whole([0]), keep_dims=True))
        modes = {"mode": f"{preparing.interpolation}_pillow", "shape_calculation_mode": "sizes", "cube_coeff": _CUBE}
        image = ops.interpolate(image, size, axes=whole([2, 3]), **modes)
        over = ops.convert(ops.subtract(size, whole(preparing.image_size)), "f32")
        half = ops.multiply(over, ops.constant(np.float32(0.5)))
        start = ops.convert(ops.round(half, "half_to_even"), "i64")
        image = ops.slice(image, start, ops.add(start, whole(preparing.image_size)), whole([1, 1]), whole([2, 3]))
        image = ops.reshape(image, whole([0, 3, *preparing.image_size]), special_zero=True)
        image.set_friendly_name(PREPARED)
        return image.output(0)

    def normalise(image: Any) -> Any:
        values = ops.divide(ops.convert(image, "f32"), ops.constant(np.float32(255)))
        values = ops.subtract(values, ops.constant(_channels(preparing.mean)))
        return ops.divide(values, ops.constant(_channels(preparing.std))).output(0)

    processor = PrePostProcessor(model.clone())
    image = processor.input(INPUT)
    free = [-1, -1]
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout(layout.upper()))
    image.tensor().set_shape([-1, 3, *free] if layout == "nchw" else [-1, *free, 3])
    image.tensor().set_color_format(ColorFormat.BGR if colours == "bgr" else ColorFormat.RGB)
    image.model().set_layout(openvino.Layout("NCHW"))
    image.preprocess().convert_color(ColorFormat.RGB).convert_layout(openvino.Layout("NCHW"))
    image.preprocess().custom(resize_crop).custom(normalise)
    made = processor.build()
    for key, value in model_info(card).items():
        made.set_rt_info(value, ["model_info", key])
    return made


def _channels(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(1, 3, 1, 1)
