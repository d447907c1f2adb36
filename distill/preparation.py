"""The part of reading a picture that draws nothing: decoded, resized, perhaps cropped. What memory and cache hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tavt_kit.data.preprocess import Preprocessing, resize_crop
from tavt_kit.distill.reading import Reading

__all__ = ["Preparation"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """From a decoded picture to bytes (3, h, w).

    Args:
        preprocessing: The model's.
        resize: As ``Reading.resize``.
        centred: Cut the centre, of the model's size.
        interpolation: Pillow's filter of ``resize``; ``None`` is evaluation's preprocessing, and nothing else.
    """

    preprocessing: Preprocessing
    resize: int | tuple[int, int] | None = None
    centred: bool = False
    interpolation: str | None = None

    @classmethod
    def of(cls, reading: Reading, preprocessing: Preprocessing) -> Preparation:
        """What ``reading`` does before anything is drawn."""
        if reading.as_evaluated:
            return cls(preprocessing)
        interpolation = reading.interpolation or preprocessing.interpolation
        return cls(preprocessing, reading.resize, reading.crop == "centre", interpolation)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width, where all pictures get the same."""
        if self.interpolation is None or self.centred:
            return self.preprocessing.image_size
        return self.resize if isinstance(self.resize, tuple) else None

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture of these gets."""
        return self.fixed_size or self._resized(height, width)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """(3, h, w) bytes of an RGB picture."""
        if self.interpolation is None:
            return resize_crop(image, self.preprocessing)
        height, width = self._resized(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        pixels = np.asarray(image)
        if self.centred:
            inner_h, inner_w = self.preprocessing.image_size
            top, left = round((height - inner_h) / 2), round((width - inner_w) / 2)
            pixels = pixels[top : top + inner_h, left : left + inner_w]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        # int(), not round(): torchvision's shorter-edge rule.
        longer = int(self.resize * max(height, width) / min(height, width))
        return (self.resize, longer) if height <= width else (longer, self.resize)

    def as_record(self) -> dict[str, Any]:
        """JSON-ready: what the bytes depend on."""
        own = {"resize": self.resize, "centred": self.centred, "interpolation": self.interpolation}
        if self.interpolation is None:
            return {"preprocessing": self.preprocessing.as_record()}
        return {**own, "image_size": self.preprocessing.image_size if self.centred else None}
