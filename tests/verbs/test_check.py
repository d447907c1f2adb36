"""``fgvc-kit check`` beyond a sound file: logits made elsewhere, files that changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import read_record
from tavt_kit.data import load_images
from tavt_kit.runtimes import open_file
from tests.verbs.command import run
from tests.verbs.tiny import CLASSES, write_images, write_run

SCHEDULE = "14,11,8,8"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, a model in ``run``, it as ONNX in ``shipped``, and its logits in ``logits.npz``."""
    folder = tmp_path_factory.mktemp("check")
    write_images(folder / "data")
    write_run(folder / "run")
    flags = ("--data", folder / "data", "--schedule", SCHEDULE, "--format", "onnx", "-o", folder / "shipped")
    assert run("export", folder / "run", *flags, "--no-compare-dense") == 0
    np.savez(folder / "logits.npz", **predicted(folder))
    return folder


def predicted(place: Path) -> dict[str, Any]:
    """What a device would write of the test split, in an order of its own."""
    from tavt_kit.data import load_arrays
    from tavt_kit.data.preprocess import Preprocessing

    file = place / "shipped" / "model.f32.onnx"
    card, images = read_metadata(file), load_images(str(place / "data"))
    samples = images.split("test")[::-1]
    arrays = load_arrays(samples, Preprocessing.from_record(card.preprocessing))
    logits = open_file(file, TargetDevice("onnxruntime", "cpu"))(arrays.images)
    names = [images.relative(sample) for sample in samples]
    return {"logits": logits, "names": names, "labels": arrays.labels, "classes": CLASSES, "device": "orin:gpu"}


def flags(place: Path, out: Path) -> tuple[object, ...]:
    return ("--against", place / "run", "--data", place / "data", "-o", out, "--no-compare-dense")


def found(out: Path, name: str) -> dict[str, Any]:
    checks = read_record(out / "check.json", "check")["checks"]
    return next(one for one in checks if one["artifact"] == name)


# -------------------------------------------------------------------------------------------- logits made elsewhere


@pytest.mark.slow
def test_logits_made_elsewhere_are_judged(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "shipped" / "model.f32.onnx"
    made = ("--predictions", place / "logits.npz")
    assert run("check", file, *made, *flags(place, tmp_path)) == 1
    said = capsys.readouterr()
    assert "INCONCLUSIVE" in said.out
    assert "made elsewhere (orin:gpu)" in said.err
    one = found(tmp_path, "logits.npz")
    assert (one["agreement"], one["executed"], one["batches"]["sizes"]) == (1.0, "orin:gpu", [])
    assert one["largest_difference"] / one["scale"] < 1e-4
    assert one["schedule"] == read_metadata(file).as_record()["schedule"]
    assert run("check", *made, "--schedule", SCHEDULE, "--drop", 100, *flags(place, tmp_path)) == 0
    assert run("check", *made, "--schedule", file, "--drop", 100, *flags(place, tmp_path)) == 0


def _other_class(given: dict[str, Any]) -> None:
    given["classes"] = ("disc", "square", "ring")


BAD: dict[str, tuple[Any, str]] = {
    "no logits": (lambda g: g.pop("logits"), "predictions hold logits"),
    "no names": (lambda g: g.pop("names"), "predictions hold logits"),
    "pickled names": (lambda g: g.update(names=np.array(g["names"], dtype=object)), "is none"),
    "another number of classes": (lambda g: g.update(logits=g["logits"][:, :2], classes=CLASSES[:2]), "of 2 classes"),
    "another class": (_other_class, "must have the same classes"),
    "an image missing": (lambda g: [g.update({k: g[k][1:]}) for k in ("logits", "names", "labels")], "lacks 1"),
    "an image twice": (lambda g: g["names"].__setitem__(0, g["names"][1]), "5 different ones"),
    "an image of another data set": (lambda g: g["names"].__setitem__(0, "disc/far.png"), "is none of them"),
    "a name of several": (lambda g: g["names"].__setitem__(0, g["names"][0].split("/")[1]), "give more of its path"),
    "labels that contradict": (lambda g: g.update(labels=np.roll(g["labels"], 1)), "contradict the data"),
    "texts for logits": (lambda g: g.update(logits=g["logits"].astype(str)), "logits are numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_logits_of_other_things_are_refused(
    case: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BAD[case]
    given = dict(np.load(place / "logits.npz"))
    given["names"] = given["names"].tolist()
    spoil(given)
    np.savez(tmp_path / "bad.npz", **given)
    out = tmp_path / "out"
    assert run("check", "--predictions", tmp_path / "bad.npz", "--schedule", SCHEDULE, *flags(place, out)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not (out / "check.json").exists()


def test_what_is_no_npz_file_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    for name in ("one.npy", "text.npz"):
        assert run("check", "--predictions", tmp_path / name, *flags(place, tmp_path)) == 2
        assert "predictions are a NumPy .npz file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- changed after its check


@pytest.fixture
def shipped(place: Path, tmp_path: Path) -> Path:
    """The exported file, changed after its check."""
    shutil.copytree(place / "shipped", tmp_path / "shipped")
    file = tmp_path / "shipped" / "model.f32.onnx"
    file.write_bytes(file.read_bytes() + b"\xfa\x01\x02hi")  # a field that no reader knows
    return file


@pytest.mark.parametrize("verb", ["predict", "bench", "eval"])
def test_a_file_that_changed_after_its_check_is_refused(
    verb: str, shipped: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"predict": (place / "data" / "disc" / "0.png",), "eval": ("--data", place / "data"), "bench": ()}[verb]
    assert run(verb, shipped, *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "is not the file that was checked" in lines[0]
    assert not (shipped.parent / "bench.json").exists()


def test_a_check_of_a_changed_file_says_so_and_settles_it(
    shipped: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", shipped, *flags(place, shipped.parent)) == 0
    assert "not the file that was checked" in capsys.readouterr().err
    assert run("predict", shipped, place / "data" / "disc" / "0.png") == 0
    assert run("check", shipped, *flags(place, shipped.parent)) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "nothing to check"),
        (("absent.onnx",), "no file absent.onnx"),
        (("FILE", "--schedule", "dense"), "frozen into it"),
        (("RUN", "--predictions", "NPZ"), "got the folder"),
        (("--predictions", "NPZ", "--schedule", "9,9"), "4 layers"),
    ],
)
def test_contradictions_are_one_sentence(
    given: tuple[str, ...], words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"FILE": place / "shipped" / "model.f32.onnx", "RUN": place / "run", "NPZ": place / "logits.npz"}
    assert run("check", *(names.get(word, word) for word in given), *flags(place, tmp_path)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_the_record_and_the_terminal_say_what_was_counted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "shipped" / "model.f32.onnx"
    assert run("check", file, "--against", place / "run", "--data", place / "data", "--json") == 0
    one = json.loads(capsys.readouterr().out)
    assert one["token_choice"]["kept"] == [13, 10, 7]
    assert one["token_choice"]["reason"] == "" and one["tied"] == 0
    assert [entry["class"] for entry in one["classes"]] == list(CLASSES)
    assert one["calibration_error"]["bins"] == 15
    assert one["mcnemar_p"] == 1.0
    assert one["top5"] is None  # of three classes five are always right
    assert run("check", file, "--data", place / "data", "--no-compare-dense") == 0  # against what exported.json names
    said = capsys.readouterr().out
    assert all(words in said for words in ("model.f32.onnx", "14,11,8", "Agreement", "PASS"))
