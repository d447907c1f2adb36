"""How training images are read: resized, cropped, changed at random and mixed. A value; a run's record holds it.

Evaluation reads none of this: it is the model's own preprocessing, always (``tavt_kit.data.preprocess``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.augment import check_augmentations
from tavt_kit.errors import TrainingError, UnknownName

CROPS = ("none", "random", "centre", "random-resized")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos")
ERASING_FILLS = ("noise", "zero")
POLICIES = ("original", "originalr", "v0", "v0r", "3a", "rand", "augmix")
"""What timm's policy strings begin with; ``original`` is AutoAugment's ImageNet policy as the paper prints it."""

_NOT_RECORDED = ("workers", "cache")


@dataclass(frozen=True, slots=True)
class DataOptions:
    """From an image file to a model's input, in the order of the fields.

    With neither ``resize`` nor ``crop`` an image is resized and cropped as for evaluation.

    Args:
        resize: Height and width, the aspect ratio is lost; or pixels of the shorter edge; ``None`` leaves its size.
        interpolation: Pillow's filter of ``resize`` and of ``random-resized``; ``None`` is the model's.
        crop: Crop: ``"random"``, ``"centre"`` or ``"random-resized"`` to the model's size; ``"none"`` cuts nothing off.
        scale: Crop of ``random-resized``: least and greatest share of the area.
        ratio: Shape of ``random-resized``: least and greatest width over height.
        augment: Random changes: flip, vflip, rotate (quarter turns) and shift, some or none (``AUGMENTATIONS``).
        rotation: Turn by up to so many degrees either way; corners become black.
        auto_augment: A policy as timm writes it: ``"original"``, ``"rand-m9-mstd0.5-inc1"``.
        color_jitter: Brightness, contrast, saturation, hue, each a greatest change; those not given are 0. One number
            is that of the first three, as in timm.
        blur: Probability of a Gaussian blur, 5 pixels wide, its deviation from 0.1 to 5 (PIM's).
        sharpness: Probability of sharpening by a factor of 1.5 (PIM's).
        erasing: Probability that a rectangle of 2 to 33 % of the area is erased.
        erasing_fill: What is erased becomes ``"noise"``, or ``"zero"``, the mean colour.
        mixup: Alpha of mixup's Beta distribution; 0 mixes nothing. With ``cutmix`` too, each has half of the batches.
        cutmix: Alpha of cutmix's, likewise.
        workers: Processes that decode; 0 decodes between the steps, ``None`` is decided by machine and data.
        cache: Folder that keeps decoded, resized images; ``None`` keeps none.

    Raises:
        TrainingError: A value out of its range.
        UnknownName: A crop, filter, fill or policy nobody knows.
    """

    resize: int | tuple[int, int] | None = None
    interpolation: str | None = None
    crop: str = "none"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    augment: tuple[str, ...] = ("flip",)
    rotation: float = 0.0
    auto_augment: str | None = None
    color_jitter: tuple[float, ...] = ()
    blur: float = 0.0
    sharpness: float = 0.0
    erasing: float = 0.0
    erasing_fill: str = "noise"
    mixup: float = 0.0
    cutmix: float = 0.0
    workers: int | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "resize", _resize(self.resize))
        object.__setattr__(self, "scale", _range("scale", self.scale, 1.0))
        object.__setattr__(self, "ratio", _range("ratio", self.ratio, math.inf))
        object.__setattr__(self, "augment", check_augmentations(self.augment))
        object.__setattr__(self, "color_jitter", _jitter(self.color_jitter))
        _one_of("crop", self.crop, CROPS)
        _one_of("erasing fill", self.erasing_fill, ERASING_FILLS)
        if self.interpolation is not None:
            _one_of("interpolation", self.interpolation, INTERPOLATIONS)
        if self.auto_augment is not None:
            beginning, *settings = self.auto_augment.split("-")
            _one_of("policy's beginning", beginning, POLICIES)
            if unread := [one for one in settings if not re.fullmatch(r"[a-z]+\d[\d.]*", one)]:
                raise UnknownName(f"a policy's settings are letters and a number, such as m9, got {unread[0]!r}")
        for name in ("blur", "sharpness", "erasing"):
            _within(name.replace("_", " "), getattr(self, name), 1.0)
        for name in ("mixup", "cutmix"):
            _within(name, getattr(self, name), math.inf)
        _within("rotation", self.rotation, 180.0)
        if self.workers is not None and self.workers < 0:
            raise TrainingError(f"at least 0 processes decode images, got {self.workers}")
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache))

    @property
    def as_evaluated(self) -> bool:
        """Whether images are resized and cropped as for evaluation."""
        return self.resize is None and self.crop == "none"

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, and labels with them."""
        return self.mixup > 0 or self.cutmix > 0

    def settled(self, preprocessing: Preprocessing) -> DataOptions:
        """Nothing left open, and checked against the model's input size.

        Raises:
            TrainingError: A crop that cannot be cut from images resized so, or turns of what is not square.
        """
        height, width = preprocessing.image_size
        check_augmentations(self.augment, preprocessing.image_size)
        if not self.as_evaluated:
            self._check_crop(height, width)
        return replace(self, interpolation=self.interpolation or preprocessing.interpolation)

    def _check_crop(self, height: int, width: int) -> None:
        if self.crop == "random-resized":
            return
        given = "their own size" if self.resize is None else f"`resize` {_text(self.resize)}"
        if self.crop == "none":
            if self.resize != (height, width):
                raise TrainingError(
                    f"the model takes {height}x{width} pixels, but {given} without a crop gives others; add `crop` "
                    f"random, or resize to {height},{width}"
                )
            return
        least = self.resize if isinstance(self.resize, tuple) else (self.resize or 0,) * 2
        if least[0] < height or least[1] < width:
            raise TrainingError(
                f"`crop` {self.crop} cuts {height}x{width} out of larger images, but they have {given}; give a "
                "`resize` that is large enough, or `crop` random-resized"
            )

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready: what decides the images; by how many processes and from where they come does not."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _text(resize: int | tuple[int, int]) -> str:
    return str(resize) if isinstance(resize, int) else f"{resize[0]},{resize[1]}"


def _resize(given: int | Sequence[int] | None) -> int | tuple[int, int] | None:
    if given is None:
        return None
    sizes = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(sizes) not in (1, 2) or any(isinstance(size, bool) or not isinstance(size, int) for size in sizes):
        raise TrainingError(f"images are resized to height and width, or by their shorter edge, got {given!r}")
    if min(sizes) < 1:
        raise TrainingError(f"images are resized to at least 1 pixel, got {given!r}")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _range(name: str, given: Sequence[float], most: float) -> tuple[float, float]:
    if len(given) != 2 or not 0 < given[0] <= given[1] <= most or not math.isfinite(given[1]):
        bound = "" if most == math.inf else f" and at most {most:g}"
        raise TrainingError(f"the crop's {name} is a least and a greatest value above 0{bound}, got {tuple(given)}")
    return float(given[0]), float(given[1])


def _jitter(given: Sequence[float] | float) -> tuple[float, ...]:
    strengths = (float(given),) * 3 if isinstance(given, int | float) else tuple(float(value) for value in given)
    if len(strengths) > 4 or any(not (0 <= value and math.isfinite(value)) for value in strengths):
        raise TrainingError(
            f"colour jitter is up to four strengths of at least 0 (brightness, contrast, saturation, hue), got {given}"
        )
    if len(strengths) == 4 and strengths[3] > 0.5:
        raise TrainingError(f"hue can be turned by at most 0.5, half of the circle, got {strengths[3]}")
    return strengths if any(strengths) else ()


def _within(name: str, value: float, most: float) -> None:
    if not (0 <= value <= most and math.isfinite(value)):
        raise TrainingError(f"{name} is at least 0{'' if most == math.inf else f' and at most {most:g}'}, got {value}")


def _one_of(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UnknownName(f"the {what} is one of {', '.join(known)}, got {given!r}")
