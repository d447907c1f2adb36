"""The folder of an evaluation: eval.json, and beside it the pictures and tables it names with their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tavt_kit.core.records import atomic_path, atomic_text, sha256_file, write_record
from tavt_kit.evaluation.answers import Answered
from tavt_kit.evaluation.drawing import draw_confusion, draw_reliability
from tavt_kit.evaluation.tables import answers_csv, classes_csv, confusion_csv

__all__ = ["EVAL_FILE", "write_evaluation"]

EVAL_FILE = "eval.json"


def write_evaluation(folder: Path, body: Mapping[str, Any], found: Answered, names: Sequence[str]) -> dict[str, Any]:
    """Write everything; the record last, so that it never names a file that is not there.

    Args:
        folder: Exists.
        body: Of the record.
        found: The answers.
        names: Of the pictures.

    Returns:
        The record, with the files it names.
    """
    threshold = None if body["reject"] is None else body["reject"]["threshold"]
    pictures: dict[str, tuple[str, Image.Image]] = {
        "confusion.png": ("confusion matrix", draw_confusion(body)),
        "reliability.png": ("reliability diagram", draw_reliability(body)),
    }
    tables = {
        "confusion.csv": ("confusion matrix", confusion_csv(body)),
        "classes.csv": ("every class", classes_csv(body)),
        "predictions.csv": ("every picture", answers_csv(found, body["classes"], names, threshold)),
    }
    for name, (_, picture) in pictures.items():
        with atomic_path(folder / name) as temporary:
            picture.save(temporary, optimize=True)
    for name, (_, text) in tables.items():
        atomic_text(folder / name, text)
    files = [
        {"file": name, "shows": shows, "sha256": sha256_file(folder / name)}
        for name, (shows, _) in {**pictures, **tables}.items()
    ]
    return write_record(folder / EVAL_FILE, "eval", {**body, "files": files})
