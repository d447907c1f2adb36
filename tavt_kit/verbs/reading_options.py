"""The flags of ``train`` and ``distill`` that say how training pictures are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.errors import ParameterError

__all__ = ["reading_changes"]

Resize = Annotated[
    str | None,
    typer.Option(help="Resize training pictures to H,W, the shorter edge to N, or none. [default: as for evaluation]"),
]
Interpolation = Annotated[str | None, typer.Option(help="Filter: bilinear, bicubic, ... [default: the model's]")]
Crop = Annotated[
    str | None, typer.Option(help="random, centre, random-resized or none, to the model's size. [default: none]")
]
Scale = Annotated[
    str | None, typer.Option("--crop-scale", help="Share of the area that random-resized takes. [default: 0.08,1]")
]
Ratio = Annotated[
    str | None, typer.Option("--crop-ratio", help="Width over height of random-resized. [default: 0.75,1.333]")
]
Augment = Annotated[
    str | None,
    typer.Option(help="flip, vflip, rotate (quarter turns), shift: some with commas, or none. [default: flip]"),
]
Rotation = Annotated[float | None, typer.Option(help="Turn by up to so many degrees either way. [default: 0]")]
AutoAugment = Annotated[
    str | None,
    typer.Option(help="A policy as timm writes it, such as original or rand-m9-mstd0.5-inc1, or none. [default: none]"),
]
ColorJitter = Annotated[
    str | None,
    typer.Option(help="Change of brightness,contrast,saturation[,hue]; one number: of the first three. [default: 0]"),
]
Blur = Annotated[float | None, typer.Option(help="Probability of a Gaussian blur. [default: 0]")]
Sharpness = Annotated[float | None, typer.Option(help="Probability of sharpening. [default: 0]")]
Erasing = Annotated[float | None, typer.Option(help="Probability of erasing a rectangle. [default: 0]")]
ErasingFill = Annotated[str | None, typer.Option(help="What is erased becomes noise or zero. [default: noise]")]
Mixup = Annotated[float | None, typer.Option(help="Alpha of mixup; 0 is none. [default: 0]")]
Cutmix = Annotated[float | None, typer.Option(help="Alpha of cutmix; 0 is none. [default: 0]")]
Workers = Annotated[
    int | None, typer.Option(help="Processes that decode pictures; 0 decodes between steps. [default: by the machine]")
]
Cache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep decoded, resized pictures here, for this run and later ones.")
]


def reading_changes(**given: Any) -> dict[str, Any]:
    """The flags that were given, as fields of ``Reading``.

    Args:
        given: By the fields' names; ``None`` was not given, ``"none"`` takes back what the recipe does.

    Raises:
        ParameterError: A list of numbers that cannot be read.

    Example:
        >>> reading_changes(resize="600,600", crop="random", augment=None, color_jitter="0.4")
        {'resize': (600, 600), 'crop': 'random', 'color_jitter': 0.4}
    """
    return {name: _READERS.get(name, _as_given)(value) for name, value in given.items() if value is not None}


def split_list(text: str) -> tuple[str, ...]:
    """``"flip,rotate"`` as its parts; ``"none"`` has none."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part not in ("", "none"))


def _as_given(value: Any) -> Any:
    return value


def _resize(text: str) -> int | tuple[int, ...] | str:
    if text == "none":
        return text
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(
            f"--resize is H,W, one number of pixels or none, such as 600,600 or 256, got {text!r}"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes


def _numbers(text: str) -> float | tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(f"numbers are given with commas, such as 0.4,0.4,0.4, got {text!r}") from None
    return values[0] if len(values) == 1 else values


def _pair(text: str) -> tuple[float, ...]:
    values = _numbers(text)
    return values if isinstance(values, tuple) else (values,)


_READERS = {
    "resize": _resize,
    "scale": _pair,
    "ratio": _pair,
    "augment": split_list,
    "color_jitter": _numbers,
}
