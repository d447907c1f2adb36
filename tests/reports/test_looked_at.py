"""The sections of ``eval.json`` and ``explained.json``: written by the real code, read back from the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tavt_kit.core.records import sha256_file, write_record
from tavt_kit.data.images import Sample
from tavt_kit.evaluation.answers import Answered
from tavt_kit.evaluation.record import summarise_answers, write_evaluation
from tavt_kit.reports import write_report
from tavt_kit.reports.page import build_report
from tavt_kit.reports.records import RecordFile, Records
from tests.reports.pages import Page

CLASSES = ("wren", "<b>tit</b>", "crow")


def write_eval(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    labels = np.arange(60) % 3
    said = np.where(np.arange(60) < 6, (labels + 1) % 3, labels)
    samples = tuple(Sample(Path(f"{i}.png"), int(label)) for i, label in enumerate(labels))
    found = Answered(samples, (4 * np.eye(3, dtype=np.float32))[said])
    body = {
        "thing": "runs/birds",
        "schedule": "65x12",
        **summarise_answers(found, CLASSES, "test", lambda sample: sample.path.name),
        "heads": None,
    }
    return write_evaluation(folder, body, found, [sample.path.name for sample in samples])


def write_explained(folder: Path, count: int = 2) -> dict[str, Any]:
    folder.mkdir(parents=True)
    images = []
    for number in range(count):
        file = folder / f"{number:03d}.png"
        Image.new("RGB", (60, 20), (number, 90, 0)).save(file)
        images.append(
            {"image": f"in/{number}.jpg", "file": file.name, "sha256": sha256_file(file), "prediction": "wren",
             "probability": 0.8, "shows": ["attention rollout", "layer 1: 9 tokens"]}
        )  # fmt: skip
    body = {"run": "runs/birds", "schedule": "taper:0.2", "images": images}
    write_record(folder / "explained.json", "explained", body)
    return body


def read(folder: Path) -> Page:
    return Page(write_report([folder], folder / "out").html.read_text(encoding="utf-8"))


def test_what_was_evaluated_and_explained_is_shown(tmp_path: Path) -> None:
    write_eval(tmp_path / "eval")
    write_explained(tmp_path / "seen")
    page = read(tmp_path)
    assert {"evaluated", "explained"} <= set(page.attributes("id"))
    for words in ("90.0 %", "65x12", "<b>tit</b>", "What a layer dropped is dark"):
        assert words in page.text, words
    images = [values for tag, values in page.tags if tag == "img"]
    assert [one["alt"] for one in images] == [
        "0.jpg: wren (80 %): attention rollout, layer 1: 9 tokens".replace(" %", "\u00a0%"),
        "1.jpg: wren (80 %): attention rollout, layer 1: 9 tokens".replace(" %", "\u00a0%"),
    ]
    assert all(one["src"].startswith("data:image/png;base64,") for one in images)
    assert "What it has right" in page.text and "wren" in page.text


def test_an_image_that_is_not_the_recorded_one_is_left_out(tmp_path: Path) -> None:
    write_explained(tmp_path / "seen")
    (tmp_path / "seen" / "000.png").unlink()
    outside = tmp_path / "outside.png"
    (tmp_path / "seen" / "001.png").rename(outside)
    record = json.loads((tmp_path / "seen" / "explained.json").read_text())
    record["images"][1]["file"] = "../outside.png"
    (tmp_path / "seen" / "explained.json").write_text(json.dumps(record))
    page = read(tmp_path)
    assert [values["alt"] for tag, values in page.tags if tag == "img"] == []
    assert "2 images, of which 0 are shown" in page.text


def test_only_a_few_images_are_embedded(tmp_path: Path) -> None:
    write_explained(tmp_path / "seen", 9)
    page = read(tmp_path)
    assert page.count("img") == 6 and "9 images, of which 6 are shown" in page.text


def test_no_run_needs_them(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", "run", {})
    page = read(tmp_path)
    assert "fgvc-kit eval" not in page.text and "fgvc-kit explain" not in page.text


@pytest.mark.parametrize("kind", ["eval", "explained"])
def test_any_single_field_may_be_missing_or_strange(tmp_path: Path, kind: str) -> None:
    body = write_eval(tmp_path / "a") if kind == "eval" else write_explained(tmp_path / "a")
    path = tmp_path / "a" / f"{kind}.json"
    for field in body:
        for strange in ({}, {field: None}, {field: 3}, {field: [[], 1, {}]}, {field: {"x": {"y": []}}}):
            changed = {**{name: value for name, value in body.items() if name != field}, **strange}
            build_report(Records({kind: (RecordFile(path, changed),)}))
