"""An ONNX graph in fewer bits by onnxruntime's own tools: static int8 (QDQ), weights of 8 bits, and f16."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError
from tavt_kit.exporters.quantize import CHATTY, Feed, feeds
from tavt_kit.runtimes.suppress_output import suppress_output

_HEAVY = ("Conv", "Gemm", "MatMul")
_FLOAT = ("Softmax", "ReduceSum", "TopK")
_BLOCK = 64  # weights that share a scale


def quantize_statically(
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    schedules: Sequence[TokenSchedule] = (),
    *,
    symmetric: bool = False,
) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear around its linear layers; a weight scale for each channel.

    Products of two activations (attention), softmax, scores, top-k and norms stay in float.

    Args:
        model: In f32; it stays as it is.
        images: (n, 3, H, W) preprocessed training images.
        schedules: Of a switchable model: what it is calibrated at, in turns.
        symmetric: Zero points of 0 everywhere, as TensorRT wants them.

    Raises:
        ExportError: onnxruntime cannot quantize the model.
    """
    return quantize_statically_fed(model, feeds(images, schedules), symmetric=symmetric)


def quantize_statically_fed(
    model: onnx.ModelProto, given: Sequence[Feed], *, symmetric: bool = False
) -> onnx.ModelProto:
    """As ``quantize_statically``, of any graph: a latency table's parts take other inputs than images.

    Args:
        model: In f32; it stays as it is.
        given: One after another what to calibrate on, by the names of the graph's inputs.
        symmetric: As of ``quantize_statically``.

    Raises:
        ExportError: onnxruntime cannot quantize the model.
    """
    with suppress_output(*CHATTY), _unwarned(), tempfile.TemporaryDirectory(prefix="fgvc-kit-int8-") as folder:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left = iter(given)

            def get_next(self) -> Feed | None:
                return next(self.left, None)

        source, path = Path(folder) / "f32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, str(source))  # from memory it would be changed in place
        try:
            quantize_static(
                source,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_HEAVY),
                # Not MatMulConstBOnly, which says the same and does nothing for QDQ (onnxruntime 1.31).
                nodes_to_exclude=_of_activations(model),
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
            return onnx.load(str(path))
        except Exception as error:  # whatever the failing step raises
            raise _refusal("quantize", error) from error


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """The sessions that onnxruntime calibrates with warn of their own leftovers."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _of_activations(model: onnx.ModelProto) -> list[str]:
    """The products without a weight: attention's, whose results softmax and scores are made of."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and not weights & set(node.input)]


def compress_onnx_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with 8-bit weights in blocks of 64 (``MatMulNBits``, an operator of onnxruntime's own).

    Smaller, not faster: on a CPU it is slower than f32.

    Raises:
        ExportError: onnxruntime cannot compress the model.
    """
    with suppress_output(*CHATTY):
        try:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            compressor = MatMulNBitsQuantizer(copy.deepcopy(model), bits=8, block_size=_BLOCK, accuracy_level=4)
            compressor.process()
            compressed: onnx.ModelProto = compressor.model.model
        except Exception as error:
            raise _refusal("compress the weights of", error) from error
    if all(node.op_type != "MatMulNBits" for node in compressed.graph.node):
        raise ExportError("onnxruntime found no weights to compress in the model; export it as f32 or int8")
    return compressed


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in f16, images and logits too; softmax, scores and top-k stay in f32 so that no false ties arise.

    Raises:
        ExportError: onnxruntime cannot convert the model.
    """
    with suppress_output(*CHATTY):
        try:
            from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

            # keep_io_types=False: what takes f16 says so by its input's type.
            half: onnx.ModelProto = convert_float_to_float16(
                copy.deepcopy(model), op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT]
            )
        except Exception as error:
            raise _refusal("halve", error) from error
    return half


def _refusal(what: str, error: Exception) -> ExportError:
    return ExportError(f"onnxruntime cannot {what} the model ({type(error).__name__}: {error}); choose precision f32")
