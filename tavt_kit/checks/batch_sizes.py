"""Does an artifact say the same of an image whatever batch the image comes in?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.compare import Logits, relative_error
from tavt_kit.checks.report import BatchCheck
from tavt_kit.checks.source import BATCH, Source
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.runtimes import Session

OTHERS = (1, 5)
"""Batch sizes that are compared with that of the main pass, on the first images."""

_PARTS = 3  # batches of each size
_LAST = 3  # images in a last batch that is tried where the main pass ends with a whole one

NearTies = Callable[[list[int], int], set[int]]
"""(places of images that strayed, of how many) -> those whose choice of tokens hangs on the last bits."""


class Attempts:
    """A session that gives NaN where its runtime refuses a batch or answers another; what it said becomes a verdict."""

    def __init__(self, session: Session, classes: int) -> None:
        self._session, self._classes = session, classes
        self.refusal: str | None = None

    def __call__(self, images: NDArray[Any]) -> Logits:
        try:
            logits = self._session(images)
            if len(logits) == len(images):
                return logits
            said = f"it gives {len(logits)} answers to a batch of {len(images)}"
        except Exception as error:  # each runtime has its own; none of them must hide behind a traceback
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            said = f"it cannot run a batch of {len(images)}: {line[:200]}"
        self.refusal = self.refusal or said
        return np.full((len(images), self._classes), np.nan, np.float32)


def check_batches(
    attempts: Attempts,
    source: Source,
    seen: Preprocessing | None,
    main: Logits,
    *,
    tolerance: float,
    scale: float,
    near_ties: NearTies | None = None,
) -> BatchCheck:
    """The first images again in batches of one and of five, and the last ones in another batch than they came in.

    Each image must be answered as in the main pass. Where the last bits of a sum choose another token both answers are
    right: an exact artifact proves that by ``near_ties``; of another one (8 bits, half precision) an image may differ
    now and then, but not most images of a batch size, and not the same row of most batches. An answer that is not
    finite is wrong everywhere.

    Images that the artifact prepares itself may come in many sizes, each of which is a batch of its own; the first of
    them, cut to the size that they have in common, then take the place of the images.

    Args:
        seen: How the images are prepared; ``None`` of an artifact that does it itself.
        main: (n, classes) answers of the main pass, in the artifact's own order of classes.
        tolerance: Largest difference, as a share of ``scale``.
        near_ties: None for an artifact that rounds otherwise than its source.
    """

    def apart_from(expected: Logits, images: NDArray[Any]) -> NDArray[np.float64]:
        return relative_error(attempts(images), np.nan_to_num(expected), scale)

    if seen is None:
        whole = source.at(range(min(len(main), max(OTHERS))), as_they_are=True)
        height, width = (min(image.shape[axis] for image in whole) for axis in (0, 1))
        images = np.stack([image[:height, :width] for image in whole])
        apart = apart_from(np.concatenate([attempts(image[None]) for image in images]), images)
        reason = attempts.refusal or _fault(len(images), [range(len(images))], [apart], tolerance, None)
        return BatchCheck((1, len(images)), float(apart.max()), not reason, reason)
    n = len(main)
    batches = {}
    for size in (min(size, n) for size in OTHERS):
        indices = range(min(n, _PARTS * size))
        batches[size] = [indices[start : start + size] for start in range(0, len(indices), size)]
    last = n % BATCH or _LAST
    if n > BATCH:
        # What came in a part of a batch comes in a whole one now, and the other way about.
        batches.setdefault(last, []).append(range(n - (BATCH if n % BATCH else _LAST), n))
    first = source.at(range(min(n, _PARTS * max(OTHERS))), seen)
    largest, reason = 0.0, ""
    for size, parts in batches.items():
        errors = []
        for part in parts:
            here = slice(part.start, part.stop)
            errors.append(apart_from(main[here], first[here] if part.stop <= len(first) else source.at(part, seen)))
        largest = max(largest, *(float(part.max()) for part in errors))
        reason = reason or _fault(size, parts, errors, tolerance, near_ties)
    sizes = (min(BATCH, n), *(min(size, n) for size in OTHERS), *((last,) if n > BATCH else ()))
    return BatchCheck(sizes, largest, not (reason or attempts.refusal), attempts.refusal or reason)


def _fault(
    size: int, parts: list[range], errors: list[NDArray[np.float64]], tolerance: float, near_ties: NearTies | None
) -> str:
    """One clause on what is wrong at a batch size; empty where nothing is."""
    wrong = [(index, row) for part, found in zip(parts, errors, strict=True)
             for row, index in enumerate(part) if found[row] > tolerance]  # fmt: skip
    if not wrong:
        return ""
    total, worst = sum(map(len, parts)), max(float(found.max()) for found in errors)
    if not np.isfinite(worst):
        return f"at batch {size} an image gets logits that are not finite"
    apart = f"at batch {size} the same image gets logits that differ by {worst:.2g} of the largest"
    if near_ties is not None:
        strayed = [index for index, _ in wrong]
        return apart if set(strayed) - near_ties(strayed, total) else ""
    rows = [row for _, row in wrong]
    of_one_row = max(map(rows.count, rows))
    return apart if 2 * len(wrong) > total or (of_one_row > 1 and 2 * of_one_row > len(parts)) else ""
