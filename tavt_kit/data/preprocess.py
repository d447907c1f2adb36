"""From an image file to a model's input: opened, resized, cropped and normalised as timm does."""

from __future__ import annotations

import logging
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tavt_kit.core.codec import Record
from tavt_kit.core.records import atomic_path
from tavt_kit.errors import DataError

_log = logging.getLogger(__name__)
BACKGROUND = "white"
"""What shows through where an image is transparent; the colours hidden there mean nothing."""
_CROP_MODES = ("center", "border", "squash")
_RESAMPLING = {mode.name.lower(): mode for mode in Image.Resampling}
_MOST_PIXELS = 150_000_000
"""Of a resized image: a line of a few thousand pixels, one pixel high, would otherwise take gigabytes."""
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error,
            Image.DecompressionBombError)  # fmt: skip
"""What Pillow's decoders raise on damaged files: each its own."""


@dataclass(frozen=True, slots=True)
class Preprocessing(Record):
    """What is done to an image before the model sees it.

    Args:
        image_size: Height and width of the model's input, in pixels.
        crop_pct: Share of the resized image that the crop keeps; 1.0 cuts nothing off the shorter edge.
        crop_mode: ``"center"`` (shortest edge, then crop), ``"border"`` (longest edge, then pad with the
            mean colour) or ``"squash"`` (both edges, the aspect ratio is lost).
        interpolation: Name of a Pillow filter: bicubic, bilinear, nearest, box, hamming, lanczos.
        mean: Mean of each channel, in 0..1.
        std: Standard deviation of each channel, above 0.

    Raises:
        DataError: A value is out of its range.

    Example:
        >>> Preprocessing((224, 224)).crop_pct
        0.875
    """

    image_size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _size(self.image_size))
        object.__setattr__(self, "mean", _channels("mean", self.mean))
        object.__setattr__(self, "std", _channels("std", self.std))
        object.__setattr__(self, "crop_pct", float(self.crop_pct))
        if not 0.0 < self.crop_pct <= 2.0:
            raise DataError(f"crop_pct must be above 0 and at most 2, got {self.crop_pct}")
        if self.crop_mode not in _CROP_MODES:
            raise DataError(f"crop_mode must be one of {', '.join(_CROP_MODES)}, got {self.crop_mode!r}")
        if self.interpolation not in _RESAMPLING:
            raise DataError(f"interpolation must be one of {', '.join(_RESAMPLING)}, got {self.interpolation!r}")
        if min(self.std) <= 0:
            raise DataError(f"std must be above 0 in every channel, got {self.std}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], image_size: int | Sequence[int] | None = None) -> Preprocessing:
        """From timm's ``pretrained_cfg`` or data config, at another size if given; None takes timm's default.

        Example:
            >>> Preprocessing.from_config({"input_size": (3, 518, 518), "crop_pct": 1.0}, 112).image_size
            (112, 112)
        """
        channels, *size = config.get("input_size") or (3, 224, 224)
        if channels != 3:
            raise DataError(f"models must take images of 3 channels, but this one takes {channels}")
        given = {name: config.get(name) for name in ("crop_pct", "crop_mode", "interpolation", "mean", "std")}
        return cls(
            _size(size if image_size is None else image_size),
            **{name: value for name, value in given.items() if value is not None},
        )

    def at(self, image_size: int | Sequence[int]) -> Preprocessing:
        """The same for another input size."""
        return replace(self, image_size=_size(image_size))


def open_image(source: Path | str | bytes) -> Image.Image:
    """An image as 8-bit RGB, turned upright by its EXIF orientation; of several frames the first.

    Grey becomes three equal channels, 16-bit grey is scaled to 8 bits (Pillow alone would clip it to white),
    and what is transparent shows white. The source is a path, or bytes.

    Raises:
        DataError: It does not exist, is no image, is truncated, or has 32-bit pixels, which have no agreed range.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    with _named(name), Image.open(BytesIO(source) if isinstance(source, bytes) else _regular(source)) as image:
        image.load()
        return _as_rgb(ImageOps.exif_transpose(image), image.format)


def open_size(source: Path) -> tuple[int, int]:
    """Height and width of what ``open_image`` gives, by the file's first bytes; its pixels are not decoded."""
    with _named(str(source)), Image.open(_regular(source)) as image:
        on_its_side = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (image.width, image.height) if on_its_side else (image.height, image.width)


@cache
def _tell_of_transparency() -> None:
    """Once a process."""
    _log.warning("transparent images are seen on %s, whatever colours their pixels hide", BACKGROUND)


def _regular(source: Path | str) -> Path:
    """The path, unless opening it would wait for another process."""
    path = Path(source)
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    return path


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What Pillow raises, as a DataError that names the image."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"cannot read {name}: no such file") from None
    except _DAMAGED as error:
        reason = "not an image Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"cannot read {name}: {reason}") from None


def _as_rgb(image: Image.Image, form: str | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and form == "PNG"):
        # Older Pillow opens 16-bit PNG as mode I. 65535 must become 255, hence 257.
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no agreed range; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            _tell_of_transparency()
            image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_crop(image: Image.Image, p: Preprocessing) -> NDArray[np.uint8]:
    """An image, 8-bit RGB from ``open_image``, resized and cropped: (3, H, W) bytes, which ``normalise`` makes inputs.

    Raises:
        DataError: The image is so thin that it would become too large when resized.
    """
    height, width = p.image_size
    # timm floors here; a crop_pct of 0.9 makes 224 -> 248.
    scaled = (math.floor(height / p.crop_pct), math.floor(width / p.crop_pct))
    image = image if image.mode == "RGB" else image.convert("RGB")
    size = resized_to((image.height, image.width), scaled, p.crop_mode)
    if size[0] * size[1] > _MOST_PIXELS:
        raise DataError(
            f"an image must not grow beyond {_MOST_PIXELS} pixels when it is resized, but "
            f"{image.width}x{image.height} would become {size[1]}x{size[0]}; crop it"
        )
    if size != (image.height, image.width):
        image = image.resize((size[1], size[0]), _RESAMPLING[p.interpolation])
    fill = tuple(round(255 * m) for m in p.mean) if p.crop_mode == "border" else (0, 0, 0)
    more_h, more_w = max(0, height - image.height), max(0, width - image.width)
    if more_h or more_w:  # padded where the image is smaller
        padded = Image.new("RGB", (image.width + more_w, image.height + more_h), fill)
        padded.paste(image, (more_w // 2, more_h // 2))
        image = padded
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    centre = image.crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(centre).transpose(2, 0, 1))


def normalise(pixels: NDArray[np.uint8], p: Preprocessing) -> NDArray[np.float32]:
    """(..., 3, H, W) bytes to a model's input in float32, step by step as torchvision."""
    values: NDArray[np.float32] = pixels.astype(np.float32)
    values /= np.float32(255)
    values -= np.asarray(p.mean, np.float32)[:, None, None]
    values /= np.asarray(p.std, np.float32)[:, None, None]
    return values


def resized_to(size: tuple[int, int], target: tuple[int, int], mode: str) -> tuple[int, int]:
    """(height, width) after resizing an image of ``size`` towards ``target``, with timm's own roundings."""
    if mode == "squash":
        return target
    ratios = (size[0] / target[0], size[1] / target[1])
    if mode == "center" and target[0] == target[1]:
        short, long = min(size), max(size)
        # int(), not round(): torchvision's shortest-edge rule.
        other = int(target[0] * long / short)
        resized = (target[0], other) if size[0] <= size[1] else (other, target[0])
    else:
        ratio = max(ratios) if mode == "border" else min(ratios)
        resized = (round(size[0] / ratio), round(size[1] / ratio))
    return max(1, resized[0]), max(1, resized[1])


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if isinstance(height, bool) or not (isinstance(height, int) and isinstance(width, int)):
        raise DataError(f"an image size is whole pixels, height and width, got {size!r}")
    if min(height, width) < 1:
        raise DataError(f"an image size must be at least 1 pixel, got {height}x{width}")
    return height, width


def _channels(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise DataError(f"{name} must have 3 channels, got {values!r}")
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise DataError(f"{name} must be finite in every channel, got {values!r}")
    return red, green, blue


_SIDE = 224
"""Longest side of a thumbnail in pixels: sharp on twice the density it is shown at, a few kilobytes each."""


def save_thumbnail(pixels: NDArray[np.uint8], path: Path) -> None:
    """The model's crop, (3, height, width), as a small JPEG; same aspect ratio, so that a patch grid still fits."""
    height, width = pixels.shape[1:]
    scale = min(1.0, _SIDE / max(height, width))
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if scale < 1.0:
        size = (max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    with atomic_path(path) as temporary:
        image.save(temporary, quality=82, optimize=True)
