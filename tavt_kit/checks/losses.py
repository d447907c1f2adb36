"""What an artifact lost against the dense model: by class, by confusion, and a few of the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.checks.compare import Answers, classes
from tavt_kit.checks.figures import Figures, figures_of
from tavt_kit.core.records import make_folder, sha256_text
from tavt_kit.data.preprocess import Preprocessing, open_image, resize_crop, save_thumbnail

EXAMPLES_FOLDER = "check-examples"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Lost:
    """An image that the dense model has right and the artifact wrong.

    Args:
        path: Of the image.
        truth: Its class.
        said: What the artifact takes it for.
    """

    path: Path
    truth: str
    said: str

    @property
    def thumbnail(self) -> str:
        """Its file below the record's folder; of the same image always the same."""
        return f"{EXAMPLES_FOLDER}/{sha256_text(str(self.path))[:16]}.jpg"

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        file = "/".join(self.path.parts[-2:])
        return {"file": file, "thumbnail": self.thumbnail, "truth": self.truth, "said": self.said}


@dataclass(frozen=True, slots=True)
class Losses:
    """The dense model's figures of merit beside the artifact's.

    Args:
        figures: Of both; what they call the source is the dense model.
        examples: A few lost images, of as many grown confusions as can be.
    """

    figures: Figures
    examples: tuple[Lost, ...]

    def as_record(self) -> dict[str, Any]:
        """JSON-ready: ``classes``, ``worst_hit``, ``confusions_grown`` as the check has them, with ``dense`` before."""
        figures = self.figures
        return {
            "classes": [_dense(one.as_record()) for one in figures.classes],
            "worst_hit": list(figures.worst_hit),
            "confusions_grown": [_dense(one.as_record()) for one in figures.confusions],
            "examples": [one.as_record() for one in self.examples],
        }


def _dense(record: dict[str, Any]) -> dict[str, Any]:
    return {("dense" if name == "source" else name): value for name, value in record.items()}


def losses_of(answers: Answers, paths: Sequence[Path], names: Sequence[str], split: str) -> Losses:
    """What was lost.

    Args:
        answers: Of the artifact, with the dense model as the source.
        paths: Of the images.
        names: Of the classes, in the order of the logits.
        split: Of the images.
    """
    figures = figures_of(answers, names, split)
    before, after = classes(answers.source), classes(answers.artifact)
    lost = np.flatnonzero((before == answers.labels) & (after != answers.labels) & (after >= 0))
    pairs: dict[tuple[str, str], list[Lost]] = {}
    for place in lost.tolist():
        one = Lost(paths[place], names[answers.labels[place]], names[after[place]])
        pairs.setdefault((one.truth, one.said), []).append(one)
    order = [(grown.truth, grown.said) for grown in figures.confusions]
    queues = [pairs.pop(pair) for pair in order if pair in pairs] + list(pairs.values())
    # One of each confusion in turn, those that grew most first.
    rounds = max(map(len, queues), default=0)
    picked = [queue[turn] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return Losses(figures, tuple(picked[:_SHOWN]))


def save_examples(losses: Losses, preprocessing: Preprocessing, folder: Path) -> None:
    """Write the thumbnails of the lost images below ``folder``; one that is there already stays.

    Raises:
        OutputError: The folder cannot be written.
    """
    if not losses.examples:
        return
    make_folder(folder / EXAMPLES_FOLDER)
    for one in losses.examples:
        if not (folder / one.thumbnail).exists():
            save_thumbnail(resize_crop(open_image(one.path), preprocessing), folder / one.thumbnail)
