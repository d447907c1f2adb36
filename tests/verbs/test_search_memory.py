"""``fgvc-kit search`` under a memory budget: the verdict by fresh processes, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.cli import main
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.workflows import search_target
from tests.verbs.test_search import FakeTarget, front, search

TARGET = ("--target", "torch:cpu:threads=1", "--evaluations", 8, "--limit", 6)


class FakeMeter:
    """A process takes 100 MB, 1 MB for each layer that drops, and 40 MB for all tokens of the first layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.closed = list[TokenSchedule](), 0
        monkeypatch.setattr(search_target, "ScheduleMemory", lambda model, target: self)

    def __call__(self, schedule: TokenSchedule, processes: int) -> tuple[int, ...]:
        self.asked.append(schedule)
        before = (17, *schedule.counts[:-1])
        drops = sum(kept < count for kept, count in zip(schedule.counts, before, strict=True))
        absent = 0 if schedule.executed is None else schedule.layers - len(schedule.executed)
        level = round(100e6 + 1e6 * drops + 40e6 * schedule.counts[0] / 17 - 6e6 * absent)
        return tuple(level + 1000 * number for number in range(processes))

    def close(self) -> None:
        self.closed += 1


def test_a_budget_is_proven_by_processes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTarget(monkeypatch)
    meter, out, budget = FakeMeter(monkeypatch), tmp_path / "out", ("--budget", "memory=132MB")
    assert search(place, out, *TARGET, *budget, "--final", 1) == 0
    said, body = capsys.readouterr(), front(out)
    assert "within reach" in said.err and meter.closed == 1 and len(meter.asked) == len(set(meter.asked))
    chosen = body["candidates"][body["chosen"]]
    assert body["verdict"] == "PASS" and chosen["memory_bytes"]["most"] <= 132e6
    assert set(chosen["memory_bytes"]) == {"median", "least", "most", "processes"}
    assert chosen["memory_bytes"]["processes"] == 3 and set(body["memory"]) == {"is", "allocator"}
    dense = next(one for one in body["baselines"] if one["origin"] == "dense")
    assert dense["verdict"] == "FAIL" and dense["memory_bytes"]["median"] == 140_001_000
    assert body["measured_over_budget"] >= 1
    assert "peak memory 1" in said.out and "peak memory" in (out / "report.html").read_text()
    rows = list(csv.DictReader((out / "candidates.csv").read_text().splitlines()))
    assert rows[0]["peak_bytes"] == "140002000" and rows[0]["verdict"] == "FAIL"
    assert all(row["verdict"] == "FAIL" for row in rows if row["peak_bytes"] and int(row["peak_bytes"]) > 133e6)
    with pytest.raises(SystemExit) as end:
        main(["show", str(out), "--pick", f"memory={chosen['memory_bytes']['most']}B"])
    assert not end.value.code and "Memory" in capsys.readouterr().out


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


def test_a_joint_search_goes_below_what_token_counts_reach(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTarget(monkeypatch)
    meter, out = FakeMeter(monkeypatch), tmp_path / "out"
    assert search(place, tmp_path / "plain", *TARGET, "--budget", "memory=104MB") == 2 and meter.closed == 1
    assert search(place, out, *TARGET, "--budget", "memory=104MB", fix="reduction") in (
        0,
        1,
    )  # the few that are evaluated may all take more
    body = front(out)
    sizes = [one["memory_bytes"]["most"] for one in body["candidates"]]
    assert body["verdict"] == ("PASS" if min(sizes) <= 104e6 else "FAIL")
    assert any(one.executed for one in meter.asked)


def test_out_of_reach_and_dry_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeTarget(monkeypatch)
    meter = FakeMeter(monkeypatch)
    assert search(place, tmp_path / "out", *TARGET, "--budget", "memory=103MB") == 2
    said = capsys.readouterr().err
    assert "memory=103MB cannot be met by any schedule" in said and "nearest feasible budget is memory=106MB" in said
    assert len(meter.asked) == 2  # the two ends alone
    assert search(place, tmp_path / "dry", *TARGET, "--budget", "memory=120MB", "--dry-run") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["budgets"][0]["reachable"] is True and told["budgets"][0]["dense"] == pytest.approx(140e6, rel=1e-3)
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--budget", "memory=1GB"), "needs --target"),
        (("--objective", "memory", "--target", "torch:cpu"), "memory cannot be an objective"),
        (("--budget", "memory=1"), "the unit is one of"),
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
    flags = ("--target", "onnxruntime:cpu:threads=1", "--budget", "memory=2GB")
    assert search(place, out, *flags, "--evaluations", 6, "--final", 1) == 0
    body = front(out)
    chosen = body["candidates"][body["chosen"]]["memory_bytes"]
    assert 20e6 < chosen["least"] <= chosen["median"] <= chosen["most"] < 2e9 and chosen["processes"] == 3
