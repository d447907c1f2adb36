"""The record of an evaluation, eval.json: its figures, and the tables that it names by SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.parsing import csv_text
from tavt_kit.core.records import atomic_text, sha256_file, write_record
from tavt_kit.data.images import Sample
from tavt_kit.evaluation.answers import Answered, Prediction
from tavt_kit.evaluation.metrics import CALIBRATION_BINS, METRICS, Predictions, first_classes, reliability

_LISTED, _EXAMPLES = 10, 3
"""Confusions that are named, and images of each."""

_WHOLE = 1000
"""Classes up to which the confusion matrix is recorded whole; of more only the cells that hold images."""


def summarise_answers(
    answered: Answered,
    classes: Sequence[str],
    split: str,
    named: Callable[[Sample], str] = lambda sample: str(sample.path),
) -> dict[str, Any]:
    """Everything that is counted of a model's answers, JSON-ready.

    Returns:
        ``top1``, ``top5`` (null of five classes or fewer, where it is 1), ``macro_f1``; ``confusion`` (rows: truth;
        null of more than 1,000 classes) and ``confusion_cells`` (index of the truth, of what was said, images; null of
        fewer); ``recall``, ``precision`` and ``f1`` by class, of classes with images, or that were said;
        ``confusions``, the pairs that are taken for one another most often, each with a few images, the surest
        mistakes first; ``calibration``.
    """
    cells, size = count_confusions(answered.labels, answered.said), len(classes)
    hits, of_truth, of_said = (
        np.bincount(labels, minlength=size)
        for labels in (answered.labels[answered.right], answered.labels, answered.said[answered.said >= 0])
    )

    def shares(counts: NDArray[np.int64], metric: str) -> dict[str, Any]:
        return {
            name: Accuracy.of_counts(int(hits[i]), int(counts[i]), split=split, metric=f"{metric}[{name}]").as_record()
            for i, name in enumerate(classes)
            if counts[i]
        }

    whole = np.zeros((size, size), np.int64) if size <= _WHOLE else None
    if whole is not None:
        whole[cells[:, 0], cells[:, 1]] = cells[:, 2]
    seen = Predictions(answered.logits, answered.labels)
    figures = {name: METRICS[name].accuracy(seen, split).as_record() for name in ("top1", "top5", "macro_f1")}
    bins, error = reliability(answered.confidence, answered.right)
    return {
        **figures,
        "top5": figures["top5"] if len(classes) > 5 else None,
        "classes": list(classes),
        "confusion": None if whole is None else whole.tolist(),
        "confusion_cells": cells.tolist() if whole is None else None,
        "recall": shares(of_truth, "recall"),
        "precision": shares(of_said, "precision"),
        "f1": {
            name: float(2 * hits[i] / (of_truth[i] + of_said[i]))
            for i, name in enumerate(classes)
            if of_truth[i] + of_said[i]
        },
        "confusions": _confusions(answered, cells, classes, named),
        "calibration": {"error": error, "bins": bins, "count": CALIBRATION_BINS},
    }


def count_confusions(truth: NDArray[np.int64], said: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) and (n,) -> (cells, 3): truth, what was said, and images of both, sorted; what was said -1 is left out.

    Example:
        >>> count_confusions(np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
        [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    pairs, counts = np.unique(np.stack([truth, said], axis=1)[said >= 0], axis=0, return_counts=True)
    return np.column_stack([pairs, counts])


def _confusions(
    answered: Answered, cells: NDArray[np.int64], classes: Sequence[str], named: Callable[[Sample], str]
) -> list[dict[str, Any]]:
    wrong, listed = cells[cells[:, 0] != cells[:, 1]], []
    for true, said, count in wrong[np.argsort(-wrong[:, 2], kind="stable")[:_LISTED]].tolist():
        mine = np.flatnonzero((answered.labels == true) & (answered.said == said))
        surest = sorted(mine, key=lambda i: -answered.confidence[i])[:_EXAMPLES]
        examples = [{"file": named(answered.samples[i]), "probability": float(answered.confidence[i])} for i in surest]
        pair = {"truth": classes[true], "said": classes[said], "count": count}
        listed.append({**pair, "n": int((answered.labels == true).sum()), "examples": examples})
    return listed


EVAL_FILE = "eval.json"


def write_evaluation(folder: Path, body: Mapping[str, Any], answered: Answered, names: Sequence[str]) -> dict[str, Any]:
    """Write everything, and give the record with the files it names; it comes last, so that all of them are there."""
    tables = {
        "confusion.csv": ("confusion matrix", confusion_csv(body)),
        "classes.csv": ("every class", classes_csv(body)),
        "predictions.csv": ("every image", answers_csv(answered, body["classes"], names)),
    }
    files = []
    for name, (shows, text) in tables.items():
        atomic_text(folder / name, text)
        files.append({"file": name, "shows": shows, "sha256": sha256_file(folder / name)})
    return write_record(folder / EVAL_FILE, "eval", {**body, "files": files})


FIRST = 5
"""Classes that are named of an image."""


def confusion_csv(record: Mapping[str, Any]) -> str:
    """The confusion matrix of a record: truth down, what was said across; not whole, its cells that hold images."""
    classes = record["classes"]
    if record["confusion"] is None:
        listed = ([classes[true], classes[said], count] for true, said, count in record["confusion_cells"])
        return csv_text(["truth", "said", "images"], listed)
    rows = ([name, *row] for name, row in zip(classes, record["confusion"], strict=True))
    return csv_text(["truth \\ said", *classes], rows)


def classes_csv(record: Mapping[str, Any]) -> str:
    """Each class of an evaluation's record: images, recall and precision with their 95 % intervals, F1."""

    def cells(name: str, metric: str) -> list[Any]:
        share = record[metric].get(name)
        return [""] * 3 if share is None else [share["value"], *share["ci95"]]

    head = ["class", "images", "recall", "recall_low", "recall_high", "precision", "precision_low", "precision_high"]
    rows = (
        [name, class_size(record, name), *cells(name, "recall"), *cells(name, "precision"), record["f1"].get(name, "")]
        for name in record["classes"]
    )
    return csv_text([*head, "f1"], rows)


