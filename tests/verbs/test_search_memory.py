"""``fgvc-kit search`` under a memory budget: the fit, the verdict by fresh processes, going on, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.cli import main
from tavt_kit.core.memory_fit import memory_terms
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.workflows import search_memory
from tests.verbs.test_search import FakeTarget, front, search

TARGET = ("--target", "torch:cpu:threads=1", "--evaluations", 8, "--limit", 6)
DENSE, LEAST = TokenSchedule((17,) * 4), TokenSchedule((2,) * 4)


class FakeMeter:
    """A process takes 100 MB, 1 MB for each doubling of those that drop, 40 MB for all tokens; finalists some more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, more: float = 0.0) -> None:
        self.more, self.asked, self.closed = more, list[TokenSchedule](), 0
        monkeypatch.setattr(search_memory, "ScheduleMemory", lambda model, target: self)

    def __call__(self, schedule: TokenSchedule, processes: int) -> tuple[int, ...]:
        self.asked.append(schedule)
        terms = memory_terms(schedule, 17)
        late = self.more if processes == 3 and schedule not in (DENSE, LEAST) else 0.0
        absent = 0 if schedule.executed is None else schedule.layers - len(schedule.executed)
        level = round(100e6 + 1e6 * terms[2] + 40e6 * terms[3] + late - 6e6 * absent)
        return tuple(level + 1000 * number for number in range(processes))

    def close(self) -> None:
        self.closed += 1


