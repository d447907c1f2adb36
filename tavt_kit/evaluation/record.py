"""The record of an evaluation, eval.json: its figures, and the folder of images and tables that it names by SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.csv_text import csv_text
from tavt_kit.core.records import atomic_path, atomic_text, sha256_file, write_record
from tavt_kit.data.images import Sample
from tavt_kit.evaluation.answers import Answered, Prediction
from tavt_kit.evaluation.drawing import draw_confusion, draw_reliability
from tavt_kit.evaluation.metrics import CALIBRATION_BINS, METRICS, Predictions, first_classes, reliability

_LISTED, _EXAMPLES = 10, 3
"""Confusions that are named, and images of each."""


def summarise_answers(
    found: Answered,
    classes: Sequence[str],
    split: str,
    named: Callable[[Sample], str] = lambda sample: str(sample.path),
) -> dict[str, Any]:
    """Everything that is counted of a model's answers, JSON-ready.

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


EVAL_FILE = "eval.json"


def write_evaluation(folder: Path, body: Mapping[str, Any], found: Answered, names: Sequence[str]) -> dict[str, Any]:
    """Write everything; the record last, so that it never names a file that is not there.

    Returns:
        The record, with the files it names.
    """
    threshold = None if body["reject"] is None else body["reject"]["threshold"]
    images = {
        "confusion.png": ("confusion matrix", draw_confusion(body)),
        "reliability.png": ("reliability diagram", draw_reliability(body)),
    }
    tables = {
        "confusion.csv": ("confusion matrix", confusion_csv(body)),
        "classes.csv": ("every class", classes_csv(body)),
        "predictions.csv": ("every image", answers_csv(found, body["classes"], names, threshold)),
    }
    for name, (_, image) in images.items():
        with atomic_path(folder / name) as temporary:
            image.save(temporary, optimize=True)
    for name, (_, text) in tables.items():
        atomic_text(folder / name, text)
    files = [
        {"file": name, "shows": shows, "sha256": sha256_file(folder / name)}
        for name, (shows, _) in {**images, **tables}.items()
    ]
    return write_record(folder / EVAL_FILE, "eval", {**body, "files": files})


FIRST = 5
"""Classes that are named of an image."""


def confusion_csv(record: Mapping[str, Any]) -> str:
    """The confusion matrix of an evaluation's record: a row of each true class, a column of each that was said."""
    classes = record["classes"]
    rows = ([name, *row] for name, row in zip(classes, record["confusion"], strict=True))
    return csv_text(["truth \\ said", *classes], rows)


def classes_csv(record: Mapping[str, Any]) -> str:
    """Each class of an evaluation's record: images, recall and precision with their 95 % intervals, F1."""

    def cells(name: str, metric: str) -> list[Any]:
        share = record[metric].get(name)
        return [""] * 3 if share is None else [share["value"], *share["ci95"]]

    head = ["class", "images", "recall", "recall_low", "recall_high", "precision", "precision_low", "precision_high"]
    rows = (
        [name, sum(row), *cells(name, "recall"), *cells(name, "precision"), record["f1"].get(name, "")]
        for name, row in zip(record["classes"], record["confusion"], strict=True)
    )
    return csv_text([*head, "f1"], rows)


def answers_csv(found: Answered, classes: Sequence[str], names: Sequence[str], threshold: float | None = None) -> str:
    """Each image: its file, truth, label, probability, the next likeliest, and whether the label is accepted."""
    count = min(FIRST, len(classes))
    best = first_classes(found.logits, count)
    head = ["file", "truth", *_ranked_columns(count), *(["accepted"] if threshold is not None else [])]
    rows = []
    for i, (name, label) in enumerate(zip(names, found.labels.tolist(), strict=True)):
        ranked = [cell for k in best[i] for cell in (classes[k], f"{found.shares[i, k]:.6f}")]
        rows.append([name, classes[label], *ranked, *_accepted(found.confidence[i], threshold)])
    return csv_text(head, rows)


def predictions_csv(predictions: Sequence[Prediction], threshold: float | None = None) -> str:
    """As ``answers_csv``, of images without labels; what could not be read has its reason in the last column."""
    count = max((len(one.ranked) for one in predictions), default=0)
    accepted = ["accepted"] if threshold is not None else []
    rows = (
        [one.path, *([""] * (2 * count + len(accepted))), one.error]
        if one.error is not None
        else [
            one.path,
            *(cell for label, share in one.ranked for cell in (label, f"{share:.6f}")),
            *_accepted(one.ranked[0][1], threshold),
            "",
        ]
        for one in predictions
    )
    return csv_text(["file", *_ranked_columns(count), *accepted, "error"], rows)


def _ranked_columns(count: int) -> list[str]:
    """``label``, ``probability``, ``label_2``, ``probability_2`` and so on."""
    behind = ["", *(f"_{place}" for place in range(2, count + 1))]
    return [column for end in behind for column in (f"label{end}", f"probability{end}")]


def _accepted(confidence: float, threshold: float | None) -> list[str]:
    return [] if threshold is None else ["yes" if confidence >= threshold else "no"]
