"""``fgvc-kit search``: the run folder it leaves, continuing, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.cli import main
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import Curve, DropCell, LatencyTable, LayerCells, TimedModel
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.search import Store
from tavt_kit.workflows import search_target
from tavt_kit.workflows.search import LatencyRefinement
from tavt_kit.workflows.search_config import SearchConfig
from tests.parameters import few
from tests.verbs.tiny import write_images, write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` and a model in ``run``."""
    folder = tmp_path_factory.mktemp("search")
    write_images(folder / "data", each=30)
    write_run(folder / "run")
    return folder


def search(place: Path, out: Path, *flags: object, model: object = None, fix: str = "all") -> int:
    arguments = ["search", model or place / "run", "--data", place / "data", "-o", out, "--population", "6",
                 "--min-patches", 1, "--fix", fix, "--no-baselines", *flags]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def front(out: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((out / "front.json").read_text())
    return body


def listed(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "candidates.csv").read_text().splitlines()))


def toy_table(target: TargetDevice) -> LatencyTable:
    ramp, half = Curve((2, 17), (0.2, 1.7)), Curve((2, 17), (0.1, 0.85))
    drop = (DropCell(2, 2, 0.1, 2, 0.1), DropCell(17, 8, 0.85, 15, 0.85))
    return LatencyTable(
        target, TimedModel("tiny", TokenLayout(17, 4)), LayerCells(half, drop, half, ramp, 2.0, Curve((1,), (0.001,)))
    )


