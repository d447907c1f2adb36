"""Folders of transformers: what it wrote and answered, through the public converter.

The folders below ``hugging_face`` were written by transformers 5.23 (tiny models, random weights), with the answers of
its own forward passes beside them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tavt_kit.checkpoints import convert, convert_checkpoint, load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import CheckpointError, RecordError
from tavt_kit.models.wrap import wrap

FOLDERS = Path(__file__).parent / "hugging_face"
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


@pytest.mark.parametrize("name", ["vit", "deit", "deit_teacher"])
@torch.no_grad()
def test_a_hugging_face_folder_gives_its_own_logits(name: str, tmp_path: Path) -> None:
    model, card = convert(FOLDERS / name)
    with np.load(FOLDERS / name / "answers.npz") as answers:
        images, expected = torch.from_numpy(answers["images"]), torch.from_numpy(answers["logits"])
    assert card.classes == ("ant", "bee", "cat") and "Hugging Face" in card.provenance
    preprocessing = card.preprocessing
    assert (preprocessing["crop_mode"], preprocessing["interpolation"]) == ("squash", "bilinear")
    assert preprocessing["mean"] == [0.5, 0.5, 0.5]
    torch.testing.assert_close(model(images), expected, **TOLERANCE)
    assert convert_checkpoint(FOLDERS / name, tmp_path / "run").classes == card.classes
    again = load_model(tmp_path / "run")
    torch.testing.assert_close(again(images), expected, **TOLERANCE)
    again.schedule = TokenSchedule.taper(again.layout, 0.3)
    assert torch.isfinite(again.forward_lean(images)).all()


@torch.no_grad()
def test_dinov2_gets_a_new_head_for_the_users_classes() -> None:
    with pytest.raises(CheckpointError, match="give `data`"):
        convert(FOLDERS / "dinov2_classifier")
    model, card = convert(FOLDERS / "dinov2_classifier", classes=["a", "b"])
    assert card.classes == ("a", "b") and "3 tensors" in card.provenance  # the mask token, the classifier's two
    assert wrap(model)(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, lambda x: (x / 255 - 0.5) / 0.25),
        ({"do_normalize": False}, lambda x: x / 255),
        ({"rescale_factor": 1 / 127.5}, lambda x: (x / 127.5 - 0.5) / 0.25),
        ({"do_rescale": False}, lambda x: (x - 0.5) / 0.25),
        ({"do_rescale": False, "do_normalize": False}, lambda x: x),
    ],
)
def test_a_folder_says_how_pixels_become_numbers(
    changes: dict[str, object], wanted: Callable[[NDArray[np.float64]], NDArray[np.float64]], tmp_path: Path
) -> None:
    shutil.copytree(FOLDERS / "vit", tmp_path / "vit")
    file = tmp_path / "vit" / "preprocessor_config.json"
    given = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 32, **changes}
    file.write_text(json.dumps(given))
    _, card = convert(tmp_path / "vit")
    pixels = np.arange(0, 256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)
    made = normalise(pixels, Preprocessing.from_record(card.preprocessing))
    np.testing.assert_allclose(made[0], wanted(pixels[0].astype(np.float64)), rtol=1e-5, atol=1e-4)
    file.write_text(json.dumps({**given, "do_rescale": True, "rescale_factor": 0}))
    with pytest.raises(CheckpointError, match="by a number above 0, got 0"):
        convert(tmp_path / "vit")


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    def copied(name: str, **changes: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(FOLDERS / "vit", folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    cases = {
        copied("kind", model_type="swin"): "swin",
        copied("gelu", hidden_act="relu"): "relu",
        copied("deeper", num_hidden_layers=3): "lacks encoder.layer.2",
        copied("shallower", num_hidden_layers=1): "adds encoder.layer.1",
    }
    without = json.loads((FOLDERS / "vit" / "config.json").read_text())
    del without["intermediate_size"]
    (copied("wide") / "config.json").write_text(json.dumps(without))
    cases[tmp_path / "wide"] = "config.json does not say how wide the feed-forward halves are"
    (copied("list") / "config.json").write_text("[1]")
    cases[tmp_path / "list"] = "config.json must hold a JSON object, but holds a list"
    (copied("json") / "config.json").write_text("{")
    (copied("empty") / "model.safetensors").unlink()
    for folder, says in {**cases, tmp_path / "json": "JSON", tmp_path / "empty": "holds no model"}.items():
        with pytest.raises((CheckpointError, RecordError), match=says):
            convert(folder)
    with pytest.raises(CheckpointError, match="at its own 32 px"):
        convert(FOLDERS / "vit", image_size=64)


@pytest.mark.parametrize("names", [None, {"0": "ant", "1": "bee"}, {"0": "ant", "1": "bee", "2": "ant"}])
def test_names_that_do_not_tell_classes_apart_are_numbers(names: dict[str, str] | None, tmp_path: Path) -> None:
    shutil.copytree(FOLDERS / "vit", tmp_path / "vit")
    file = tmp_path / "vit" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": names}))
    assert convert(tmp_path / "vit")[1].classes == ("class 0", "class 1", "class 2")
    assert convert(tmp_path / "vit", classes=["a", "b", "c"])[1].classes == ("a", "b", "c")
