"""The folder of an evaluation: eval.json, and beside it the images and tables it names with their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tavt_kit.core.csv_text import csv_text
from tavt_kit.core.records import atomic_path, atomic_text, sha256_file, write_record
from tavt_kit.evaluation.answers import Answered
from tavt_kit.evaluation.drawing import draw_confusion, draw_reliability
from tavt_kit.evaluation.metrics import first_classes
from tavt_kit.evaluation.predictions import Prediction

EVAL_FILE = "eval.json"


def write_evaluation(folder: Path, body: Mapping[str, Any], found: Answered, names: Sequence[str]) -> dict[str, Any]:
    """Write everything; the record last, so that it never names a file that is not there.

    Args:
        folder: Exists.
        body: Of the record.
        found: The answers.
        names: Of the images.

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
    """Each image: its file, truth, label, probability, the next likeliest, and whether the label is accepted.

    Args:
        found: The answers.
        classes: In the order of the logits.
        names: Of the images.
        threshold: The least probability that is accepted.
    """
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
