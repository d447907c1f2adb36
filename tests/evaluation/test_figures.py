"""What an evaluation counts, on numbers small enough to count by hand."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.checks.compare import Answers, figures_of
from tavt_kit.core.accuracy import wilson
from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.images import Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import DataError, MeasurementError
from tavt_kit.evaluation.answers import Answered, Prediction, Predictor, answer, require_width
from tavt_kit.evaluation.metrics import calibration_error, is_among_first, reliability
from tavt_kit.evaluation.record import (
    answers_csv,
    classes_csv,
    confusion_csv,
    predictions_csv,
    summarise_answers,
    write_evaluation,
)
from tests.verbs.tiny import write_images

NAMES = ("a", "b, c", "d", "e", "f", "g")


def answered(truth: list[int], said: list[int], height: float = 4.0) -> Answered:
    logits = (height * np.eye(len(NAMES), dtype=np.float32)[said]).astype(np.float32)
    return Answered(tuple(Sample(Path(f"{i}.png"), label) for i, label in enumerate(truth)), logits)


def record(found: Answered) -> dict:  # type: ignore[type-arg]
    return summarise_answers(found, NAMES, "test", lambda sample: sample.path.name)


def test_figures_of_eight_images() -> None:
    found = answered([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, 1, 2])
    figures = json.loads(json.dumps(record(found), allow_nan=False))
    assert (figures["top1"]["value"], figures["top1"]["n"], figures["top1"]["split"]) == (5 / 8, 8, "test")
    assert figures["top1"]["ci95"] == list(wilson(5, 8))
    assert figures["confusion"][0] == [2, 2, 0, 0, 0, 0] and figures["confusion"][2] == [0, 1, 1, 0, 0, 0]
    assert {name: one["value"] for name, one in figures["recall"].items()} == {"a": 0.5, "b, c": 1.0, "d": 0.5}
    assert {name: one["value"] for name, one in figures["precision"].items()} == {"a": 1.0, "b, c": 0.4, "d": 1.0}
    assert figures["f1"] == pytest.approx({"a": 4 / 6, "b, c": 4 / 7, "d": 2 / 3})
    assert figures["macro_f1"]["value"] == pytest.approx(np.mean(list(figures["f1"].values())))
    first, second = figures["confusions"]
    assert (first["truth"], first["said"], first["count"], first["n"]) == ("a", "b, c", 2, 4)
    assert [one["file"] for one in first["examples"]] == ["2.png", "3.png"] and second["count"] == 1


def test_the_surest_mistakes_are_the_examples() -> None:
    found = answered([0] * 5, [1] * 5)
    found.logits[3] *= 2
    examples = record(found)["confusions"][0]["examples"]
    assert [one["file"] for one in examples] == ["3.png", "0.png", "1.png"]
    assert examples[0]["probability"] > examples[1]["probability"]


def test_top5_and_ties() -> None:
    logits = np.zeros((2, 6), np.float32)
    assert is_among_first(logits, np.array([4, 5]), 5).tolist() == [True, False]  # of equal logits the lower class
    assert is_among_first(logits, np.array([0, 1]), 1).tolist() == [True, False]
    assert record(answered([0], [0]))["top5"]["value"] == 1.0


def test_the_bins_make_up_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (60, 4)), rng.integers(0, 4, 60)
    powers = np.exp(logits)
    confidence = (powers / powers.sum(1, keepdims=True)).max(1)
    right = logits.argmax(1) == labels
    bins, error = reliability(confidence, right)
    filled = [one for one in bins if one["n"]]
    assert sum(one["n"] for one in bins) == 60 and sum(one["n"] * one["accuracy"] for one in filled) == right.sum()
    assert all(one["low"] < one["confidence"] <= one["high"] for one in filled)
    by_hand = sum(one["n"] / 60 * abs(one["accuracy"] - one["confidence"]) for one in filled)
    assert calibration_error(logits, labels) == pytest.approx(by_hand) == error
    assert bins[0] == {"low": 0.0, "high": 1 / 15, "n": 0, "accuracy": None, "confidence": None}


def test_of_many_classes_only_the_cells_that_hold_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answered([0, 0, 0, 1, 2], [0, 1, 1, 1, 0])
    whole = record(found)
    monkeypatch.setattr("tavt_kit.evaluation.record._WHOLE", 5)
    cells = record(found)
    assert whole["confusion_cells"] is None and cells["confusion"] is None
    assert cells["confusion_cells"] == [[0, 0, 1], [0, 1, 2], [1, 1, 1], [2, 0, 1]]
    assert {**whole, "confusion": 0, "confusion_cells": 0} == {**cells, "confusion": 0, "confusion_cells": 0}
    assert list(csv.reader(io.StringIO(confusion_csv(cells))))[:3] == [
        ["truth", "said", "images"], ["a", "a", "1"], ["a", "b, c", "2"]
    ]  # fmt: skip
    assert classes_csv(cells) == classes_csv(whole)


@pytest.mark.slow
def test_ten_thousand_classes_are_evaluated_and_compared_in_seconds(tmp_path: Path) -> None:
    """Their confusion matrix alone would be 800 MB, and 600 MB of JSON."""
    rng, size = np.random.default_rng(0), 10_000
    names = [f"class {i}" for i in range(size)]
    labels = rng.integers(0, size, 200)
    logits = rng.normal(size=(len(labels), size)).astype(np.float32)
    found = Answered(tuple(Sample(Path(f"{i}.png"), int(label)) for i, label in enumerate(labels)), logits)
    begin = time.monotonic()
    body = summarise_answers(found, names, "test")
    write_evaluation(tmp_path, body, found, [sample.path.name for sample in found.samples])
    figures_of(Answers(labels, logits, rng.normal(size=logits.shape).astype(np.float32)), names, "test")
    assert time.monotonic() - begin < 60
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 5e6


def test_tables_can_be_read_back() -> None:
    found = answered([0, 1, 1], [0, 1, 0])
    figures = record(found)
    matrix = list(csv.reader(io.StringIO(confusion_csv(figures))))
    assert matrix[0] == ["truth \\ said", *NAMES] and matrix[2][:3] == ["b, c", "1", "1"]
    classes = list(csv.DictReader(io.StringIO(classes_csv(figures))))
    assert classes[1]["class"] == "b, c" and float(classes[1]["recall"]) == 0.5 and classes[2]["recall"] == ""
    rows = list(csv.DictReader(io.StringIO(answers_csv(found, NAMES, ["x", "y", "\udcff"]))))
    assert [row["label"] for row in rows] == ["a", "b, c", "a"] and [row["truth"] for row in rows][2] == "b, c"
    assert rows[2]["file"] == "\\udcff" and float(rows[0]["probability_5"]) > 0
    told = [Prediction("x.png", (("a", 0.9), ("g", 0.1))), Prediction("y.png", (), "cannot read y.png: no such file")]
    rows = list(csv.DictReader(io.StringIO(predictions_csv(told))))
    assert (rows[0]["label"], rows[0]["label_2"], rows[0]["error"]) == ("a", "g", "")
    assert (rows[1]["label"], rows[1]["error"]) == ("", "cannot read y.png: no such file")


class _Fixed:
    """A session that takes four images at a time, and gives the mean of each as its logits."""

    input_shape = (4, 3, 8, 8)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.shape == self.input_shape
        return images.reshape(4, -1).mean(1, keepdims=True) * np.ones((1, 3), np.float32)


def test_a_file_of_one_batch_size_gets_whole_batches(tmp_path: Path) -> None:
    paths = sorted(write_images(tmp_path, each=2).rglob("*.png"))
    samples = [Sample(path, i % 3) for i, path in enumerate(paths)]
    seen: list[int] = []
    found = answer(samples, _Fixed(), Preprocessing((8, 8)), batch=32, watch=lambda labels: seen.extend(labels))
    assert found.logits.shape == (6, 3) and len(set(found.logits[:, 0].tolist())) == 6
    assert seen == [0, 1, 2, 0, 1, 2] and [sample.path for sample in found.samples] == paths
    with pytest.raises(MeasurementError, match="not finite"):
        answer(samples, lambda images: np.full((len(images), 3), np.nan, np.float32), Preprocessing((8, 8)), batch=6)


def test_a_model_of_more_names_than_logits_is_refused(tmp_path: Path) -> None:
    """It would never say the last name, and nobody would be told."""
    require_width(np.zeros((2, 3), np.float32), ("a", "b", "c"))
    card = ModelCard("timm_vit", "vit", {}, ("a", "b", "c", "d"), Preprocessing((8, 8)).as_record())
    predictor = Predictor(card, lambda images: np.zeros((len(images), 3), np.float32))
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(DataError, match="gives 3 and names 4 classes"):
        next(predictor.files([tmp_path / "image.png"]))


def test_a_folder_among_images_is_said_and_the_others_are_answered(tmp_path: Path) -> None:
    card = ModelCard("timm_vit", "vit", {}, ("a", "b"), Preprocessing((8, 8)).as_record())
    predictor = Predictor(card, lambda images: np.tile(np.array([[0, 3]], np.float32), (len(images), 1)))
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    inside, image = predictor.files([tmp_path, tmp_path / "image.png"], batch=2)
    assert (
        inside.label is None
        and inside.error == f"{tmp_path} is a folder; give the images in it, such as {tmp_path}/*.jpg"
    )
    assert image.label == "b" and image.error is None
