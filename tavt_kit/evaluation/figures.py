"""The figures of an evaluation: accuracies with their intervals, every class, the confusions, the calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.data.images import Sample
from tavt_kit.evaluation.answers import Answered
from tavt_kit.evaluation.calibration import CALIBRATION_BINS, reliability
from tavt_kit.evaluation.metrics import METRICS, Predictions

_LISTED, _EXAMPLES = 10, 3
"""Confusions that are named, and images of each."""


def figures_of(
    found: Answered,
    classes: Sequence[str],
    split: str,
    named: Callable[[Sample], str] = lambda sample: str(sample.path),
) -> dict[str, Any]:
    """Everything that is counted of a model's answers, JSON-ready.

    Args:
        found: The answers.
        classes: Names, in the order of the logits.
        split: Of the images.
        named: How an image is called in the record.

    Returns:
        ``top1``, ``top5`` (null of five classes or fewer, where it is 1), ``macro_f1``; ``confusion`` (rows: truth);
        ``recall``, ``precision`` and ``f1`` by class, of classes with images, or that were said; ``confusions``, the
        pairs that are taken for one another most often, each with a few images, the surest mistakes first;
        ``calibration``.
    """
    matrix = confusion_matrix(found.labels, found.said, len(classes))
    hits, of_truth, of_said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)

    def shares(counts: NDArray[np.int64], metric: str) -> dict[str, Any]:
        return {
            name: Accuracy.of_counts(int(hits[i]), int(counts[i]), split=split, metric=f"{metric}[{name}]").as_record()
            for i, name in enumerate(classes)
            if counts[i]
        }

    seen = Predictions(found.logits, found.labels)
    told = {name: METRICS[name].accuracy(seen, split).as_record() for name in ("top1", "top5", "macro_f1")}
    bins = reliability(found.confidence, found.right)
    return {
        **told,
        "top5": told["top5"] if len(classes) > 5 else None,
        "classes": list(classes),
        "confusion": matrix.tolist(),
        "recall": shares(of_truth, "recall"),
        "precision": shares(of_said, "precision"),
        "f1": {
            name: float(2 * hits[i] / (of_truth[i] + of_said[i]))
            for i, name in enumerate(classes)
            if of_truth[i] + of_said[i]
        },
        "confusions": _confusions(found, matrix, classes, named),
        "calibration": {
            "error": sum(one.apart for one in bins) / len(found.labels),
            "bins": [one.as_record() for one in bins],
            "count": CALIBRATION_BINS,
        },
    }


def confusion_matrix(truth: NDArray[np.int64], said: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """(n,) and (n,) -> (size, size) images, rows the truth; what was said -1 is left out.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    counted = np.bincount(truth[said >= 0] * size + said[said >= 0], minlength=size * size)
    return counted.reshape(size, size).astype(np.int64)


def _confusions(
    found: Answered, matrix: NDArray[np.int64], classes: Sequence[str], named: Callable[[Sample], str]
) -> list[dict[str, Any]]:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), len(classes)) for place in places]
    return [
        {
            "truth": classes[true],
            "said": classes[said],
            "count": int(wrong[true, said]),
            "n": int(matrix[true].sum()),
            "examples": _examples(found, (found.labels == true) & (found.said == said), named),
        }
        for true, said in pairs
        if wrong[true, said]
    ]


def _examples(found: Answered, mine: NDArray[np.bool_], named: Callable[[Sample], str]) -> list[dict[str, Any]]:
    surest = sorted(np.flatnonzero(mine), key=lambda i: -found.confidence[i])[:_EXAMPLES]
    return [{"file": named(found.samples[i]), "probability": float(found.confidence[i])} for i in surest]
