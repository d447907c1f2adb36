"""Fewer bits, by NNCF and by onnxruntime's own tools: int8 and f16; training images choose the way."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.progress import Progress
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError
from tavt_kit.exporters.options import Int8Options
from tavt_kit.runtimes.session import INPUT, LENGTHS
from tavt_kit.runtimes.suppress_output import suppress_output

_log = logging.getLogger(__name__)

Feed = dict[str, NDArray[Any]]

CHATTY = ("nncf", None)
"""Loggers of quantizers: NNCF's own, and the root, which onnxruntime's advises by."""


_RANK = 3
"""Of tokens (batch, token, channel)."""


def feeds(images: NDArray[np.float32], schedules: Sequence[TokenSchedule] = ()) -> list[Feed]:
    """What to calibrate on: a batch of one for each image (n, 3, H, W); schedules of a switchable model take turns."""
    if not len(images):
        raise ExportError("int8 needs images to calibrate on, but none was given; give training data with `data`")
    counts = [np.asarray(schedule.counts, np.int64) for schedule in schedules]
    return [
        {INPUT: image[None], **({LENGTHS: counts[index % len(counts)]} if counts else {})}
        for index, image in enumerate(images)
    ]


def quantize(model: Any, given: Sequence[Any], *, smooth: bool = True) -> Any:
    """The model with 8-bit weights and activations; normalisation, softmax and the token choice stay in float.

    Args:
        model: An ``openvino.Model`` or an ``onnx.ModelProto``; it stays as it is.
        given: ``feeds`` of training images, whose ranges become the activations' scales; for other graphs values by the
            names or indices of the inputs.
        smooth: Whether SmoothQuant moves scale from activations into weights (Xiao et al., 2023); it helps some ViTs
            and hurts others, so both are worth a try.
    """
    with _quietly("NNCF", "quantize"):
        import nncf

        parameters = nncf.quantization.advanced_parameters
        # NNCF's own default for attention, and -1 for "not at all".
        alphas = parameters.AdvancedSmoothQuantParameters(convolution=-1, matmul=0.95 if smooth else -1)
        return nncf.quantize(
            model,
            nncf.Dataset(given),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,  # without it quantized ViTs come out slower or wrong
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=merging_products(model)),
            advanced_parameters=parameters.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
            subset_size=len(given),
        )


@contextlib.contextmanager
def _quietly(library: str, what: str) -> Iterator[None]:
    """While a quantizer works: nothing of what it prints; what it raises, whatever that is, becomes an ExportError."""
    with suppress_output(*CHATTY):
        try:
            yield
        except Exception as error:
            other = ", or OpenVINO" if library == "NNCF" else ""
            raise ExportError(
                f"{library} cannot {what} the model ({type(error).__name__}: {error}); choose precision f32{other}"
            ) from error


def merging_products(model: Any) -> list[str]:
    """Names of the products that merge tokens: similarities, and means of those that share an owner.

    Eight bits there change which tokens merge: ViT-S/14 at 98 px on ELPV lost 6 points by them, and no time is won.
    They are products of two tensors of rank 3 (attention's have rank 4, a layer's weight has rank 2), in a graph that
    multiplies a tensor by itself, as ViTAE's reduction cells, which have such products too, do not.
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
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {entry.name: len(entry.type.tensor_type.shape.dim) for entry in (*graph.value_info, *graph.input)}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    for node in graph.node:
        if node.op_type == "MatMul" and all(ranks.get(name) == _RANK for name in node.input):
            left, right = (turned.get(name, name) for name in node.input)
            yield node.name, left, right


_HEAVY = ("Conv", "Gemm", "MatMul")
_FLOAT = ("Softmax", "ReduceSum", "TopK")


