"""``bench`` from Python: as the verb measures, without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.budget import Verdict
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, MeasurementError, OutputError, ParameterError, TargetError, UnknownName
from tavt_kit.models.wrap import wrap
from tavt_kit.workflows.bench import bench
from tests.runtimes.models import write_linear
from tests.verbs.command import run
from tests.verbs.tiny import write_run
from tests.workflows.told import Told

TARGET = "torch:cpu:threads=1"
QUICK: dict[str, Any] = {"min_time": 0.02, "max_time": 0.1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "model")


def what(record: Any) -> list[tuple[object, ...]]:
    """The candidates without what the machine says of them."""
    return [(one["name"], one["schedule"], one["macs"], one["target"]) for one in record["candidates"]]


@pytest.mark.slow
def test_it_measures_what_the_verb_measures_and_prints_nothing(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = Told()
    found = bench(
        model, target=TARGET, schedule=["dense", "taper:0.3"], budget="latency=10s", out=tmp_path / "python",
        progress=told, **QUICK,
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert found.record == json.loads((tmp_path / "python" / "bench.json").read_text())
    assert told.done[0] == f"opening {model}" and any(one.startswith("measuring, ") for one in told.done)
    schedules = ("--schedule", "dense", "--schedule", "taper:0.3")
    quick = ("--min-time", 0.02, "--max-time", "0.1s", "--budget", "latency=10s")
    code = run("bench", model, "--target", TARGET, *schedules, *quick, "-o", tmp_path / "verb")
    verb = json.loads((tmp_path / "verb" / "bench.json").read_text())
    assert what(found.record) == what(verb) and found.record["protocol"] == verb["protocol"]
    assert code in (0, 1) and found.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert "'model dense'" in repr(found) and str(found.file) in repr(found)
    frame = found.to_frame()
    assert list(frame["name"]) == ["model dense", "model taper:0.3"] and frame["ratio"][0] == 1.0
    assert list(frame["median"]) == [row["latency_ms"]["median"] for row in found.record["candidates"]]


@pytest.mark.slow
def test_each_live_model_is_opened_once_for_each_reduction(model: Path, tmp_path: Path) -> None:
    write_linear(tmp_path / "a.onnx")
    flags = ("--reduction", "drop", "--reduction", "merge", "--schedule", "taper:0.3")
    quick = ("--min-time", 0.02, "--max-time", "0.1s")
    targets = ("--target", TARGET, "--target", "onnxruntime:cpu:threads=1")
    assert run("bench", model, tmp_path / "a.onnx", *targets, *flags, *quick, "-o", tmp_path) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["candidates"]
    assert [one["name"] for one in rows] == [
        *(f"model taper:0.3 {how} on {where}" for how in ("drop", "merge") for where in ("torch", "onnxruntime")),
        "a.onnx",
    ]
    one = bench(model, target=TARGET, schedule="taper:0.3", reductions="merge", out=tmp_path / "one", **QUICK)
    assert [row.name for row in one.rows] == ["model taper:0.3"]
    with pytest.raises(UnknownName, match="reduction must be one of drop, merge"):
        bench(model, target=TARGET, reductions="melt", out=tmp_path / "one", **QUICK)


@pytest.mark.slow
def test_merged_tokens_take_their_own_path(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened under each reduction really reduces so."""
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module as really

    opened = []

    def spy(module: LeanViT, *rest: Any) -> Any:
        opened.append(module.adaptive.reduction)
        return really(module, *rest)

    monkeypatch.setattr("tavt_kit.runtimes.open_module", spy)
    bench(model, target=TARGET, schedule="taper:0.3", reductions=("drop", "merge"), out=tmp_path, **QUICK)
    assert opened == ["drop", "merge"]


@pytest.mark.slow
def test_a_wrapped_model_is_measured_as_it_is_and_stays_so(model: Path, tmp_path: Path) -> None:
    adaptive = load_model(model)
    adaptive.schedule = TokenSchedule((17, 9, 9, 5))
    found = bench([adaptive, model], target=TARGET, out=tmp_path, **QUICK)
    assert [one.name for one in found.rows] == ["vit_tiny_patch16_224 17,9x2,5", "model dense"]
    assert found.rows[0].schedule == adaptive.schedule and found.rows[0].thing == "vit_tiny_patch16_224"
    other = bench(adaptive, target=TARGET, schedule="dense", reductions="merge", out=tmp_path, **QUICK)
    assert other.rows[0].schedule == adaptive.dense_schedule
    assert (adaptive.reduction, str(adaptive.schedule)) == ("drop", "17,9x2,5")
    with pytest.raises(ParameterError, match="keeps its own, got `image_size` 64"):
        bench(adaptive, target=TARGET, image_size=64, out=tmp_path, **QUICK)
    with pytest.raises(DataError, match="no card"):
        bench(wrap(adaptive.bare), target=TARGET, out=tmp_path, **QUICK)


@pytest.mark.parametrize("target", ["abacus:cpu", "torch:tpu", "torch:cpu:threads=4096"])
def test_a_target_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert run("bench", model, "--target", target, "-o", tmp_path / "out" / "deep") == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(TargetError):
        bench([model], target=["torch:cpu", target], out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_measured_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="nothing to measure"):
        bench([])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another output folder"):
        bench(model, target=TARGET, out=tmp_path / "file" / "out", **QUICK)
