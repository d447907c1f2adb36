"""What an evaluation found, as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.csv_text import csv_text
from tavt_kit.evaluation.answers import Answered
from tavt_kit.evaluation.metrics import first_classes
from tavt_kit.evaluation.predictions import Prediction

__all__ = ["FIRST", "answers_csv", "classes_csv", "confusion_csv", "predictions_csv"]

FIRST = 5
"""Classes that are named of a picture."""


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
    """Each picture: its file, truth, label, probability, the next likeliest, and whether the label is accepted.

    Args:
        found: The answers.
        classes: In the order of the logits.
        names: Of the pictures.
        threshold: The least probability that is accepted.
    """
    count = min(FIRST, len(classes))
    best = first_classes(found.logits, count)
    head = ["file", "truth", *_ranked_columns(count), *(["accepted"] if threshold is not None else [])]
    rows = (
        [name, classes[label], *_ranked(found.shares[i], best[i], classes), *_accepted(found.confidence[i], threshold)]
        for i, (name, label) in enumerate(zip(names, found.labels.tolist(), strict=True))
    )
    return csv_text(head, rows)


def predictions_csv(predictions: Sequence[Prediction], threshold: float | None = None) -> str:
    """As ``answers_csv``, of pictures without labels; what could not be read has its reason in the last column."""
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


def _ranked(shares: NDArray[np.float64], best: NDArray[np.int64], classes: Sequence[str]) -> list[Any]:
    return [cell for i in best for cell in (classes[i], f"{shares[i]:.6f}")]


def _accepted(confidence: float, threshold: float | None) -> list[str]:
    return [] if threshold is None else ["yes" if confidence >= threshold else "no"]
