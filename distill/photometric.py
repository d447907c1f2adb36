"""Random changes of one training picture by torchvision and timm: turns, policies, colours, blur, erasing.

These libraries draw from the global generators of Python, numpy and torch; ``seeded`` makes their draws functions of
a key, and puts the generators back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.reading import Reading
from tavt_kit.errors import TrainingError
from tavt_kit.models.timm_import import timm  # before torchvision, which imports only so beside a CPU-only torch

from torchvision import transforms  # isort: skip

__all__ = ["eraser", "photometric", "seeded"]

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


def photometric(reading: Reading, preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image] | None:
    """The changes of one picture, in order; ``None`` where there are none.

    Raises:
        TrainingError: timm cannot read the policy.
    """
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


def _policy(text: str, reading: Reading, preprocessing: Preprocessing) -> Any:
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
    for step in _steps(policy):
        if step.aug_fn is timm.data.auto_augment.posterize:
            step.aug_fn = _posterize
    return policy


def _steps(policy: Any) -> Iterator[Any]:
    """timm's ``AugmentOp`` of which a policy draws."""
    for group in getattr(policy, "policy", None) or [policy.ops]:
        yield from group


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's own asks for 0 bits at the greatest strengths: black, but an error from Pillow 13 on."""
    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


def eraser(reading: Reading) -> Callable[[Tensor], Tensor] | None:
    """Erases a rectangle of one normalised picture (3, H, W), in place; ``None`` where none is asked for."""
    if not reading.erasing:
        return None
    mode = "pixel" if reading.erasing_fill == "noise" else "const"
    erase: Callable[[Tensor], Tensor] = timm.data.random_erasing.RandomErasing(
        reading.erasing, mode=mode, device="cpu", **_ERASED
    )
    return erase
