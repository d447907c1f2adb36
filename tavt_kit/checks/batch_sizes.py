"""Does an artifact say the same of an image whatever batch the image comes in?"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.compare import Logits, relative_error
from tavt_kit.checks.report import BatchCheck
from tavt_kit.checks.source import BATCH, Source
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.runtimes import Session

__all__ = ["OTHERS", "Attempts", "check_batches"]

OTHERS = (1, 5)
"""Batch sizes that are compared with that of the main pass, on the first images."""

_PART = 3  # images in a last batch that is tried where the main pass ends with a whole one


class Attempts:
    """A session that gives NaN where its runtime refuses a batch or answers another; what it said becomes a verdict."""

    def __init__(self, session: Session, classes: int) -> None:
        self._session, self._classes = session, classes
        self.refusal: str | None = None

    def __call__(self, images: NDArray[np.float32]) -> Logits:
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
    seen: Preprocessing,
    main: Logits,
    *,
    tolerance: float,
    scale: float,
    tied: Collection[int] = (),
) -> BatchCheck:
    """The first images again, one by one and five at once, and the last ones in another batch than they came in.

    In each size most must repeat what the main pass said: one image may hang on the last bits (see ``near_ties``), but
    a batch that is baked in or mixed up spoils most of them.

    Args:
        attempts: The artifact.
        source: Its images.
        seen: Through which it sees them.
        main: (n, classes) what it said in the main pass, in its own order of classes.
        tolerance: Largest difference, as a share of ``scale``.
        scale: The largest logit.
        tied: Places of images known to hang on the last bits; left out at the end, where there may be few others.
    """
    first = source.first(seen, max(OTHERS))
    largest, reason = 0.0, ""

    def compare(again: Logits, expected: Logits, size: int) -> None:
        nonlocal largest, reason
        errors = relative_error(again, np.nan_to_num(expected), scale)
        largest = max(largest, float(errors.max(initial=0)))
        if 2 * (errors > tolerance).sum() > len(errors):
            reason = f"at batch {size} the same image gets logits that differ by {errors.max():.2g} of the largest"

    others = tuple(min(size, len(first)) for size in OTHERS)
    for size in others:
        parts = [first[i : i + size] for i in range(0, min(len(first), 3 * size), size)]
        again = np.concatenate([attempts(part) for part in parts])
        compare(again, main[: len(again)], size)
    n = len(main)
    last = n % BATCH or _PART
    if n > BATCH:
        # What came in a part of a batch comes in a whole one now, and the other way about.
        whole = BATCH if n % BATCH else _PART
        places = range(n - whole, n)
        again = attempts(source.at(places, seen))
        judged = [place for place in range(n - min(last, whole), n) if place not in tied]
        compare(again[[place - places[0] for place in judged]], main[judged], last)
    sizes = (min(BATCH, n), *others, *((last,) if n > BATCH else ()))
    return BatchCheck(sizes, largest, not (reason or attempts.refusal), attempts.refusal or reason)
