"""Labels for pictures from an exported file; imports neither torch nor timm, so that an edge box can do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.artifact_card import read_metadata
from tavt_kit.errors import DataError
from tavt_kit.preprocess import Preprocessing, apply, open_image
from tavt_kit.sealed import refuse_changed

if TYPE_CHECKING:
    from PIL import Image

    from tavt_kit.device import TargetDevice
    from tavt_kit.model_card import ModelCard

__all__ = ["Prediction", "Predictor", "open_predictor"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one picture.

    Args:
        path: The picture.
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
    """A model that can be asked about pictures.

    Args:
        card: Its classes and preprocessing.
        run: (B, 3, H, W) -> logits (B, classes).
    """

    card: ModelCard
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]

    def image(self, image: Image.Image) -> NDArray[np.float32]:
        """The logits (classes,) of an RGB picture."""
        images = apply(image, Preprocessing.from_record(self.card.preprocessing))[None]
        return self.run(images).reshape(-1)

    def files(self, paths: Sequence[Path], top: int = 5) -> Iterator[Prediction]:
        """A prediction for each file, one by one; a file that cannot be read gives its reason instead.

        Args:
            paths: Pictures of any kind Pillow knows.
            top: How many classes to name; at least one.

        Raises:
            DataError: ``top`` is below one.
        """
        if top < 1:
            raise DataError(f"at least one class must be named, got --top {top}")
        for path in paths:
            try:
                picture = _open(path)
            except DataError as error:
                yield Prediction(str(path), (), str(error))
                continue
            shares = _softmax(self.image(picture))
            # A stable sort: of equal shares the first class comes first.
            best = np.argsort(-shares, kind="stable")[:top]
            yield Prediction(str(path), tuple((self.card.classes[i], float(shares[i])) for i in best))


def open_predictor(
    path: Path, target: TargetDevice | None = None, preset: str | None = None, schedule: str | None = None
) -> Predictor:
    """A predictor from an exported ``.onnx`` or ``.xml`` file and what it carries.

    Args:
        path: The file.
        target: Where to run; by default the file's own runtime on the CPU.
        preset: Of a switchable file: at which of its presets it is run.
        schedule: Of a switchable file: at which token counts, as text.

    Raises:
        RecordError: The file was not exported by this program, is damaged, or changed after its check.
        ScheduleError: The schedule is frozen into the file, or does not fit it.
        TavtError: The runtime cannot load it.
    """
    from tavt_kit.runtimes import open_file

    path = Path(path)
    card = read_metadata(path).chosen(preset, schedule)
    refuse_changed(path)
    return Predictor(card.model, open_file(path, card.own_target(path) if target is None else target, card.lengths))


def _open(path: Path) -> Image.Image:
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the pictures in it, such as {path}/*.jpg")
    return open_image(path)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(powers / powers.sum())
