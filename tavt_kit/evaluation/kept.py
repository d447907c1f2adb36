"""Which patches each layer keeps of a few images: ``kept.json`` and thumbnails, so that a report needs no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.core.records import make_folder, write_record
from tavt_kit.data import ImageSet, Sample
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop, save_thumbnail
from tavt_kit.errors import DataError
from tavt_kit.models.wrap import AdaptiveViT

KEPT_FILE = "kept.json"

_log = logging.getLogger(__name__)


def pick_examples(samples: Sequence[Sample], count: int = 6) -> tuple[Sample, ...]:
    """A few samples that show as many classes as can be: one of each in turn, from the middle of each.

    Args:
        samples: Of one split, in any order.
        count: How many; all, if there are fewer.

    Example:
        >>> [s.label for s in pick_examples([Sample(Path(f"{i}.png"), i // 3) for i in range(9)], 4)]
        [0, 0, 1, 2]
    """
    classes: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: (sample.label, sample.path.as_posix())):
        classes.setdefault(sample.label, []).append(sample)
    # With more classes than images, spread over the classes rather than taking the first few.
    labels = sorted(classes)
    if len(labels) > count:
        labels = [labels[(2 * i + 1) * len(labels) // (2 * count)] for i in range(count)]
    picked: list[Sample] = []
    while len(picked) < count and any(classes[label] for label in labels):
        for label in labels:
            if classes[label] and len(picked) < count:
                picked.append(classes[label].pop(len(classes[label]) // 2))
    return tuple(sorted(picked, key=lambda sample: (sample.label, sample.path.as_posix())))


def write_kept(
    adaptive: AdaptiveViT,
    samples: Sequence[Sample],
    images: ImageSet,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    split: str,
) -> Path:
    """Run a few images and write what each executed layer keeps of them.

    Args:
        adaptive: The model under the schedule to be shown, on its device.
        samples: The images, about six; one that cannot be read is left out with a warning.
        images: The set they belong to: names of classes, the root of paths, the licence.
        preprocessing: The model's; thumbnails show what it leaves of an image, so that patches lie right.
        folder: The run's; gets ``kept.json`` and ``thumbnails/``.
        split: Which split the images are from.

    Returns:
        The path of ``kept.json``. Positions in it count patches row by row from 0; prefix tokens are left out. Where
        tokens merge, ``owners`` has for each layer and each patch the one whose token it is in.

    Raises:
        OutputError: The folder cannot be written.
        DataError: Not one of the images can be read.
    """
    thumbnails = make_folder(Path(folder) / "thumbnails")
    readable = list(_read(samples, preprocessing))
    if not readable:
        raise DataError(f"none of the {len(samples)} images chosen for kept.json can be read; choose others")
    entries = []
    for index, (sample, pixels) in enumerate(readable):
        name = f"{index:02d}.jpg"
        save_thumbnail(pixels, thumbnails / name)
        prediction, probability, patches = _run(adaptive, normalise(pixels, preprocessing))
        entries.append(
            {
                "file": images.relative(sample),
                "thumbnail": f"thumbnails/{name}",
                "label": images.classes[sample.label],
                "prediction": images.classes[prediction],
                "probability": round(probability, 6),
                **patches,
            }
        )
    path = Path(folder) / KEPT_FILE
    write_record(path, "kept", {**_heading(adaptive, images, preprocessing, split), "images": entries})
    return path


def _heading(adaptive: AdaptiveViT, images: ImageSet, preprocessing: Preprocessing, split: str) -> dict[str, Any]:
    executed = adaptive.schedule.executed
    return {
        "data": images.name,
        "split": split,
        "licence": None if images.licence is None else images.licence.as_record(),
        "schedule": list(adaptive.schedule.counts),
        "layers": list(range(adaptive.layers) if executed is None else executed),
        "tokens": adaptive.tokens,
        "prefix": adaptive.prefix,
        "grid": list(adaptive.grid),
        "score": adaptive.score,
        **({} if adaptive.reduction == "drop" else {"reduction": adaptive.reduction}),
        "image_size": list(preprocessing.image_size),
    }


def _read(samples: Sequence[Sample], preprocessing: Preprocessing) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    for sample in samples:
        try:
            yield sample, resize_crop(open_image(sample.path), preprocessing)
        except DataError as error:
            _log.warning("left out of kept.json: %s", error)


def _run(adaptive: AdaptiveViT, image: NDArray[np.float32]) -> tuple[int, float, dict[str, list[list[int]]]]:
    """Prediction, its probability, and for each executed layer the patches kept and their owners; one image at a time.

    One at a time, because a few images cost nothing and a batch at 448 px costs memory.
    """
    weight = next(adaptive.parameters())
    was_training = adaptive.training
    adaptive.eval()
    try:
        with torch.inference_mode():
            batch = torch.from_numpy(image)[None].to(device=weight.device, dtype=weight.dtype)
            merging = adaptive.reduction == "merge"
            logits, rows = adaptive.forward_owned(batch) if merging else adaptive.forward_kept(batch)
    finally:
        adaptive.train(was_training)
    shares = logits[0].float().softmax(0)
    prediction = int(shares.argmax())
    first = adaptive.prefix
    # What owns a patch stays, and what stays owns itself.
    patches = {"kept": [[place - first for place in sorted(set(row[0].tolist())) if place >= first] for row in rows]}
    if merging:
        patches["owners"] = [[int(place) - first for place in row[0, first:]] for row in rows]
    return prediction, float(shares[prediction]), patches