def quantize_statically(model: onnx.ModelProto, given: Sequence[Feed]) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear around its linear layers; a weight scale for each channel.

    Products of two activations (attention), softmax, scores, top-k and norms stay in float.
    """
    import onnxruntime

    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    onnxruntime.set_default_logger_severity(3)  # the sessions that it calibrates with warn of their own leftovers
    try:
        with _quietly("onnxruntime", "quantize"), tempfile.TemporaryDirectory(prefix="fgvc-kit-int8-") as folder:
            from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

            class Reader(CalibrationDataReader):  # type: ignore[misc]
                def __init__(self) -> None:
                    self.left = iter(given)

                def get_next(self) -> Feed | None:
                    return next(self.left, None)

            source, path = Path(folder) / "f32.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, str(source))  # from memory it would be changed in place
            quantize_static(
                source,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_HEAVY),
                # Not MatMulConstBOnly, which says the same and does nothing for QDQ (onnxruntime 1.31).
                nodes_to_exclude=[node.name for node in products if not weights & set(node.input)],
                extra_options={"WeightSymmetric": True},
            )
            return onnx.load(str(path))
    finally:
        onnxruntime.set_default_logger_severity(2)


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in f16, images and logits too; softmax, scores and top-k stay in f32 so that no false ties arise."""
    with _quietly("onnxruntime", "halve"):
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        # keep_io_types=False: what takes f16 says so by its input's type.
        kept = [*DEFAULT_OP_BLOCK_LIST, *_FLOAT]
        half: onnx.ModelProto = convert_float_to_float16(copy.deepcopy(model), op_block_list=kept)
    return half


@dataclass(frozen=True, slots=True)
class Examples:
    """Training images: some (n, 3, H, W) calibrate, others (m, 3, H, W), which may be none, choose by labels (m,)."""

    calibration: NDArray[np.float32]
    held_out: NDArray[np.float32]
    labels: NDArray[np.int64]


def make_int8(
    model: Any, card: ArtifactCard, examples: Examples, options: Int8Options, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """The int8 model of the way that keeps most answers, and the record of all that was tried.

    The better way has the higher share of held-out images with the float model's answer (of a switchable model over all
    presets), then the higher accuracy, then the nearer logits.

    Args:
        model: An ``openvino.Model`` or ``onnx.ModelProto`` in f32; it stays as it is.
        card: A switchable model is calibrated and tried at all of its presets.

    Raises:
        ExportError: No way works.
    """
    presets = tuple(card.presets.values())
    ways = options.ways("onnx" if _is_onnx(model) else "openvino")
    best, best_rank, chosen, tried = None, None, ways[0], []
    before = _answers(model, card, examples) if len(ways) > 1 and len(examples.held_out) else None
    for way in ways[:1] if before is None else ways:
        progress.update(f"quantizing by {way['quantizer']}, SmoothQuant {'on' if way['smooth_quant'] else 'off'}")
        made = _quantize(model, way, feeds(examples.calibration, presets))
        if before is None:
            best = made
            continue
        after = _answers(made, card, examples)
        said = after.argmax(2)
        numbers = {
            "agreement": float((said == before.argmax(2)).mean()),
            "top1": float((said == examples.labels).mean()),
            "difference": float(np.abs(after - before).mean()),
        }
        rank = numbers["agreement"], numbers["top1"], -numbers["difference"]
        if best_rank is None or rank > best_rank:
            best, best_rank, chosen = made, rank, way
        tried.append({**way, **{name: round(value, 6) for name, value in numbers.items()}})
    record = {**chosen, "held_out": len(examples.held_out), "tried": tried}
    _log.info("int8: %s", record)
    return best, record


def _quantize(model: Any, way: dict[str, Any], given: Sequence[Feed]) -> Any:
    if way["quantizer"] == "onnxruntime":
        return quantize_statically(model, given)
    return quantize(model, given, smooth=way["smooth_quant"])


def _answers(model: Any, card: ArtifactCard, examples: Examples) -> NDArray[np.float32]:
    """(presets or 1, m, classes): the logits of the held-out images, one by one, on the model's own runtime."""
    with tempfile.TemporaryDirectory() as folder:
        if _is_onnx(model):
            from tavt_kit.runtimes import open_file

            path = Path(folder) / "m.onnx"
            onnx.save(model, str(path))
            session: Any = open_file(path, TargetDevice("onnxruntime", "cpu"), card.lengths)
        else:
            from tavt_kit.runtimes.on_openvino import OpenvinoSession

            target = TargetDevice("openvino", "cpu")
            session = OpenvinoSession(model, target, time.perf_counter(), of_file=True, lengths=card.lengths)
        runs = [session.at(schedule.counts) for schedule in card.presets.values()] or [session]
        return np.stack([np.concatenate([run(image[None]) for image in examples.held_out]) for run in runs])


def _is_onnx(model: Any) -> bool:
    return type(model).__module__.startswith("onnx")
