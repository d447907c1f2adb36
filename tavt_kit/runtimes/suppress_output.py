"""Libraries that talk while they work, kept quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def suppress_output(*loggers: str | None, level: int = logging.ERROR) -> Iterator[None]:
    """No warnings, nothing on stdout (which belongs to the verb), and of these loggers nothing below a level."""
    silenced = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in silenced]
    for logger in silenced:
        logger.setLevel(level)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(silenced, levels, strict=True):
            logger.setLevel(before)


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
