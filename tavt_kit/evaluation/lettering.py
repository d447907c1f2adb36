"""Text in drawn pictures: one font, in any size, and text that is cut where it would not fit."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

__all__ = ["Font", "font_of", "shortened"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font_of(size: int) -> Font:
    """Pillow's own font, so that a picture is the same on every machine."""
    return ImageFont.load_default(size)


def shortened(text: str, font: Font, wide: float) -> str:
    """The text, its end cut off where it is wider than ``wide`` pixels."""
    if font.getlength(text) <= wide:
        return text
    while text and font.getlength(f"{text}…") > wide:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""
