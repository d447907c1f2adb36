from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.checks.compare import Answers, Losses, losses_of, save_examples
from tavt_kit.data.preprocess import Preprocessing

NAMES = ("crack", "good", "spot")


@pytest.fixture
def losses(tmp_path: Path) -> Losses:
    """Dense has all right but one; the artifact takes two cracks for good, and a spot for a crack."""
    truth = [0, 0, 0, 1, 1, 2, 2]
    dense, artifact = [0, 0, 0, 1, 1, 2, 0], [1, 1, 0, 1, 1, 0, 2]
    paths = [tmp_path / NAMES[label] / f"{place}.png" for place, label in enumerate(truth)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 600), "red").save(path)
    logits = (np.eye(3, dtype=np.float32)[rows] for rows in (dense, artifact))
    return losses_of(Answers(np.array(truth, np.int64), *logits), paths, NAMES, "test")


def test_lost_images_are_of_the_confusions_that_grew_most_first(losses: Losses) -> None:
    assert [(one.path.name, one.truth, one.said) for one in losses.examples] == [
        ("0.png", "crack", "good"),
        ("5.png", "spot", "crack"),
        ("1.png", "crack", "good"),
    ]


def test_the_record_calls_the_source_dense(losses: Losses) -> None:
    record = json.loads(json.dumps(losses.as_record()))
    assert record["classes"][0] == {"class": "crack", "n": 3, "dense": 1.0, "artifact": pytest.approx(1 / 3)}
    assert record["worst_hit"] == ["crack"]
    assert record["confusions_grown"] == [{"truth": "crack", "said": "good", "dense": 0, "artifact": 2}]
    assert record["examples"][0]["file"] == "crack/0.png"


def test_thumbnails_show_what_the_model_sees(losses: Losses, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    save_examples(losses, Preprocessing((32, 32), 1.0), out)
    save_examples(losses, Preprocessing((32, 32), 1.0), out)
    assert len(list((out / "check-examples").iterdir())) == 3
    with Image.open(out / losses.examples[0].thumbnail) as image:
        assert image.size == (32, 32)


def test_nothing_lost_writes_nothing(tmp_path: Path) -> None:
    same = np.eye(3, dtype=np.float32)
    found = losses_of(Answers(np.arange(3), same, same), [Path("x")] * 3, NAMES, "val")
    assert found.examples == ()
    save_examples(found, Preprocessing((32, 32), 1.0), tmp_path)
    assert not list(tmp_path.iterdir())
