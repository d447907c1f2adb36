"""What the candidates of a bench are fed: random images, images of a data set, and image files from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.errors import DataError, RecordError

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet, Sample
    from tavt_kit.runtimes import Images

_FILES = 32
"""Image files that end-to-end runs take in turn: enough that no single one's size decides."""


@dataclass(slots=True)
class Inputs:
    """Where images come from.

    Args:
        data: Data set, as ``load_images`` takes it, or ``None`` for random images.
        image_folder: A folder of images, for end-to-end times; those of ``data`` otherwise.
        seed: Of random images and of a split made here.
        name: What they were, for the record.
    """

    data: str | None
    image_folder: Path | None
    seed: int
    name: str = "random"
    _found: ImageSet | None = None

    def images(self, batch: int, size: tuple[int, int], preprocessing: Mapping[str, Any] | None) -> Images:
        """(B, 3, H, W), normalised: real ones where data is given, else random ones.

        Raises:
            DataError: An image cannot be read.
            RecordError: Data is given, but the file does not say how its images are prepared.
        """
        import numpy as np

        if self.data is None:
            from tavt_kit.bench import random_images

            return random_images((batch, 3, *size), np.random.default_rng(self.seed))
        from tavt_kit.data import load_arrays
        from tavt_kit.data.preprocess import Preprocessing

        if preprocessing is None:
            raise RecordError("a file without our metadata says nothing of preprocessing; leave out `data` and `e2e`")
        how = Preprocessing.from_record(preprocessing).at(size)
        images = load_arrays(self._samples(), how, limit=batch).images
        return np.resize(images, (batch, *images.shape[1:]))

    def files(self) -> list[Path]:
        """Image files for end-to-end times.

        Raises:
            DataError: There are none.
        """
        if self.image_folder is None:
            from tavt_kit.data import thin_out

            if self.data is None:
                raise DataError(
                    "an end-to-end time decodes image files; give a data set by `data`, or a folder by `image_folder`"
                )
            return [one.path for one in thin_out(self._samples(), _FILES)]
        from PIL import Image

        if not self.image_folder.is_dir():
            raise DataError(f"`image_folder` takes a folder of images, got {self.image_folder}")
        kinds = set(Image.registered_extensions())
        found = sorted(path for path in self.image_folder.rglob("*") if path.suffix.lower() in kinds and path.is_file())
        if not found:
            raise DataError(f"there is no image in {self.image_folder}; give a folder of images")
        return found[:: max(1, len(found) // _FILES)][:_FILES]

    def _samples(self) -> list[Sample]:
        from tavt_kit.data import load_images

        assert self.data is not None  # what the callers have looked at
        if self._found is None:
            self._found = load_images(self.data, seed=self.seed)
        split = next(name for name in ("test", "val", "train") if self._found.splits.get(name))
        self.name = f"{self._found.name} ({split})"
        return list(self._found.splits[split])
