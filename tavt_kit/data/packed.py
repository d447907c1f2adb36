"""Images packed into one file: CIFAR's binary version, whose records are named ``file.bin/place``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tavt_kit.errors import DataError

PIXELS = 3 * 32 * 32
"""Bytes of one image: planes of red, green and blue, 32 by 32."""


def open_record(path: Path) -> NDArray[np.uint8]:
    """The image at ``file.bin/place``.

    Returns:
        (32, 32, 3) uint8.

    Raises:
        DataError: The file is gone or shorter than that.
    """
    record = (2 if path.parent.name in ("train.bin", "test.bin") else 1) + PIXELS
    try:
        with path.parent.open("rb") as stream:
            stream.seek(int(path.name) * record)
            data = stream.read(record)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if len(data) != record:
        raise DataError(f"cannot read {path}: the file ends before it")
    return np.frombuffer(data[-PIXELS:], np.uint8).reshape(3, 32, 32).transpose(1, 2, 0).copy()
