"""INT8 by NNCF's post-training quantization, in one call; calibrated on training images only."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.errors import ExportError
from tavt_kit.exporters.to_onnx import INPUT

__all__ = ["DEFAULT_IMAGES", "RECIPE", "quantize"]

DEFAULT_IMAGES = 300

RECIPE: Mapping[str, Any] = MappingProxyType(
    {"method": "nncf.quantize", "preset": "mixed", "model_type": "transformer", "fast_bias_correction": True}
)
"""What is recorded of how it was done. Without ``model_type=transformer`` quantized ViTs come out slower or wrong."""

_log = logging.getLogger(__name__)


def quantize(model: Any, images: NDArray[np.float32]) -> Any:
    """The model with 8-bit weights and activations; normalisation, softmax and the token choice stay in float.

    Args:
        model: An ``openvino.Model`` or an ``onnx.ModelProto`` with one input ``images``; it stays as it is.
        images: (n, 3, H, W) preprocessed training images; their ranges become the activations' scales.

    Returns:
        A model of the same kind.

    Raises:
        ExportError: There are no images, or NNCF cannot quantize the model.
    """
    if not len(images):
        raise ExportError("int8 needs images to calibrate on, but none was given; give training data with --data")
    with _quiet():
        import nncf

        is_onnx = type(model).__module__.startswith("onnx")
        items = [{INPUT: image[None]} if is_onnx else image[None] for image in images]
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset(items),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER,
                fast_bias_correction=True,
                subset_size=len(items),
            )
        except Exception as error:  # NNCF raises whatever its backend raises
            raise ExportError(
                f"NNCF cannot quantize the model ({type(error).__name__}: {error}); export it as f32, or for OpenVINO"
            ) from error
    _log.info("quantized to int8, calibrated on %d images", len(items))
    return quantized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws its progress on stdout, which belongs to the verb, and logs at INFO through its own handler."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
