"""Graphs in int8, as shipped files are quantized, but calibrated on what is given to them here: for times only."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tavt_kit.bench.table_plan import Array
from tavt_kit.errors import ExportError
from tavt_kit.quieted import quieted

__all__ = ["quantize_onnx", "quantize_openvino"]


def quantize_openvino(model: Any, feeds: Sequence[Array]) -> Any:
    """An ``openvino.Model`` in int8 by NNCF: normalisation, softmax and the token choice stay in float.

    Args:
        model: It stays as it is.
        feeds: One array for each input.

    Raises:
        ExportError: NNCF cannot quantize the graph.
    """
    with quieted("nncf"):
        import nncf

        try:
            return nncf.quantize(
                model,
                nncf.Dataset([dict(enumerate(feeds))]),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER,
                fast_bias_correction=True,
                subset_size=1,
            )
        except Exception as error:  # NNCF raises whatever its backend raises
            raise ExportError(f"NNCF cannot quantize the model ({error}); choose precision f32") from error


def quantize_onnx(model: bytes, feeds: Sequence[Array]) -> bytes:
    """An ``.onnx`` file in int8 by onnxruntime's static quantization: products with weights, per channel.

    Args:
        model: The f32 file.
        feeds: One array for each input.

    Raises:
        ExportError: onnxruntime cannot quantize the graph.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Once(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feed: dict[str, Array]) -> None:
            self.feeds = iter([feed])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    graph = onnx.load_from_string(model)
    names = [one.name for one in graph.graph.input]
    onnxruntime.set_default_logger_severity(3)  # the sessions it calibrates with warn of their own leftovers
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fgvc-kit-int8-") as folder,
            quieted(None),
        ):  # it advises by the root logger
            path = Path(folder) / "model.onnx"
            quantize_static(
                graph,
                str(path),
                Once(dict(zip(names, feeds, strict=True))),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                op_types_to_quantize=["MatMul", "Gemm", "Conv"],
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            return path.read_bytes()
    except Exception as error:  # onnxruntime's quantization raises whatever onnx does
        raise ExportError(f"onnxruntime cannot quantize the model ({error}); choose precision f32") from error
    finally:
        onnxruntime.set_default_logger_severity(2)
