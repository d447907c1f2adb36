"""What happens to a training image: decoded, resized and cut, then changed at random.

``Preparation`` draws nothing: it is what memory holds. torchvision and timm draw from the global generators of
Python, numpy and torch; ``seeded`` makes their draws functions of a key, and puts the generators back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from tavt_kit.data.preprocess import Preprocessing, resize_crop, resized_to
from tavt_kit.distill.options import DataOptions
from tavt_kit.errors import TrainingError
from tavt_kit.models.timm_import import timm  # before torchvision, which imports only so beside a CPU-only torch

from torchvision import transforms  # isort: skip


Pixels = NDArray[np.uint8]
_SHIFT = 8


def augment(pixels: Pixels, names: Sequence[str], draws: np.random.Generator) -> Pixels:
    """A copy of a batch of images (B, 3, H, W), each changed at random."""
    pixels, count = pixels.copy(), len(pixels)
    height, width = pixels.shape[2:]
    for name in names:
        if name in ("flip", "vflip"):
            mirrored = draws.random(count) < 0.5
            pixels[mirrored] = np.flip(pixels[mirrored], 3 if name == "flip" else 2)
        elif name == "rotate":
            turns = draws.integers(0, 4, count)
            for quarter in (1, 2, 3):
                pixels[turns == quarter] = np.rot90(pixels[turns == quarter], quarter, axes=(2, 3))
        else:
            most = (height // _SHIFT, width // _SHIFT)
            downs, rights = (edge + draws.integers(-edge, edge, count, endpoint=True) for edge in most)
            padded = np.pad(pixels, ((0, 0), (0, 0), *((edge, edge) for edge in most)), mode="reflect")
            for image, large, down, right in zip(pixels, padded, downs, rights, strict=True):
                image[:] = large[:, down : down + height, right : right + width]
    return pixels


@dataclass(frozen=True, slots=True)
class Preparation:
    """From a decoded image to bytes (3, h, w); with an ``interpolation`` of None it is evaluation's preprocessing."""

    preprocessing: Preprocessing
    resize: int | tuple[int, int] | None = None
    interpolation: str | None = None

    @classmethod
    def of(cls, reading: DataOptions, preprocessing: Preprocessing) -> Preparation:
        """What ``reading`` does before anything is drawn."""
        if reading.resize is None and reading.crop == "none":
            return cls(preprocessing)
        return cls(preprocessing, reading.resize, reading.interpolation or preprocessing.interpolation)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width, where all images get the same."""
        if self.interpolation is None:
            return self.preprocessing.image_size
        return self.resize if isinstance(self.resize, tuple) else None

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """(3, h, w) bytes of an RGB image."""
        if self.interpolation is None:
            return resize_crop(image, self.preprocessing)
        height, width = before = image.height, image.width
        if isinstance(self.resize, tuple):
            height, width = self.resize
        elif self.resize is not None:
            height, width = resized_to(before, (self.resize, self.resize), "center")
        if (height, width) != before:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


_BLUR = {"kernel_size": 5, "sigma": (0.1, 5.0)}
_SHARPEN = 1.5
_ERASED = {"min_area": 0.02, "max_area": 1 / 3, "min_aspect": 0.3}


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """While entered, what Python, numpy and torch draw on the CPU is a function of ``key``."""
    python, numpy = random.getstate(), np.random.get_state()
    first, second, third = map(int, np.random.SeedSequence(key).generate_state(3))
    with torch.random.fork_rng(devices=[]):
        random.seed(first)
        np.random.seed(second)
        torch.default_generator.manual_seed(third)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def photometric(reading: DataOptions, preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image] | None:
    """The changes of one image, in order, or ``None``; TrainingError for a policy that timm cannot read."""
    steps: list[Any] = []
    if reading.rotation:
        steps.append(transforms.RandomRotation(reading.rotation))
    if reading.auto_augment is not None:
        steps.append(_policy(reading.auto_augment, reading, preprocessing))
    if reading.color_jitter:
        steps.append(transforms.ColorJitter(*reading.color_jitter))
    if reading.blur:
        steps.append(transforms.RandomApply([transforms.GaussianBlur(**_BLUR)], reading.blur))
    if reading.sharpness:
        steps.append(transforms.RandomAdjustSharpness(_SHARPEN, reading.sharpness))
    return transforms.Compose(steps) if steps else None


def _policy(text: str, reading: DataOptions, preprocessing: Preprocessing) -> Any:
    """As ``timm.data.create_transform``: translations up to 45 % of the shorter edge, gaps of the mean colour."""
    settings = {
        "translate_const": int(min(preprocessing.image_size) * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in preprocessing.mean),
        "interpolation": timm.data.transforms.str_to_pil_interp(reading.interpolation or preprocessing.interpolation),
    }
    make = timm.data.auto_augment.auto_augment_transform
    if text.startswith("rand"):
        make = timm.data.auto_augment.rand_augment_transform
    elif text.startswith("augmix"):
        make = timm.data.auto_augment.augment_and_mix_transform
        settings["translate_pct"] = 0.3
    try:
        policy = make(text, settings)
    except (AssertionError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        reason = f" ({error})" if str(error) else ""
        raise TrainingError(f"timm cannot read the policy {text!r}{reason}; see `auto_augment`") from None
    for step in chain.from_iterable(getattr(policy, "policy", None) or [policy.ops]):
        if step.aug_fn is timm.data.auto_augment.posterize:
            step.aug_fn = _posterize
    return policy


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's own asks for 0 bits at the greatest strengths: black, but an error from Pillow 13 on."""
    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


def eraser(reading: DataOptions) -> Callable[[Tensor], Tensor] | None:
    """Erases a rectangle of one normalised image (3, H, W), in place; ``None`` where none is asked for."""
    if not reading.erasing:
        return None
    mode = "pixel" if reading.erasing_fill == "noise" else "const"
    erase: Callable[[Tensor], Tensor] = timm.data.random_erasing.RandomErasing(
        reading.erasing, mode=mode, device="cpu", **_ERASED
    )
    return erase


def crop(pixels: NDArray[np.uint8], reading: DataOptions, preprocessing: Preprocessing, *key: int) -> NDArray[np.uint8]:
    """An image (3, h, w) of ``Preparation`` cut to the model's input, (3, H, W); draws are a function of the key.

    Where the crop of ``reading`` is not random, the image has the size already.
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
