"""``compare`` from Python, and records of searches without a target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Verdict
from tavt_kit.errors import ParameterError, RecordError
from tavt_kit.workflows.compare import compare
from tavt_kit.workflows.evaluate import evaluate
from tests.verbs.command import run
from tests.verbs.test_compare import HOST, bench_file
from tests.verbs.tiny import write_images, write_run


def test_it_says_what_the_verb_says_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = bench_file(tmp_path / "a.json", {"dense": 20.0, "taper": 10.0})
    after = bench_file(tmp_path / "b.json", {"dense": 18.0, "taper": 11.0})
    found = compare(before, str(after))
    assert capfd.readouterr() == ("", "")
    assert run("compare", before, after, "--json") == 1
    assert json.loads(capfd.readouterr().out) == found.record
    assert found.verdict is Verdict.FAIL and repr(found) == "<compared: FAIL, 2 of bench>"
    frame = found.to_frame()
    assert list(frame["name"]) == ["dense", "taper"] and list(frame["verdict"]) == ["PASS", "FAIL"]
    assert frame["change"][1] == pytest.approx(1.1) and frame["low"][1] > 1.05
    assert compare(before, after, threshold=0.15).verdict is Verdict.PASS
    with pytest.raises(ParameterError, match="`threshold`"):
        compare(before, after, threshold=0.0)
    with pytest.raises(RecordError, match="`across`"):
        compare(before, bench_file(tmp_path / "c.json", {"dense": 20.0}, host=replace(HOST, cpu="another")))


def test_searches_by_multiply_adds_are_compared_by_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = write_images(tmp_path / "data", each=20), write_run(tmp_path / "run")
    limits = ("--budget", "flops=400K", "--evaluations", 6, "--population", 3, "--no-baselines")
    assert run("search", model, "--data", data, *limits, "-o", tmp_path / "found") == 0
    front = json.loads((tmp_path / "found" / "front.json").read_text())
    assert front["target"] is None
    capsys.readouterr()
    assert run("compare", tmp_path / "found", tmp_path / "found") == 0
    said = capsys.readouterr().out
    assert "front: " in said and " chosen " in said.splitlines()[2]
    (found,) = compare(tmp_path / "found", tmp_path / "found").comparisons
    assert {change.figure for change in found.changes} == {"top1"}
    assert all(change.estimate.value == 0.0 for change in found.changes)
    on_target = {**front, "target": {"runtime": "torch", "processor": "cpu"}}
    (tmp_path / "measured.json").write_text(json.dumps(on_target))
    with pytest.raises(RecordError, match=r"differ in target \(not told and torch:cpu"):
        compare(tmp_path / "found" / "front.json", tmp_path / "measured.json")


@pytest.mark.slow
def test_searches_are_paired_by_the_images_that_their_stores_know(tmp_path: Path) -> None:
    data, model = write_images(tmp_path / "data", each=20), write_run(tmp_path / "run")
    limits = ("--budget", "flops=400K", "--evaluations", 6, "--population", 3, "--no-baselines")
    for seed in (0, 1):
        assert run("search", model, "--data", data, *limits, "--seed", seed, "-o", tmp_path / str(seed)) == 0
    same = compare(tmp_path / "0", tmp_path / "0")
    assert same.verdict is Verdict.PASS and "the same measurements" in same.comparisons[0].method
    (found,) = compare(tmp_path / "0", tmp_path / "1", drop=20).comparisons
    assert found.method == "accuracies paired image by image" and found.changes
    n = json.loads((tmp_path / "0" / "front.json").read_text())["candidates"][0]["n"]
    assert found.changes[0].name == "chosen"  # whatever it is in each
    for change in found.changes[1:]:  # the same schedules of the same model: no image changed
        assert change.estimate.high == PairedDifference.of_counts(0, 0, n).bounds(0.05)[1]
    (tmp_path / "1" / "search.db").unlink()
    assert "as of different images" in compare(tmp_path / "0", tmp_path / "1").comparisons[0].method


def test_evaluations_are_matched_by_their_images_and_paired(tmp_path: Path) -> None:
    data, other = write_images(tmp_path / "data", each=20), write_images(tmp_path / "other" / "data", each=20, size=33)
    models = [write_run(tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    for name, model, images in (("a", models[0], data), ("b", models[1], data), ("c", models[1], other)):
        evaluate(model, images, split="val", out=tmp_path / name)
    (found,) = compare(tmp_path / "a", tmp_path / "b").comparisons
    assert found.method == "accuracies paired image by image"
    bits = [json.loads((tmp_path / name / "eval.json").read_text())["correct"] for name in "ab"]
    difference = PairedDifference.of_bits(*bits)
    assert difference.flips > 0
    assert json.loads((tmp_path / "a" / "eval.json").read_text())["background"] == "white"
    (change,) = found.changes
    assert (change.estimate.low, change.estimate.high) == pytest.approx(difference.bounds(0.05))
    with pytest.raises(RecordError, match="differ in images"):  # the data's name and number of images are the same
        compare(tmp_path / "b", tmp_path / "c")
    renamed = data.rename(tmp_path / "renamed")
    evaluate(models[1], renamed, split="val", out=tmp_path / "d")
    assert compare(tmp_path / "b", tmp_path / "d").comparisons[0].changes[0].estimate.value == 0.0
