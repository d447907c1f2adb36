"""OpenVINO's core: one for the process, for as long as it lives.

Each core's CPU plugin gives the thread that makes it a signal stack, and puts the one before it back when it goes. Of
several cores that do not go in the opposite order, one puts back a stack that is no longer there, and the next signal
(Ctrl-C) ends the process by a segmentation fault. Seen with OpenVINO 2026.4.1 on Linux, by gdb's trace of sigaltstack.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def openvino_core() -> Any:
    """The ``openvino.Core`` that everything here reads and compiles by."""
    import openvino

    return openvino.Core()
