"""A torch module as an ONNX graph in memory, to be timed: what is shipped is written by ``exporters.to_onnx``."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tavt_kit.errors import ExportError, first_line
from tavt_kit.runtimes.suppress_output import suppress_output

if TYPE_CHECKING:
    from torch import nn

_OPSET = 17


def module_to_onnx(
    module: nn.Module, example: Sequence[Any], names: Sequence[str], axes: Mapping[str, Mapping[int, str]]
) -> bytes:
    """The ``.onnx`` file of a module in eval mode, by torch's tracing exporter.

    The module selects tokens by TopK where it drops any; the example has two images or more, because a batch of one
    would be baked in. Raises ExportError where the exporter cannot write it.
    """
    import torch

    file: Any = io.BytesIO()  # taken by this exporter, though its types speak of paths only
    try:
        with quiet_exporters(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(example),
                file,
                dynamo=False,
                opset_version=_OPSET,
                input_names=list(names),
                dynamic_axes={name: dict(of) for name, of in axes.items()},
            )
    except Exception as error:  # the exporter raises whatever the failing operator raises
        raise ExportError(
            f"torch cannot write {type(module).__name__} as an ONNX graph ({first_line(error)}); choose target "
            "openvino or torch"
        ) from error
    written: bytes = file.getvalue()
    return written


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Both of torch's exporters warn of every constant token count, and print and log what they skip or raise."""
    import torch

    core: Any = torch._C
    printer = core._jit_onnx_log
    core._jit_onnx_log = lambda *told: None  # on stdout, and torch 2.13 turns it on whatever its switch says
    try:
        with suppress_output("torch.onnx", "onnxscript", "onnx_ir", level=logging.CRITICAL):
            yield
    finally:
        core._jit_onnx_log = printer
