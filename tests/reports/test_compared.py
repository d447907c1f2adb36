from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.core.records import write_record
from tavt_kit.errors import RecordError
from tavt_kit.reports import write_report
from tavt_kit.reports.compared import runs_of
from tavt_kit.reports.records import gather
from tests.reports.pages import Page
from tests.reports.records import HOST

TARGET = {"runtime": "openvino", "processor": "cpu", "index": 0, "threads": 2, "precision": "f32", "batch": 1}


def front(top1: float = 0.8, median: float | None = 6.0) -> dict[str, Any]:
    def entry(counts: list[int], value: float, time: float | None, origin: str) -> dict[str, Any]:
        times = None
        if time is not None:
            times = {"predicted": time, "median": time, "p10": time * 0.98, "p90": time * 1.05, "p99": time * 1.2}
            times |= {"p90_bounds": [time * 1.03, time * 1.07], "interval95": [time * 0.99, time * 1.01]}
            times |= {"samples": 120, "steady": True}
        body = {"schedule": counts, "macs": 10**6 * sum(counts), "top1": value, "n": 500, "latency_ms": times}
        return {**body, "ci95": [value - 0.03, value + 0.03], "verdict": "PASS", "origin": origin}

    middle, slow = (None, None) if median is None else (1.5 * median, 3 * median)
    return {
        "model": {"name": "vit", "classes": ["crack", "good"]},
        "target": TARGET,
        "host": {**HOST, "cpu": "Example"},
        "budgets": ["latency=8ms"] if median is not None else ["flops=1G"],
        "split": "val",
        "metric": "top1",
        "verdict": "PASS",
        "chosen": 0,
        "candidates": [
            entry([65, 40, 20], top1, median, "nsga2"),
            entry([65, 50, 30], 0.83, middle, "nsga2"),
            entry([65, 65, 65], 0.85, slow, "dense"),
        ],
        "baselines": [],
    }


def write(folder: Path, body: dict[str, Any], split: str = "ab") -> Path:
    folder.mkdir(parents=True)
    write_record(folder / "front.json", "front", body)
    write_record(folder / "split.json", "split", {"name": "birds", "sha256": split})
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / "a", front(0.80)), write(tmp_path / "b", front(0.82, 7.0))]


def test_two_searches_stand_side_by_side(two: list[Path], tmp_path: Path) -> None:
    written = write_report(two, tmp_path / "out")
    page = Page(written.html.read_text(encoding="utf-8"))
    assert "a against b on birds" in page.text
    assert "For 8 ms (p90), top-1 on val: b keeps 82.0 % (PASS, p90 7.35 ms ± 1.9 %); a keeps 80.0 %" in page.text
    assert "The 95 % intervals of b and a overlap" in page.text
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids) and {"side-by-side", "run-0", "run-1"} <= set(ids)
    assert {"staircase series-a", "staircase series-b"} <= set(page.attributes("class"))
    body = json.loads(written.json.read_text(encoding="utf-8"))
    assert [run["run"] for run in body["runs"]] == ["a", "b"]
    assert written.csv.read_text(encoding="utf-8").count("\nb,") == 3


def test_a_budget_is_held_against_each(two: list[Path], tmp_path: Path) -> None:
    written = write_report(two, tmp_path / "out", Budget.parse(["latency=7ms"]))
    body = json.loads(written.json.read_text(encoding="utf-8"))
    assert [run["verdict"] for run in body["runs"]] == ["PASS", "FAIL"]
    assert "b has nothing that fits" in written.markdown.read_text(encoding="utf-8")


def test_a_search_keeps_its_own_records(tmp_path: Path) -> None:
    outer = write(tmp_path / "a", front())
    write(outer / "b", front(0.82))
    write_record(outer / "b" / "kept.json", "kept", {})
    write_record(outer / "profile.json", "profile", {})
    first, second = runs_of(gather([outer]), across=False)
    assert (first.name, second.name) == ("a", "b")
    assert not first.records.all("kept") and not second.records.all("profile")
    assert first.records.all("profile") and second.records.all("kept")


def test_without_latencies_multiply_adds_are_the_axis(tmp_path: Path) -> None:
    places = [write(tmp_path / "a", front()), write(tmp_path / "b", front(0.82, None))]
    text = write_report(places, tmp_path / "out").html.read_text(encoding="utf-8")
    assert "multiply-adds, G" in text and "latency, ms" not in text


def _changed(**more: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, **more}


def _with_other_metric(body: dict[str, Any]) -> dict[str, Any]:
    rows = {
        key: [{**row, "macro_f1": row["top1"]} for row in body.get(key, ()) if "top1" in row]
        for key in ("candidates", "baselines")
    }
    return {**body, "metric": "macro_f1", **rows, "baseline_models": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_changed(split="test"), "the split in common, but a has val and b test; make one report each"),
        (_with_other_metric, "the metric in common"),
        (_changed(model={"classes": ["crack", "good", "spot"]}), "the classes in common, but a has 2"),
        (_changed(target={**TARGET, "threads": 4}), "4 threads, f32, batch 1; give `across=True`"),
        (_changed(host={**HOST, "cpu": "Other"}), "the machine in common, but a has Example, 2 CPUs"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    places = [write(tmp_path / "a", front()), write(tmp_path / "b", change(front()))]
    with pytest.raises(RecordError) as caught:
        write_report(places, tmp_path / "out")
    assert said.replace(" ", "") in str(caught.value).replace("\u00a0", " ").replace(" ", "")
    assert not (tmp_path / "out").exists()
    if "`across=True`" in said or "machine" in said:
        text = write_report(places, tmp_path / "out", across=True).markdown.read_text(encoding="utf-8")
        assert "different machines or targets" in text


def test_other_images_are_refused_and_too_many_searches(tmp_path: Path) -> None:
    places = [write(tmp_path / "a", front()), write(tmp_path / "b", front(), split="cd")]
    with pytest.raises(RecordError, match="the images"):
        write_report(places, tmp_path / "out", across=True)
    many = [write(tmp_path / f"r{number}", front()) for number in range(7)]
    with pytest.raises(RecordError, match="at most 6 searches side by side, got 7"):
        write_report(many, tmp_path / "out")