def class_size(record: Mapping[str, Any], name: str) -> int:
    """Images of a class in an evaluation's record."""
    return int(record["recall"][name]["n"]) if name in record["recall"] else 0


def answers_csv(answered: Answered, classes: Sequence[str], names: Sequence[str]) -> str:
    """Each image: its file, truth, label, probability, and the next likeliest."""
    best, rows = first_classes(answered.logits, min(FIRST, len(classes))), []
    for i, (name, label) in enumerate(zip(names, answered.labels.tolist(), strict=True)):
        rows.append(
            [name, classes[label], *_ranked_cells([(classes[k], float(answered.shares[i, k])) for k in best[i]])]
        )
    return csv_text(["file", "truth", *_ranked_columns(best.shape[1])], rows)


def predictions_csv(predictions: Sequence[Prediction]) -> str:
    """As ``answers_csv``, of images without labels; what could not be read has its reason in the last column."""
    columns, rows = _ranked_columns(max((len(each.ranked) for each in predictions), default=0)), []
    for each in predictions:
        cells = _ranked_cells(each.ranked) if each.error is None else [""] * len(columns)
        rows.append([each.path, *cells, each.error or ""])
    return csv_text(["file", *columns, "error"], rows)


def _ranked_columns(count: int) -> list[str]:
    """``label``, ``probability``, ``label_2``, ``probability_2`` and so on."""
    return [f"{name}{end}" for end in ["", *(f"_{rank}" for rank in range(2, count + 1))]
            for name in ("label", "probability")]  # fmt: skip


def _ranked_cells(ranked: Sequence[tuple[str, float]]) -> list[str]:
    return [cell for label, share in ranked for cell in (label, f"{share:.6f}")]
