"""Random crops of prepared pictures, to the model's size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.photometric import seeded
from tavt_kit.distill.reading import Reading

from torchvision import transforms  # isort: skip  # after photometric, which makes it importable

__all__ = ["crop"]


def crop(pixels: NDArray[np.uint8], reading: Reading, preprocessing: Preprocessing, *key: int) -> NDArray[np.uint8]:
    """A picture as large as the model's input.

    Args:
        pixels: (3, h, w), from ``Preparation``; it stays as it was.
        reading: Says how; where its crop is not random, the picture has the size already.
        preprocessing: The model's.
        key: What is drawn is a function of.

    Returns:
        (3, H, W)
    """
    height, width = preprocessing.image_size
    if reading.crop == "random":
        draws = np.random.default_rng(key)
        top = int(draws.integers(pixels.shape[1] - height, endpoint=True))
        left = int(draws.integers(pixels.shape[2] - width, endpoint=True))
        return pixels[:, top : top + height, left : left + width]
    if reading.crop == "random-resized":
        whole = torch.empty(pixels.shape, device="meta")  # torchvision asks it for its size only
        with seeded(*key):
            top, left, rows, columns = transforms.RandomResizedCrop.get_params(
                whole, list(reading.scale), list(reading.ratio)
            )
        part = np.ascontiguousarray(pixels[:, top : top + rows, left : left + columns].transpose(1, 2, 0))
        name = (reading.interpolation or preprocessing.interpolation).upper()
        resized = Image.fromarray(part).resize((width, height), Image.Resampling[name])
        return np.asarray(resized).transpose(2, 0, 1)
    return pixels
