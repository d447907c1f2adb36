"""The images of an earlier run: later verbs see the same division of the same data, or refuse."""

from __future__ import annotations

from pathlib import Path

from tavt_kit.data.images import ImageSet
from tavt_kit.data.sources import load_images
from tavt_kit.data.splits import SPLIT_FILE, inherit_split, keep_fraction, read_split
from tavt_kit.errors import DataError, RecordError


def inherited_images(folder: Path, data: str | None) -> ImageSet:
    """The images and the split that a run was made with.

    Args:
        folder: The run.
        data: What the user says the data is, or None. It may be where the images were moved to.

    Raises:
        RecordError: The run has no split, and no data is given.
        DataError: ``data`` is another data set, or the run's images are gone.
    """
    if not (Path(folder) / SPLIT_FILE).exists():
        if data is None:
            raise RecordError(f"{folder} does not say on which data it was made; give `data`")
        return load_images(data)
    try:
        known = read_split(folder)
    except DataError:
        if data is None:
            raise
        return read_split(folder, load_images(data).root)
    if data is not None:
        seed = known.seed or 0
        inherit_split(folder, keep_fraction(load_images(data, seed=seed), known.fraction, seed=seed))
    return known
