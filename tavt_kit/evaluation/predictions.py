"""Labels for images from a model; imports neither torch nor timm, so that an edge box can do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.data.preprocess import Preprocessing, apply, open_image
from tavt_kit.errors import DataError, MeasurementError

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    Args:
        path: The image.
        ranked: Class names with their probabilities (softmax of the logits), the likeliest first.
        error: Why there is no prediction; then ``ranked`` is empty.
    """

    path: str
    ranked: tuple[tuple[str, float], ...]
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The likeliest class, or None."""
        return self.ranked[0][0] if self.ranked else None

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        ranked = [{"label": label, "probability": round(share, 6)} for label, share in self.ranked]
        return {"image": self.path, "label": self.label, "top": ranked, "error": self.error}


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model that can be asked about images.

    Args:
        card: Its classes and preprocessing.
        run: (B, 3, H, W) -> logits (B, classes).
    """

    card: ModelCard
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]

    def files(self, paths: Sequence[Path], top: int = 5, batch: int = 1) -> Iterator[Prediction]:
        """A prediction for each file, in order; a file that cannot be read gives its reason instead.

        Args:
            paths: Images of any kind Pillow knows.
            top: How many classes to name; at least one.
            batch: How many images the model is given at once.

        Raises:
            DataError: ``top`` or ``batch`` is below one.
            MeasurementError: A logit is not finite.
        """
        if top < 1:
            raise DataError(f"at least one class must be named, got `top` {top}")
        if batch < 1:
            raise DataError(f"a batch needs at least one image, got {batch}")
        preprocessing = Preprocessing.from_record(self.card.preprocessing)
        for start in range(0, len(paths), batch):
            part = paths[start : start + batch]
            opened = [_inputs(path, preprocessing) for path in part]
            good = [each for each in opened if not isinstance(each, DataError)]
            answers = iter(self._probabilities(np.stack(good)) if good else ())
            for path, each in zip(part, opened, strict=True):
                if isinstance(each, DataError):
                    yield Prediction(str(path), (), str(each))
                else:
                    yield Prediction(str(path), self._ranked(next(answers), top))

    def _probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = self.run(images)
        if not np.isfinite(logits).all():
            raise MeasurementError("the model's logits are not finite; run it in f32")
        return probabilities(logits)

    def _ranked(self, shares: NDArray[np.float64], top: int) -> tuple[tuple[str, float], ...]:
        # A stable sort: of equal shares the first class comes first.
        best = np.argsort(-shares, kind="stable")[:top]
        return tuple((self.card.classes[i], float(shares[i])) for i in best)


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """(n, classes) logits -> their softmax, in double precision."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _inputs(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32] | DataError:
    """The model's input (3, H, W), or why there is none."""
    if path.is_dir():
        return DataError(f"{path} is a folder; give the images in it, such as {path}/*.jpg")
    try:
        return apply(open_image(path), preprocessing)
    except DataError as error:
        return error