def test_a_budget_is_predicted_then_proven(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTarget(monkeypatch)
    meter, out, budget = FakeMeter(monkeypatch), tmp_path / "out", ("--budget", "memory=132MB")
    assert search(place, out, *TARGET, *budget) == 0
    said, body = capsys.readouterr(), front(out)
    assert "within reach" in said.err and "+40.0 MB times the share" in said.err and meter.closed == 1
    chosen = body["candidates"][body["chosen"]]
    assert body["verdict"] == "PASS" and chosen["memory_bytes"]["most"] <= 132e6
    assert chosen["memory_bytes"]["processes"] == 3 and chosen["memory_bytes"]["predicted"] == pytest.approx(
        chosen["memory_bytes"]["median"], rel=0.01
    )
    assert body["memory"]["worst_error"] < 0.01 and len(body["memory"]["held_out"]) == 4
    dense = next(one for one in body["baselines"] if one["origin"] == "dense")
    assert dense["verdict"] == "FAIL" and dense["memory_bytes"]["median"] == 140_001_000
    assert "MB instead of 140.0 MB" in said.out and "peak memory" in (out / "report.html").read_text()
    rows = list(csv.DictReader((out / "candidates.csv").read_text().splitlines()))
    assert all(row["predicted_bytes"] for row in rows) and rows[0]["peak_bytes"] == "140002000"
    with pytest.raises(SystemExit) as end:
        main(["show", str(out), "--pick", f"memory={chosen['memory_bytes']['most']}B"])
    assert not end.value.code and "memory, MB" in capsys.readouterr().out


@pytest.mark.slow
def test_a_continued_search_measures_nothing_twice_and_is_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeTarget(monkeypatch)
    meter, out, budget = FakeMeter(monkeypatch), tmp_path / "out", ("--budget", "memory=132MB")
    assert search(place, out, *TARGET, *budget) == 0
    asked, body = len(meter.asked), front(out)
    assert search(place, out, *TARGET, *budget) == 0 and len(meter.asked) == asked
    assert front(out)["candidates"] == body["candidates"] and front(out)["memory"] == body["memory"]


@pytest.mark.slow
def test_what_measures_above_the_budget_is_not_returned(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finalists take 3 MB more than the fit can know: the search goes on by what was measured."""
    FakeTarget(monkeypatch)
    FakeMeter(monkeypatch, more=3e6)
    out = tmp_path / "out"
    assert search(place, out, *TARGET, "--budget", "memory=125MB", "--final", 2) == 0
    body = front(out)
    chosen = body["candidates"][body["chosen"]]["memory_bytes"]
    assert chosen["most"] <= 125e6 and chosen["median"] - chosen["predicted"] == pytest.approx(3e6, abs=5e5)


@pytest.mark.slow
def test_memory_is_an_objective_alone_and_beside_latency(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeTarget(monkeypatch)
    FakeMeter(monkeypatch)
    alone = tmp_path / "alone"
    assert search(place, alone, *TARGET, "--objective", "memory") == 0
    body = front(alone)
    medians = [one["memory_bytes"]["median"] for one in body["candidates"]]
    assert body["objectives"] == ["memory_bytes.median", "top1"] and medians == sorted(medians)
    both = tmp_path / "both"
    assert search(place, both, *TARGET, "--objective", "latency", "--objective", "memory") == 0
    assert front(both)["objectives"] == ["latency_ms.median", "top1", "memory_bytes.median"]


def test_a_joint_search_knows_the_memory_of_its_genes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below what token counts alone can reach: a layer has to go."""
    FakeTarget(monkeypatch)
    meter, out = FakeMeter(monkeypatch), tmp_path / "out"
    assert search(place, tmp_path / "plain", *TARGET, "--budget", "memory=101MB") == 2 and meter.closed == 1
    joint = ("--joint", "layers,image-size", "--budget", "memory=101MB")
    assert search(place, out, *TARGET, *joint) == 0
    said, body = capsys.readouterr(), front(out)
    assert "-6.0 MB for each layer left out" in said.err and body["verdict"] == "PASS"
    chosen = body["candidates"][body["chosen"]]
    assert chosen["executed"] and chosen["memory_bytes"]["most"] <= 101e6
    assert chosen["memory_bytes"]["predicted"] == pytest.approx(chosen["memory_bytes"]["median"], rel=0.01)
    assert body["memory"]["absent"] == pytest.approx(-6e6, rel=0.01) and "further" not in body["memory"]
    fitted = [one for one in body["memory"]["points"] if one.get("image_size")]
    assert fitted and meter.closed > 2  # the model at its own size and at smaller ones


def test_out_of_reach_and_dry_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTarget(monkeypatch)
    meter = FakeMeter(monkeypatch)
    assert search(place, tmp_path / "out", *TARGET, "--budget", "memory=104MB") == 2
    said = capsys.readouterr().err
    assert "memory=104MB cannot be met by any schedule" in said and "nearest feasible budget is memory=105MB" in said
    assert len(meter.asked) == 2  # the two ends alone
    assert search(place, tmp_path / "dry", *TARGET, "--budget", "memory=120MB", "--dry-run") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["budgets"][0]["reachable"] is True and told["budgets"][0]["dense"] == pytest.approx(140e6, rel=1e-3)
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--budget", "memory=1GB"), "needs --target"),
        (("--objective", "memory"), "needs --target"),
        (("--budget", "memory=1"), "the unit is one of"),
        (("--objective", "memory", "--objective", "memory", "--target", "torch:cpu"), "given once"),
    ],
)
def test_refusals_are_one_sentence(
    place: Path, tmp_path: Path, flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(place, tmp_path / "out", *flags) == 2
    assert says in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_fresh_processes_decide_on_a_real_target(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ("--target", "onnxruntime:cpu:threads=1", "--budget", "memory=2GB", "--objective", "memory")
    assert search(place, out, *flags, "--evaluations", 6, "--final", 1) == 0
    body = front(out)
    chosen = body["candidates"][body["chosen"]]["memory_bytes"]
    assert 20e6 < chosen["least"] <= chosen["median"] <= chosen["most"] < 2e9 and chosen["processes"] == 3


@pytest.mark.slow
def test_fewer_bits_are_weighed_as_they_are(place: Path, tmp_path: Path) -> None:
    """Nothing is timed: memory alone is weighed, and each precision has a fit of its own."""
    out = tmp_path / "out"
    flags = ("--target", "onnxruntime:cpu:threads=1", "--objective", "memory", "--joint", "precision,layers")
    assert search(place, out, *flags, "--evaluations", 8, "--final", 2) == 0
    body = front(out)
    own, (int8,) = body["memory"], body["memory"]["further"]
    assert own["target"]["precision"] == "f32" and int8["target"]["precision"] == "int8"
    assert {one.get("precision") for one in int8["points"]} == {"int8"}
    assert any(one.get("executed") for one in int8["points"]) and body["objectives"][0] == "memory_bytes.median"
    assert all(one["memory_bytes"]["processes"] == 3 for one in body["candidates"])