class FakeTarget:
    """Stands in for the measurements on the target; counts the tables made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> None:
        self.factor, self.tables = factor, 0
        monkeypatch.setattr(search_target, "measure_schedules", self.passes)
        monkeypatch.setattr(search_target, "measure_table", self.table)

    def passes(
        self,
        model: AdaptiveViT,
        target: Any,
        schedules: Sequence[TokenSchedule],
        *rest: Any,
        **named: Any,
    ) -> list[Measurement]:
        table = toy_table(target)
        own = [Measurement((table.predict(one) * self.factor,) * 60, steady=True) for one in schedules]
        return own + [own[0] for _ in named.get("beside") or ()]  # of another size, or with fewer bits

    def table(self, model: AdaptiveViT, target: TargetDevice, **rest: Any) -> LatencyTable:
        self.tables += 1
        return toy_table(target)


def test_macs_search_leaves_a_whole_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code = search(place, out, "--budget", "flops=300K", "--evaluations", 20, "--schedule", "taper:0.3")
    said = capsys.readouterr()
    body = front(out)
    assert code == 0 and body["verdict"] == "PASS"
    assert "PASS: Ship the chosen schedule" in said.out and "fits 300 K" in said.out.replace("\u00a0", " ")
    assert body["evaluations"] == 20 and body["split"] == "val" and body["metric"] == "top1"
    assert body["model"]["name"] == "vit_tiny_patch16_224" and body["target"] is None
    assert all(one["macs"] <= 300_000 and one["latency_ms"] is None for one in body["candidates"])
    assert body["candidates"][body["chosen"]]["top1"] == max(one["top1"] for one in body["candidates"])
    for name in ("recipe.json", "search.db", "candidates.csv", "kept.json", "report.html", "model.safetensors",
                 "model.json", "split.json"):  # fmt: skip
        assert (out / name).is_file(), name
    rows = list(csv.DictReader((out / "candidates.csv").read_text().splitlines()))
    assert len(rows) == 20 and rows[1]["origin"] == "user" and rows[0]["origin"] == "dense"
    assert "within reach" in said.err and "18 val images" in said.err and "20/20 evaluations" in said.err
    kept = json.loads((out / "kept.json").read_text())
    assert kept["schedule"] == body["candidates"][body["chosen"]]["schedule"] and kept["split"] == "test"


def test_latency_search(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, out = FakeTarget(monkeypatch), tmp_path / "out"
    flags = ("--target", "torch:cpu:threads=1", "--budget", "latency=7ms", "--evaluations", 25, "--json")
    assert search(place, out, *flags) == 0
    body = front(out)
    assert json.loads(capsys.readouterr().out) == body
    assert body["target"]["runtime"] == "torch" and body["objectives"] == ["latency_ms.p90", "top1"]
    for one in body["candidates"]:
        assert one["latency_ms"]["predicted"] == pytest.approx(one["latency_ms"]["median"])
        assert one["latency_ms"]["steady"] is True and one["latency_ms"]["samples"] == 60
    chosen = body["candidates"][body["chosen"]]
    assert chosen["latency_ms"]["p90"] <= 7
    assert json.loads((out / "profile.json").read_text())["schema"] == "fgvc-kit/profile"
    assert search(place, out, *flags) == 0  # nothing is measured twice, but the finalists
    again = front(out)
    assert fake.tables == 1 and again["candidates"] == body["candidates"]


def test_too_slow_on_the_target_is_no_pass(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTarget(monkeypatch)
    out = tmp_path / "out"
    flags = ("--target", "torch:cpu:threads=1", "--budget", "latency=7ms", "--evaluations", 20)

    real = search_target.MeasureWithin

    def slower(*arguments: Any) -> Any:
        fake.factor = 3.0
        return real(*arguments)

    monkeypatch.setattr("tavt_kit.workflows.search.MeasureWithin", slower)
    assert search(place, out, *flags) == 1
    assert front(out)["verdict"] == "FAIL" and front(out)["chosen"] is None


@pytest.mark.parametrize("factor", few([1.0, 0.75, 1.25], 1.25))
def test_goes_on_where_the_target_is_faster_or_slower_than_predicted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    fake, evaluations = FakeTarget(monkeypatch, factor=1.0), 32
    real = search_target.MeasureWithin

    def changed(*arguments: Any) -> Any:
        fake.factor = factor
        return real(*arguments)

    monkeypatch.setattr("tavt_kit.workflows.search.MeasureWithin", changed)
    out, flags = tmp_path / "out", ("--target", "torch:cpu:threads=1", "--budget", "latency=6ms", "--evaluations", 32)
    assert search(place, out, *flags) == 0
    body = front(out)
    assert body["evaluations"] == evaluations
    assert body["candidates"][body["chosen"]]["latency_ms"]["p90"] <= 6
    with (out / "candidates.csv").open() as file:
        costs = [float(row["predicted_ms"]) * factor for row in csv.DictReader(file) if row["origin"] != "dense"]
    assert sum(5.4 < cost < 6.2 for cost in costs) >= 3  # near the budget as it is on the target, not as predicted
    assert search(place, out, *flags) == 0 and front(out)["evaluations"] == evaluations


@pytest.mark.parametrize("screen", few([0, 5], 5))
def test_interrupted_it_continues_to_the_same_front(
    screen: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--budget", "flops=300K", "--evaluations", 20, "--screen", screen)
    assert search(place, tmp_path / "whole", *flags) == 0
    honest, count = Store.add, 0

    def interrupted(self: Store, schedule: TokenSchedule, answer: EvaluationResult) -> None:
        nonlocal count
        count += 1
        if count % 7 == 0:
            raise KeyboardInterrupt
        honest(self, schedule, answer)

    monkeypatch.setattr(Store, "add", interrupted)
    for _ in range(3):
        assert search(place, tmp_path / "cut", *flags) == 130
        assert "the same command" in capsys.readouterr().err
    assert count == 21
    assert search(place, tmp_path / "cut", *flags) == 0
    whole, cut = front(tmp_path / "whole"), front(tmp_path / "cut")
    for body in (whole, cut):
        del body["seconds"], body["host"]
    assert cut == whole and len(cut["candidates"]) > 1


def test_another_search_is_refused_and_fresh_starts_over(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert search(place, out, "--budget", "flops=300K", "--evaluations", 8) == 0
    (out / "notes.txt").write_text("mine")
    assert search(place, out, "--budget", "flops=310K", "--evaluations", 8) == 2
    assert 'budget was ["flops=300K"], is ["flops=310K"]' in capsys.readouterr().err
    assert search(place, out, "--budget", "flops=300K", "--limit", 3) == 2
    assert "limit was absent, is 3" in capsys.readouterr().err
    other = write_run(tmp_path / "other", seed=2)
    assert search(place, out, "--budget", "flops=300K", model=other) == 2
    assert "weights was" in capsys.readouterr().err
    flags = ("--budget", "flops=310K", "--evaluations", 8, "--fresh")
    assert search(place, out, *flags, model=other) == 0
    assert front(out)["budgets"] == ["flops=310K"] and (out / "notes.txt").is_file()


def test_searching_inside_the_run_keeps_its_model(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    assert search(place, run, "--budget", "flops=300K", "--evaluations", 5, model=run) == 0
    assert search(place, run, "--budget", "flops=300K", "--evaluations", 5, "--score", "cls", model=run) == 2
    assert "choose another" in capsys.readouterr().err
    before = (run / "model.safetensors").stat().st_mtime_ns
    assert search(place, run, "--budget", "flops=300K", "--evaluations", 5, "--fresh", model=run) == 0
    assert (run / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_algorithms_objectives_and_an_earlier_front(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    wanted = ("--objective", "macro_f1", "--objective", "macs")
    assert search(place, first, *wanted, "--algorithm", "surrogate", "--evaluations", 14) == 0
    body = front(first)
    assert body["metric"] == "macro_f1" and body["objectives"] == ["macs", "macro_f1"]
    assert all("top1" in one["others"] for one in body["candidates"])
    assert "surrogate" in {row["origin"] for row in listed(first)}
    flags = ("--front", first, "--algorithm", "random", "--evaluations", 12, "--budget", "recall[disc]=1%")
    assert search(place, second, *flags) == 1  # of so few images none is kept to judge the floor
    assert front(second)["verdict"] == "INCONCLUSIVE" and front(second)["selection"]["held_out"] == 0
    rows = listed(second)
    begun = [row["schedule"] for row in rows if row["origin"] == "user"]
    earlier = {str(TokenSchedule(tuple(one["schedule"]))) for one in body["candidates"]}
    assert begun and set(begun) <= earlier | {rows[0]["schedule"]}
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)
    deeper = write_run(tmp_path / "deeper", depth=5)
    assert search(place, tmp_path / "third", "--front", first, model=deeper) == 2
    assert "is the front of another model: the model has 5 layers" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "third").exists()


def test_corrections_are_bounded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target that proves slower whenever it is measured is believed three times, and no more."""
    FakeTarget(monkeypatch)
    slower = count(1)
    monkeypatch.setattr(LatencyRefinement, "_correction", lambda *arguments: {"p50": 1 + 0.1 * next(slower)})
    flags = ("--target", "torch:cpu:threads=1", "--budget", "throughput=150/s", "--evaluations", 20, "--final", 2)
    assert search(place, tmp_path / "out", *flags) == 0
    body = front(tmp_path / "out")
    assert body["evaluations"] == 20 and "corrected 3 times" in body["stopped_because"]
    with (tmp_path / "out" / "candidates.csv").open(encoding="utf-8") as file:
        assert sum(1 for _ in file) <= 1 + 20  # corrections search on within the number that was asked for
    assert capsys.readouterr().err.count("searching on by what was measured") == 3
    assert search(place, tmp_path / "out", *flags) == 0 and next(slower) == 4  # the corrections are remembered
    assert front(tmp_path / "out")["candidates"] == body["candidates"]


