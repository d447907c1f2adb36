"""``eval`` through the real command."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.checkpoints import save_model
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.records import sha256_file
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.models.wrap import wrap
from tests.contracts.zoo import PIM, SMALL, build
from tests.verbs.command import run
from tests.verbs.tiny import CLASSES, write_images, write_run


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), each=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "model")


def test_a_folder_of_everything(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ("eval", model, "--data", data, "--batch", 5, "-o", out)
    assert run(*arguments, "--schedule", "17,9,9,5") == 0
    printed = capsys.readouterr().out
    record = json.loads((out / "eval.json").read_text())
    assert (record["schema"], record["version"]) == ("fgvc-kit/eval", 2)
    names = {one["file"] for one in record["files"]}
    assert names == {"confusion.csv", "classes.csv", "predictions.csv"}
    assert all(sha256_file(out / one["file"]) == one["sha256"] for one in record["files"])
    rows = rows_of((out / "predictions.csv").read_text())
    assert len(rows) == record["top1"]["n"] == 12
    right = sum(row["truth"] == row["label"] for row in rows)
    assert right == round(record["top1"]["value"] * 12) == np.trace(record["confusion"])
    for words in ("top-1", "Macro F1", "Calibration error", "taken for", "confusion.csv"):
        assert words in printed
    assert record["schedule"] == "17,9x2,5" and record["target"].startswith("torch:cpu")


@pytest.mark.slow
def test_a_run_answers_alike_on_every_target(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(*arguments: object) -> object:
        assert run("eval", *arguments, "--data", data, "--limit", 6, "--json") == 0
        record = json.loads(capsys.readouterr().out)
        return record["confusion"], record["calibration"]["error"]

    first = figures(model)
    other = figures(model, "--target", "onnxruntime:cpu", "--batch", 4)
    assert other[0] == first[0] and other[1] == pytest.approx(first[1], abs=1e-5)  # type: ignore[index]


@pytest.mark.slow
def test_pims_heads_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = tuple(f"class {i}" for i in range(7))
    arguments = {**{name: value for name, value in SMALL.items() if name != "num_classes"}, **PIM}
    preprocessing = Preprocessing((40, 40), 1.0)
    pim = build("pim")
    card = ModelCard("pim", "pim_vit_base_patch16", arguments, classes, preprocessing.as_record())
    save_model(tmp_path / "pim", pim, card)
    images = write_images(tmp_path / "data", each=5, classes=classes, size=40)
    command = ("eval", tmp_path / "pim", "--data", images, "--schedule", f"{wrap(pim).tokens},20,15,9", "--json")
    assert run(*command) == 0
    record = json.loads(capsys.readouterr().out)
    heads = record["heads"]
    assert list(heads["heads"]) == ["layer1", "layer2", "layer3", "layer4", "combiner"]
    assert list(heads["fused"]) == list(heads["fused_official"]) == [f"highest-{k}" for k in range(1, 6)]
    assert heads["heads"]["combiner"]["top1"] == record["top1"]  # what the model answers with
    assert heads["fused"]["highest-5"]["top1"] == heads["fused_official"]["highest-5"]["top1"]
    assert heads["heads"]["layer1"]["top3"]["value"] >= heads["heads"]["layer1"]["top1"]["value"]
    assert set(heads["tokens"]) == {f"{which}_layer{level}" for which in ("select", "drop") for level in range(1, 5)}
    assert run(*command[:-1]) == 0
    assert "The official code reports the best of its names" in capsys.readouterr().out


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Images of every kind, and what is none."""
    folder = tmp_path / "odd"
    (folder / "deeper").mkdir(parents=True)
    Image.new("RGB", (1, 1), (200, 9, 9)).save(folder / "deeper" / "one pixel.png")
    Image.new("CMYK", (40, 40)).save(folder / "cmyk.jpg")
    Image.fromarray((np.arange(1600, dtype=np.uint16) * 40).reshape(40, 40)).save(folder / "deep.png")
    frames = [Image.new("P", (40, 40), shade) for shade in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (40, 40)).save(folder / "really a png.jpg", format="PNG")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.mark.slow
def test_a_folder_without_labels(model: Path, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", model, odd, "--batch", 2, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    rows = rows_of((tmp_path / "out" / "predictions.csv").read_text())
    names = ["animated.gif", "broken.png", "cmyk.jpg", "deep.png", "one pixel.png", "really a png.jpg"]
    assert [Path(row["file"]).name for row in rows] == names
    assert rows[1]["label"] == "" and "not an image" in rows[1]["error"] and "1 of 6" in printed.err
    assert all(row["label"] in CLASSES and row["label_3"] in CLASSES for i, row in enumerate(rows) if i != 1)
    assert printed.out.splitlines()[-1] == str(tmp_path / "out" / "predictions.csv")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    assert run("predict", model, tmp_path / "bad", "-o", tmp_path / "none") == 2
    assert not (tmp_path / "none").exists()


def test_the_order_of_classes_is_the_models(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a program that sorts class 10 after class 2: the same names in another order."""
    folder = write_run(tmp_path / "model", classes=("stripe", "disc", "square"))
    assert run("eval", folder, "--data", data, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["classes"] == ["stripe", "disc", "square"]
    paths = [example["file"] for one in record["confusions"] for example in one["examples"]]
    truths = [one["truth"] for one in record["confusions"] for _ in one["examples"]]
    assert paths and [path.split("/")[0] for path in paths] == truths


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--split", "dev"), "but 'dev' was asked for"),
        (("--data", "{data}/disc"), "predict labels them"),
        (("--data", "{other}"), "3 are in only one of them (cat, dog, square)"),
        (("--target", "torch:gameboy"), "gameboy"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    if "{other}" in arguments:
        write_images(other, each=5, classes=("disc", "stripe", "cat", "dog"))
    given = [one.format(data=data, empty=tmp_path / "empty", other=other) for one in arguments]
    given += [] if "--data" in arguments else ["--data", str(data)]
    assert run("eval", model, *given, "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))
