"""The model that artifacts are checked against with its real images, and logits that were made elsewhere.

Such logits are a NumPy ``.npz`` file. Keys: ``logits`` (n, classes), ``names`` (n ends of the images' paths) and, where
known, ``labels`` (n), ``classes`` (in the order of the logits) and ``device`` (a text).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.compare import Logits, columns
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress
from tavt_kit.core.records import sha256_file
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Sample, batches, thin_out
from tavt_kit.data.folders import images_below
from tavt_kit.data.images import ImageSet, sha256_samples
from tavt_kit.data.preprocess import BACKGROUND, Preprocessing
from tavt_kit.errors import DataError
from tavt_kit.evaluation.answers import Run
from tavt_kit.runtimes import Session, open_module

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT


BATCH = 8  # images in a batch of the main pass; the last one is mostly smaller, which is a test of its own
_BESIDE = 500  # images of another split that are asked at most

Count = Callable[[int], None]
"""Told the number of images after each batch."""


def images_beside(images: ImageSet, split: str, unlabelled: Path | None = None) -> dict[str, Sequence[Sample]]:
    """What a check of one split may ask beside it, by kind: the other splits, and a folder of images without labels."""
    if split == "train":
        return {}  # images that the model knows decide nothing
    beside = {name: thin_out(samples, _BESIDE) for name, samples in images.splits.items() if name != split}
    if unlabelled is not None:
        beside["unlabelled"] = tuple(Sample(path, 0) for path in images_below(unlabelled))
    return beside


def image_counter(progress: Progress, name: str, total: int) -> Count:
    """A count of the images of all passes of one check, as a share of ``total``."""
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        progress.update(f"checking {name}", min(1.0, done / total))

    return count


@dataclass(slots=True)
class Source:
    """The model (with its card) that artifacts are checked against, its images, and its answers, made once each.

    By ``further`` images, of other kinds, a file that the samples cannot decide is taken or not.
    """

    adaptive: AdaptiveViT
    samples: Sequence[Sample]
    split: str
    further: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    _logits: dict[TokenSchedule, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def card(self) -> ModelCard:
        """The model's."""
        return self.adaptive.require_card()

    def about(self, run: str, images: ImageSet) -> dict[str, Any]:
        """What a record says of the model, read from a run folder, and of its images."""
        card = self.card
        return {
            "source": {"run": run, "name": card.name, "score": card.score, "weights_sha256": card.weights_sha256},
            "data": {
                "name": images.name, "split": self.split, "images": len(self.samples), "sha256": images.sha256,
                "images_sha256": sha256_samples(self.samples, card.classes), "background": BACKGROUND,
            },
        }  # fmt: skip

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's own."""
        return Preprocessing.from_record(self.card.preprocessing)

    def logits(self, schedule: TokenSchedule, count: Count | None = None) -> NDArray[np.float32]:
        """(n, classes) under ``schedule``, in torch f32 on the CPU; as ``session`` and ``answers`` raise."""
        if schedule not in self._logits:
            self._logits[schedule] = self.answers(self.session(schedule), self.preprocessing, count)
        return self._logits[schedule]

    def session(self, schedule: TokenSchedule) -> Session:
        """The model under ``schedule``, in torch f32 on the CPU."""
        from tavt_kit.models.wrap import LeanViT

        lean = LeanViT(self.adaptive, schedule).eval()
        return open_module(lean, TargetDevice("torch", "cpu"), (BATCH, 3, *self.preprocessing.image_size))

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) of the images."""
        return np.array([sample.label for sample in self.samples], np.int64)

    def at(
        self, indices: Sequence[int], preprocessing: Preprocessing | None = None, *, as_they_are: bool = False
    ) -> NDArray[Any]:
        """The images at these indices: (n, 3, H, W), or as they are."""
        preprocessing = None if as_they_are else preprocessing or self.preprocessing
        samples = [self.samples[index] for index in indices]
        return np.concatenate([part.images for part in batches(samples, preprocessing, batch=BATCH)])

    def answers(self, run: Run, preprocessing: Preprocessing | None, count: Count | None = None) -> Logits:
        """What ``run`` says of the images (n, classes); without a preprocessing as they are."""
        logits = []
        for part in batches(self.samples, preprocessing, batch=BATCH):
            logits.append(run(part.images))
            if count is not None:
                count(len(part.images))
        return np.concatenate(logits)


_KEYS = "logits, names, and optionally labels, classes and device"


@dataclass(frozen=True, slots=True)
class Predicted:
    """What an ``.npz`` file says: see the module."""

    name: str
    sha256: Mapping[str, str]
    logits: Logits
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    device: str

    @classmethod
    def read(cls, path: Path) -> Predicted:
        """Read a file, of which nothing is executed; raises DataError where it lacks what is needed."""
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
            raise DataError(f"predictions are a NumPy .npz file with {_KEYS}; {path} is none ({error})") from None
        if not {"logits", "names"} <= set(arrays):
            raise DataError(f"predictions hold {_KEYS}; {path} holds {', '.join(sorted(arrays)) or 'nothing'}")
        logits = arrays["logits"]
        if logits.ndim != 2 or logits.dtype.kind not in "fiu" or not len(logits):
            raise DataError(
                f"logits are numbers of shape (images, classes), got {logits.dtype} {logits.shape} in {path}"
            )
        labels = arrays.get("labels")
        if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (len(logits),)):
            raise DataError(f"labels are whole numbers, one an image, got {labels.dtype} {labels.shape} in {path}")
        return cls(
            name=path.name,
            sha256={path.name: sha256_file(path)},
            logits=logits.astype(np.float32),
            names=_texts(arrays["names"], len(logits), "names", path),
            labels=None if labels is None else labels.astype(np.int64),
            classes=_texts(arrays["classes"], logits.shape[1], "classes", path) if "classes" in arrays else None,
            device=str(arrays["device"].reshape(-1)[0]) if arrays.get("device", np.empty(0)).size else "elsewhere",
        )

    def aligned(self, source: Source) -> Logits:
        """(n, classes): in the source's order of images and classes; DataError where these or labels are others."""
        theirs, ours = self.logits.shape[1], source.card.classes
        if theirs != len(ours):
            raise DataError(
                f"{self.name} has logits of {theirs} classes, but the run it is checked against has {len(ours)}"
            )
        order, indices = columns(self.classes or ours, ours, self.name), self._indices(source)
        count, different = len(source.samples), set(indices)
        missing = sorted(set(range(count)) - different)
        if len(different) != len(indices) or missing:
            example = f", such as {_relative(source.samples[missing[0]].path)}" if missing else ""
            raise DataError(
                f"predictions must be of each image of the {source.split} split once ({count} images), but "
                f"{self.name} has {len(indices)} of {len(different)} different ones and lacks {len(missing)}{example}"
                "; predict them all, or give the same `split`, `limit` and `data`"
            )
        given = () if self.labels is None else self.labels.tolist()
        truth = [order[source.samples[index].label] for index in indices]  # as columns of its own logits
        wrong = [index for index, label, true in zip(indices, given, truth, strict=False) if label != true]
        if wrong:
            raise DataError(
                f"{len(wrong)} labels of {self.name} contradict the data, such as that of "
                f"{_relative(source.samples[wrong[0]].path)}; its images or classes are in another order than it says"
            )
        return self.logits[np.argsort(indices)][:, order]

    def _indices(self, source: Source) -> list[int]:
        """Which sample of the source each row is of: the only one whose path ends as the row's name does."""
        endings: dict[PurePosixPath, list[int]] = {}
        for index, sample in enumerate(source.samples):
            parts = PurePosixPath(sample.path.as_posix()).parts
            for depth in range(1, len(parts) + 1):
                endings.setdefault(PurePosixPath(*parts[-depth:]), []).append(index)
        indices = []
        for name in self.names:
            matches = endings.get(PurePosixPath(name.replace("\\", "/")), [])
            if len(matches) != 1:
                several = (
                    f"is the end of {len(matches)} of them; give more of its path" if matches else "is none of them"
                )
                raise DataError(f"each name of {self.name} must be the end of one image's path, but {name!r} {several}")
            indices.append(matches[0])
        return indices


def _texts(values: NDArray[Any], n: int, key: str, path: Path) -> tuple[str, ...]:
    if values.dtype.kind not in "US" or values.shape != (n,):
        raise DataError(f"{key} are {n} texts, one for each, got {values.dtype} {values.shape} in {path}")
    return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in values.tolist())


def _relative(path: Path) -> str:
    """The last two parts: enough to find it, whatever folder it lies in."""
    return "/".join(path.parts[-2:])
