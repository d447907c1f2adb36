"""What a search holds its candidates against: the dense model made cheaper, and models of the user's own."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.cli import main
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.reports.baselines import better_in_front
from tavt_kit.search.finalists import Final, better_baseline
from tavt_kit.workflows import search_target
from tests.runtimes.models import write_flat
from tests.verbs.test_search import toy_table
from tests.verbs.tiny import write_images, write_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, a model in ``run`` and another in ``baseline``."""
    folder = tmp_path_factory.mktemp("baselines")
    write_images(folder / "data", each=30)
    write_run(folder / "run")
    write_run(folder / "baseline", seed=2, depth=2)
    return folder


def search(place: Path, out: Path, *flags: object) -> int:
    fixed = ["search", place / "run", "--data", place / "data", "-o", out, "--population", 4, "--evaluations", 5,
             "--min-patches", 1]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in (*fixed, *flags)])
    return int(end.value.code or 0)


def baselines(out: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads((out / "front.json").read_text())["baseline_models"]}


def test_the_dense_model_made_cheaper_is_evaluated_whatever_the_budget(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert search(place, out, "--budget", "flops=300K", "--evaluations", 4) == 0
    with (out / "candidates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["origin"], row["schedule"].partition(" ")[2]) for row in rows[:4]] == [
        ("dense", ""), ("resolution", "at 24 px"), ("resolution", "at 16 px"), ("layers", rows[3]["schedule"][5:]),
    ]  # fmt: skip
    assert len(rows) == 4 and "without layer" in rows[3]["schedule"]
    body = json.loads((out / "front.json").read_text())
    assert body["untrained_sizes"] == [24, 16] and "16 px" in (out / "report.html").read_text()
    assert max(one["top1"] for one in body["candidates"]) == body["candidates"][body["chosen"]]["top1"]
    assert {one["origin"] for one in body["baselines"]} >= {"dense", "resolution"} and body["baseline_models"] == []
    plain = tmp_path / "plain"
    assert search(place, plain, "--budget", "flops=400K", "--evaluations", 2, "--no-baselines", "--fix", "all") == 0
    assert "untrained_sizes" not in json.loads((plain / "front.json").read_text())


def test_the_users_models_stand_beside_the_front(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that keeps to the budget and is better than everything found is what is recommended."""
    out = tmp_path / "out"
    given = ("--baseline", place / "baseline", "--fix", "all", "--no-baselines")
    assert search(place, out, "--budget", "flops=300K", *given, "--algorithm", "random") == 0
    said, body = capsys.readouterr().out, json.loads((out / "front.json").read_text())
    found = baselines(out)
    assert list(found) == ["baseline"] and "baseline" in said
    dense, own = next(one for one in body["baselines"] if one["origin"] == "dense"), found["baseline"]
    assert own["macs"] <= 300_000 and own["verdict"] == "PASS" and own["n"] == dense["n"]
    assert own["against_dense"]["difference"] == pytest.approx(own["top1"] - dense["top1"])
    chosen = body["candidates"][body["chosen"]]
    assert (body.get("recommended") == "baseline") == (own["top1"] > chosen["top1"])


def test_what_is_recommended_is_the_best_of_all() -> None:
    def baseline(right: int, macs: int, verdict: Verdict = Verdict.PASS) -> Baseline:
        return Baseline("yours", "other", "val", macs, Accuracy.of_counts(right, 100, split="val"), verdict=verdict)

    ours = Candidate(TokenSchedule((5, 4)), 300, Accuracy.of_counts(70, 100, split="val"), verdict=Verdict.PASS)
    final, budget = Final((ours,), 0, (), "macs", 0, ()), Budget.parse(["flops=1K"])
    better, dearer = baseline(80, 900), baseline(70, 900)
    assert better_baseline(final, [dearer, better], budget) is better
    assert better_baseline(final, [dearer, baseline(90, 100, Verdict.INCONCLUSIVE)], budget) is None
    assert better_baseline(final, [dearer], Budget.parse(["top1=60%"])) is None  # a floor: the cheaper one is better
    assert better_baseline(replace(final, chosen=None), [dearer], budget) is dearer


def test_they_are_measured_among_the_finalists(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[set[str]] = []

    def passes(
        model: AdaptiveViT, target: Any, schedules: Sequence[TokenSchedule], *rest: Any,
        beside: Any = None, **named: Any,
    ) -> list[Measurement]:  # fmt: skip
        table = toy_table(target)
        seen.append(set(beside or {}))
        times = [table.predict(one) for one in schedules] + [0.5 for _ in beside or {}]
        return [Measurement((time,) * 60, steady=True) for time in times]

    monkeypatch.setattr(search_target, "measure_schedules", passes)
    monkeypatch.setattr(search_target, "measure_table", lambda model, target, *rest, **named: toy_table(target))
    out = tmp_path / "out"
    search(place, out, "--target", "torch:cpu:threads=1", "--budget", "latency=7ms", "--budget", "drop=100",
           "--fix", "all", "--baseline", place / "baseline", "--baseline", place / "baseline")  # fmt: skip
    found = baselines(out)
    assert [one for one in seen if one] == [set(found)] and len(found) == 2  # once, with schedules beside them
    assert all(one["latency_ms"]["median"] == 0.5 and one["ratio"]["value"] > 1 for one in found.values())
    body = json.loads((out / "front.json").read_text())
    worse = [one for one in found.values() if one.get("top1", 0) < body["candidates"][body["chosen"]]["top1"]]
    assert len(better_in_front(body)) == len(found) - len(worse)
    assert ("A baseline does better" in capsys.readouterr().out) == bool(better_in_front(body))


def test_a_baseline_that_wins_is_named() -> None:
    """By multiply-adds where nothing is timed; by accuracy within the budget."""
    chosen = {"schedule": [5, 4], "macs": 300, "top1": 0.7, "n": 100, "ci95": [0.6, 0.8], "verdict": "PASS"}
    baseline = {"name": "dense at 84 px", "kind": "resolution", "split": "val", "macs": 200, "top1": 0.9, "n": 100,
             "ci95": [0.83, 0.95], "latency_ms": None, "verdict": "PASS"}  # fmt: skip
    body = {"metric": "top1", "split": "val", "chosen": 0, "candidates": [{**chosen, "latency_ms": None}],
            "budgets": ["flops=1K"], "baseline_models": [baseline]}  # fmt: skip
    ((_, sentence),) = better_in_front(body)
    assert "dense at 84 px scores 90.0" in sentence and "multiply-adds" in sentence
    assert better_in_front(body | {"baseline_models": [baseline | {"top1": 0.6}]}) == []
    assert better_in_front(body | {"chosen": None}) == []
    times = {"median": 3.0, "p90": 3.0}
    assert (
        better_in_front(body | {"baseline_models": [baseline | {"latency_ms": times}]}) == []
    )  # one timed, the other not


def test_bad_ones_are_refused_before_anything_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other", classes=("disc", "square", "cross"))
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    write_flat(tmp_path / "flat.onnx")
    for flags, says in (
        ((other,), "known to only one of"),
        (("mobilenetv3_small_100",), "a run folder, got"),
        ((tmp_path / "absent.onnx",), "there is no model file"),
        ((tmp_path / "no.onnx", "--target", "torch:cpu"), "runs on onnxruntime or openvino"),
        ((tmp_path / "no.onnx",), "cannot load"),
        ((tmp_path / "flat.onnx",), "images have four"),
        ((tmp_path / "flat.onnx", "--target", "openvino:cpu:threads=1"), "images have four"),
    ):
        assert search(place, tmp_path / "out", "--budget", "flops=300K", "--baseline", *flags) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_int8_and_files_on_a_real_target(place: Path, tmp_path: Path) -> None:
    """A really quantized graph, and the user's exported and foreign files, measured and evaluated."""
    import torch

    from tavt_kit.checkpoints import load_model
    from tavt_kit.runtimes.on_onnxruntime import module_to_onnx

    with pytest.raises(SystemExit):
        main(["export", str(place / "baseline"), "--data", str(place / "data"), "-o", str(tmp_path / "files"),
              "--schedule", "dense", "--format", "openvino", "--accept-inconclusive"])  # fmt: skip
    foreign = tmp_path / "foreign.onnx"
    bare = load_model(place / "baseline").bare
    foreign.write_bytes(module_to_onnx(bare, (torch.zeros(1, 3, 32, 32),), ["images"], {}))
    out = tmp_path / "out"
    flags = ("--target", "openvino:cpu:threads=1", "--final", 1, "--baseline", tmp_path / "files" / "model.f32.xml")
    search(place, out, *flags, "--baseline", foreign, "--budget", "latency=1s")
    found = baselines(out)
    assert {"model.f32.xml", "foreign.onnx"} <= set(found)
    assert all(one["latency_ms"]["samples"] >= 40 and "top1" in one for one in found.values())
    assert found["foreign.onnx"]["top1"] == found["model.f32.xml"]["top1"]
    body = json.loads((out / "front.json").read_text())
    (dense,) = [one for one in body["measured"] if one["origin"] == "int8"]
    assert dense["precision"] == "int8" and dense["latency_ms"]["samples"] >= 40  # a candidate like any other
    shutil.rmtree(tmp_path / "files")