def test_a_limit_on_p99_is_measured_often_enough_to_be_proven(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, runs = FakeTarget(monkeypatch), list[int]()
    honest = fake.passes

    def watched(model: Any, target: Any, schedules: Any, protocol: Any, *rest: Any, **named: Any) -> Any:
        runs.append(protocol.min_runs)
        return honest(model, target, schedules)

    monkeypatch.setattr(search_target, "measure_schedules", watched)
    flags = ("--target", "torch:cpu:threads=1", "--evaluations", 4, "--final", 1)
    search(place, tmp_path / "p99", *flags, "--budget", "latency[p99]=9ms", "--budget", "flops=400K")
    assert max(runs) >= 299
    assert front(tmp_path / "p99")["budgets"] == ["latency[p99]=9ms", "flops=400K"]


def test_times_of_a_gpu_that_is_slowed_are_unsteady(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeTarget(monkeypatch)
    monkeypatch.setattr(search_target, "gpu_state", lambda target: lambda: (1200.0, True))
    flags = ("--target", "torch:cpu:threads=1", "--evaluations", 4, "--final", 1)
    search(place, tmp_path / "out", *flags, "--budget", "latency=7.1ms")
    assert all(one["latency_ms"]["steady"] is False for one in front(tmp_path / "out")["candidates"])


FLOPS = ("--budget", "flops=300K")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--budget", "latency=20"), "the unit is one of"),
        (("--budget", "speed=20ms"), "limits one of"),
        (("--budget", "flops=300 parsec"), "fgvc-kit search: cannot read"),
        (("--budget", "latency=7ms"), "needs --target"),
        (("--budget", "memory=1GB"), "judge the exported file by fgvc-kit bench"),
        (("--budget", "flops=1K"), "the nearest feasible budget is flops="),
        (("--budget", "flops=300K", "--budget", "flops=200K"), "contradict"),
        ((*FLOPS, "--target", "torch:tpu"), "processor"),
        ((*FLOPS, "--target", "torch:cuda:7"), "CUDA"),
        ((*FLOPS, "--schedule", "10x2,12x2"), "only 10 reach it"),
        ((*FLOPS, "--schedule", "17x3"), "the model has 4 layers"),
        ((*FLOPS, "--schedule", "17x5"), "the model has 4 layers"),
        ((*FLOPS, "--schedule", "17x3,1"), "at least 2"),
        ((*FLOPS, "--schedule", "often"), "'often'"),
        ((*FLOPS, "--evaluations", "0"), "at least 1"),
        ((*FLOPS, "--population", "0"), "at least 1"),
        ((*FLOPS, "--seed", "often"), "a whole number"),
        ((*FLOPS, "--limit", "19"), "val of data has 18"),
        ((*FLOPS, "--algorithm", "annealing"), "one of nsga2"),
        ((*FLOPS, "--algorithm", "tavt-official"), "use tavt"),
        ((*FLOPS, "--objective", "speed"), "one of top1"),
        ((*FLOPS, "--objective", "memory"), "memory cannot be an objective"),
        ((*FLOPS, "--objective", "latency"), "needs --target"),
        ((*FLOPS, "--objective", "macs", "--objective", "flops"), "one metric against one cost"),
        ((*FLOPS, "--objective", "top1", "--objective", "loss"), "one metric against one cost"),
        ((*FLOPS, "--objective", "recall[hexagon]"), "recall[hexagon] names no class of the data"),
        (("--budget", "recall[hexagon]=50%"), "recall[hexagon] names no class of the data"),
        (("--budget", "throughput=9/s"), "needs --target"),
        ((*FLOPS, "--front", "absent"), "absent"),
        ((*FLOPS, "--limit", "0"), "--limit"),
        ((*FLOPS, "--max-time", "soon"), "90s"),
        ((*FLOPS, "--weights", "random"), "--weights is gone"),
        ((*FLOPS, "--score", "loudness"), "loudness"),
        ((*FLOPS, "--data", "absent/"), "absent"),
        ((*FLOPS, "--screen", "-1"), "--screen must be at least 0"),
        ((*FLOPS, "--evaluate-on", "openvino"), "--evaluate-on is gone"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    place: Path, tmp_path: Path, flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(place, tmp_path / "out", *flags) == 2
    said = capsys.readouterr().err
    assert says in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_screened_candidates_say_so_and_are_on_no_front(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert search(place, out, "--budget", "flops=450K", "--evaluations", 40, "--screen", 4, "--limit", 17) == 0
    assert "17 val images, the first 4 of them first, by torch in f32" in capsys.readouterr().err
    with (out / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["n"] for row in rows if row["on_front"] == "1"} == {"17"}
    assert 5 < sum(row["n"] in ("4", "8") for row in rows) and {row["n"] for row in rows} <= {"4", "8", "17"}
    body = front(out)
    assert {one["n"] for one in (*body["candidates"], *body["baselines"])} == {17}
    assert body["precisions"] == {"search": "f32", "final": "f32", "runtime": "torch", "screen": "4"}
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["screen"] == 4 and recipe["evaluate_on"] == "torch:f32"
    assert search(place, out, "--budget", "flops=450K", "--evaluations", 40, "--screen", 5, "--limit", 17) == 2
    assert "screen was 4, is 5" in capsys.readouterr().err


def test_what_was_evaluated_quickly_is_shown_exactly(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, exact = tmp_path / "out", tmp_path / "exact"
    flags = ("--budget", "flops=400K", "--evaluations", 12)
    assert search(place, exact, *flags) == 0
    monkeypatch.setattr(SearchConfig, "evaluation_precision", "bf16")
    assert search(place, out, *flags) == 0
    body = front(out)
    assert body["precisions"] == {"search": "bf16", "final": "f32", "runtime": "torch", "screen": "128"}
    known, truth = (
        {row["schedule"]: row for row in csv.DictReader((folder / "candidates.csv").read_text().splitlines())}
        for folder in (out, exact)
    )
    shown = {name: row["value"] for name, row in known.items() if row["on_front"] == "1"}
    assert shown and all(truth[name]["value"] == value for name, value in shown.items() if name in truth)


def test_latency_below_the_least_names_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeTarget(monkeypatch)
    monkeypatch.setattr(Evaluator, "look", lambda *arguments: pytest.fail("an image was looked at"))
    target = ("--target", "torch:cpu:threads=1")
    assert search(place, tmp_path / "out", *target, "--budget", "latency=1ms") == 2
    assert "the nearest feasible budget is latency=3.56ms" in capsys.readouterr().err
    assert fake.tables == 0


def test_other_models_and_places(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*flags: object, model: object = None, out: Path = tmp_path / "out") -> str:
        assert search(place, out, *FLOPS, *flags, model=model) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "vit_tinny" in refused(model="vit_tinny_patch16_224", out=tmp_path / "a")
    assert "is no run folder" in refused(model="resnet50", out=tmp_path / "b")
    (tmp_path / "file").write_text("x")
    assert "cannot write" in refused(out=tmp_path / "file")
    deeper = write_run(tmp_path / "deeper", depth=5)
    assert "another model" in refused(model=place / "run", out=deeper) and not (deeper / "search.db").exists()
    renamed = write_run(tmp_path / "renamed", classes=("a", "b", "c"))
    assert "give the data it was trained on" in refused(model=renamed, out=tmp_path / "c")
    broken = tmp_path / "broken"
    shutil.copytree(place / "run", broken)
    (broken / "model.safetensors").write_bytes((place / "run" / "model.safetensors").read_bytes()[:-100])
    assert "model.safetensors" in refused(model=broken, out=tmp_path / "d")


@pytest.mark.slow
def test_through_the_real_command(place: Path, tmp_path: Path) -> None:
    """As a user starts it; what a bad one says is the same of every verb (``test_bad_input``)."""
    start = [sys.executable, "cli.py", "search", str(place / "run"), "--data", str(place / "data"), "-o", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    good = [
        *start,
        "--budget",
        "flops=300K",
        "--evaluations",
        "6",
        "--json",
        "--no-baselines",
        "--min-patches",
        "1",
        "--fix",
        "all",
    ]
    done = subprocess.run(good, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "fgvc-kit/front"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torch:cpu:threads=1", "openvino:cpu:threads=1"])
def test_measured_for_real(place: Path, tmp_path: Path, target: str) -> None:
    """A real table and real measurements; what is chosen was measured, and a hopeless budget names the least."""
    code = search(
        place, tmp_path / "out", "--target", target, "--budget", "latency=500ms", "--evaluations", 10, "--final", 2
    )
    body = front(tmp_path / "out")
    assert code == 0 and body["verdict"] == "PASS"
    assert all(one["latency_ms"]["median"] > 0 for one in [*body["candidates"], *body["baselines"]])
    assert "Sum of the parts" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert search(place, tmp_path / "none", "--target", target, "--budget", "latency=1us") == 2
