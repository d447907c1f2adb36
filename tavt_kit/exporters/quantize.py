"""8 bits by NNCF: post-training quantization, with or without accuracy control, and of the weights alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError
from tavt_kit.exporters.to_onnx import INPUT
from tavt_kit.runtimes.session import LENGTHS
from tavt_kit.runtimes.suppress_output import suppress_output

_log = logging.getLogger(__name__)

Feed = dict[str, NDArray[Any]]

CHATTY = ("nncf", None)
"""Loggers of quantizers: NNCF's own, and the root, which onnxruntime's advises by."""


_RANK = 3
"""Of tokens (batch, token, channel)."""


def feeds(images: NDArray[np.float32], schedules: Sequence[TokenSchedule] = ()) -> list[Feed]:
    """One batch of one for each image (n, 3, H, W); of a switchable model the schedules take turns."""
    counts = [np.asarray(schedule.counts, np.int64) for schedule in schedules]
    return [
        {INPUT: image[None], **({LENGTHS: counts[place % len(counts)]} if counts else {})}
        for place, image in enumerate(images)
    ]


def quantize(
    model: Any, images: NDArray[np.float32], schedules: Sequence[TokenSchedule] = (), *, smooth: bool = True
) -> Any:
    """The model with 8-bit weights and activations; normalisation, softmax and the token choice stay in float.

    Args:
        model: An ``openvino.Model`` or an ``onnx.ModelProto``; it stays as it is.
        images: (n, 3, H, W) preprocessed training images; their ranges become the activations' scales.
        schedules: Of a switchable model: what it is calibrated at, in turns.
        smooth: Whether SmoothQuant moves scale from activations into weights (Xiao et al., 2023); it helps some ViTs
            and hurts others, so both are worth a try.

    Returns:
        A model of the same kind.

    Raises:
        ExportError: There are no images, or NNCF cannot quantize the model.
    """
    _some(images)
    quantized = quantize_fed(model, feeds(images, schedules), smooth=smooth)
    _log.info("quantized to int8, calibrated on %d images, SmoothQuant %s", len(images), "on" if smooth else "off")
    return quantized


def quantize_fed(model: Any, given: Sequence[Any], *, smooth: bool) -> Any:
    """As ``quantize``, of any graph: a latency table's parts take other inputs than images.

    Args:
        model: As of ``quantize``.
        given: One after another what to calibrate on, each by the names or places of the graph's inputs.
        smooth: As of ``quantize``.

    Raises:
        ExportError: NNCF cannot quantize the model.
    """
    with suppress_output(*CHATTY):
        import nncf

        try:
            return nncf.quantize(model, nncf.Dataset(given), **_settings(nncf, model, smooth), subset_size=len(given))
        except Exception as error:  # NNCF raises whatever its backend raises
            raise _refusal(error) from error


def quantize_carefully(
    model: Any,
    images: NDArray[np.float32],
    held_out: NDArray[np.float32],
    labels: NDArray[np.int64],
    schedules: Sequence[TokenSchedule] = (),
    *,
    smooth: bool,
    max_drop: float,
) -> Any:
    """As ``quantize``, with layers put back to float until top-1 on ``held_out`` falls by at most ``max_drop``.

    Args:
        model: An ``openvino.Model``; NNCF controls the accuracy of no other.
        images: Calibrate.
        held_out: Training images that do not calibrate.
        labels: Of them.
        schedules: As of ``quantize``.
        smooth: As of ``quantize``.
        max_drop: A fraction of all images.

    Raises:
        ExportError: As ``quantize``, or the loss cannot be brought below.
    """
    _some(images)
    _some(held_out)
    with suppress_output(*CHATTY):
        import nncf

        pairs = list(zip(feeds(held_out, schedules), labels.tolist(), strict=True))
        try:
            return nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(feeds(images, schedules)),
                nncf.Dataset(pairs, lambda pair: pair[0]),
                _top1,
                max_drop=max_drop,
                subset_size=len(images),
                **_named(_settings(nncf, model, smooth)),
            )
        except Exception as error:
            raise _refusal(error) from error


def compress_weights(model: Any) -> Any:
    """The ``openvino.Model`` with 8-bit weights (asymmetric, a scale for each output channel); it computes in float.

    Raises:
        ExportError: NNCF cannot compress the model.
    """
    with suppress_output(*CHATTY):
        import nncf

        try:
            return nncf.compress_weights(model.clone(), mode=nncf.CompressWeightsMode.INT8_ASYM)
        except Exception as error:
            raise _refusal(error) from error


def _settings(nncf: Any, model: Any, smooth: bool) -> dict[str, Any]:
    """Without ``model_type=TRANSFORMER`` quantized ViTs come out slower or wrong."""
    parameters = nncf.quantization.advanced_parameters
    # NNCF's own default for attention, and -1 for "not at all".
    alphas = parameters.AdvancedSmoothQuantParameters(convolution=-1, matmul=0.95 if smooth else -1)
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "fast_bias_correction": True,
        "ignored_scope": nncf.IgnoredScope(names=merging_products(model)),
        "advanced_parameters": parameters.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
    }


def merging_products(model: Any) -> list[str]:
    """Names of the products that merge tokens: similarities, and means of those that share an owner.

    Eight bits there change which tokens merge: ViT-S/14 at 98 px on ELPV lost 6 points by them, and no time is won.
    They are products of two tensors of rank 3 (attention's have rank 4, a layer's weight has rank 2), in a graph that
    multiplies a tensor by itself, as ViTAE's reduction cells, which have such products too, do not.

    Args:
        model: An ``openvino.Model`` or an ``onnx.ModelProto``.
    """
    products = list(_onnx_products(model) if hasattr(model, "graph") else _openvino_products(model))
    return [name for name, _, _ in products] if any(left == right for _, left, right in products) else []


def _openvino_products(model: Any) -> Iterator[tuple[str, str, str]]:
    """Name and sources of each product of two tensors of rank 3."""
    for op in model.get_ops():
        if op.get_type_name() == "MatMul" and all(len(op.input(k).get_partial_shape()) == _RANK for k in range(2)):
            nodes = [op.input_value(k).get_node() for k in range(2)]
            nodes = [n.input_value(0).get_node() if n.get_type_name() == "Transpose" else n for n in nodes]
            yield op.get_friendly_name(), nodes[0].get_friendly_name(), nodes[1].get_friendly_name()


def _onnx_products(model: Any) -> Iterator[tuple[str, str, str]]:
    """As ``_openvino_products``."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {entry.name: len(entry.type.tensor_type.shape.dim) for entry in (*graph.value_info, *graph.input)}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    for node in graph.node:
        if node.op_type == "MatMul" and all(ranks.get(name) == _RANK for name in node.input):
            left, right = (turned.get(name, name) for name in node.input)
            yield node.name, left, right


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings as NNCF names them for accuracy control."""
    return {f"advanced_quantization_{k[9:]}" if k.startswith("advanced_") else k: v for k, v in settings.items()}


def _top1(compiled: Callable[[Feed], Any], pairs: Iterable[tuple[Feed, int]]) -> tuple[float, list[float]]:
    right = [float(np.asarray(compiled(feed)[0]).argmax() == label) for feed, label in pairs]
    return sum(right) / len(right), right


def _some(images: NDArray[np.float32]) -> None:
    if not len(images):
        raise ExportError("int8 needs images to calibrate on, but none was given; give training data with `data`")


def _refusal(error: Exception) -> ExportError:
    return ExportError(
        f"NNCF cannot quantize the model ({type(error).__name__}: {error}); choose precision f32, or OpenVINO"
    )
