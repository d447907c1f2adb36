"""Data sets: where images and labels come from, how they are split, and how they are read."""

from __future__ import annotations

from tavt_kit.data.images import ImageSet, Sample
from tavt_kit.data.loading import Arrays, batches, load_arrays, load_bytes, thin_out
from tavt_kit.data.sources import KNOWN, load_images
from tavt_kit.data.splits import inherit_split, read_split, write_split

__all__ = [
    "KNOWN",
    "Arrays",
    "ImageSet",
    "Sample",
    "batches",
    "inherit_split",
    "load_arrays",
    "load_bytes",
    "load_images",
    "read_split",
    "thin_out",
    "write_split",
]
