"""``evaluate``, ``predict`` and ``explain`` as Python functions: what the verbs do, without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.workflows.evaluate import evaluate
from tavt_kit.workflows.explain import ExplainedImage, explain
from tavt_kit.workflows.predict import predict
from tests.verbs.command import run
from tests.workflows.conftest import Heard


def test_evaluate_gives_what_the_verb_gives(
    data: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(model, data, schedule="taper:0.2", out=tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    words = ("--schedule", "taper:0.2", "--json")
    assert run("eval", model, "--data", data, *words) == 0
    said = json.loads(capfd.readouterr().out)
    assert {name: value for name, value in found.record.items() if name not in ("files", "command")} == said
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert written == json.loads(json.dumps(found.record))
    assert found.top1.value == said["top1"]["value"] and found.macro_f1.n == found.top1.n == 6
    table = found.to_frame()
    assert list(table["class"]) == ["disc", "square", "stripe"] and table["n"].sum() == 6
    assert repr(found).startswith(f"<EvalResult of {model} under ")


def test_images_without_labels(data: Path, model: Path, tmp_path: Path, quiet: None) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes((data / "disc" / "0.png").read_bytes())
    (folder / "b.png").write_bytes(b"no image")
    found = predict(model, folder, out=tmp_path / "out")
    assert [one.error is None for one in found.predictions] == [True, False]
    assert found.file == tmp_path / "out" / "predictions.csv" and len(found.file.read_text().splitlines()) == 3
    assert found.record["unreadable"] == 1 and len(found.to_frame()) == 3
    assert repr(found) == f"<Predictions of {model}: 2 images, 1 unreadable>"
    (folder / "a.png").unlink()
    assert predict(model, folder, out=tmp_path / "none").unreadable == 1
    assert not (tmp_path / "none").exists()


def test_predict_shows_each_image_as_it_is_known(
    data: Path, model: Path, tmp_path: Path, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> None:
    images = [data / "disc" / "0.png", tmp_path / "absent.png"]
    found = predict(model, images, top=2, progress=heard)
    assert capfd.readouterr() == ("", "")
    assert tuple(heard.shown) == found.predictions and heard.said == []
    assert (len(found), found.unreadable, len(found[0].ranked)) == (2, 1, 2)
    assert run("predict", model, *images, "--top", 2, "--json") == 0
    assert json.loads(capfd.readouterr().out) == found.record
    assert list(found.to_frame()["rank"]) == [1, 2]
    assert predict(model, str(images[0]))[0].label == found[0].label


def test_explain_shows_each_image_as_it_is_drawn(data: Path, model: Path, tmp_path: Path, heard: Heard) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found = explain(model, [data / "disc", broken], tmp_path / "out", limit=11, progress=heard)
    assert tuple(heard.shown) == found.images and all(isinstance(one, ExplainedImage) for one in heard.shown)
    assert (found.drawn, found.unreadable, found.left_out) == (10, 1, 0)
    assert found.record == json.loads((tmp_path / "out" / "explained.json").read_text())
    assert len(found.to_frame()) == 10 and found.images[0].file == tmp_path / "out" / "000-0.png"
    nothing = explain(model, broken, tmp_path / "none")
    assert nothing.record is None and not (tmp_path / "none").exists()
