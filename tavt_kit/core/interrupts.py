"""Ctrl-C where it is lost: a library that is struck while it calls Python, or imports, raises an error of its own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noted_interrupts() -> Iterator[list[float]]:
    """The moments (``time.monotonic``) of the Ctrl-Cs within the block, which do what they did before, too."""
    before, moments = signal.getsignal(signal.SIGINT), list[float]()

    def note(number: int, frame: Any) -> None:
        moments.append(time.monotonic())
        before(number, frame)  # type: ignore[operator, misc]

    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield moments
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield moments
    finally:
        signal.signal(signal.SIGINT, before)
