from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.reports.answer import answer
from tavt_kit.reports.baselines import better_rows
from tavt_kit.reports.blocks import Answer
from tavt_kit.reports.candidates import CandidateView
from tavt_kit.reports.records import RecordFile, Records, gather
from tests.reports.records import write_fit, write_pruned, write_run

TARGET = {"runtime": "openvino", "processor": "cpu", "index": 0, "threads": 2, "precision": "f32", "batch": 1}


def entry(counts: list[int], top1: float, median: float | None, verdict: str, **more: Any) -> dict[str, Any]:
    time = None
    if median is not None:
        time = {"predicted": median, "median": median, "p10": median * 0.98, "p90": median * 1.05, "p99": median * 1.2}
        time |= {"p90_bounds": [median * 1.03, median * 1.072]}
        time |= {"interval95": [median * 0.99, median * 1.01], "samples": 120, "steady": True}
    return {
        "schedule": counts,
        "macs": 1_000_000 * sum(counts),
        "top1": top1,
        "n": 500,
        "ci95": [top1 - 0.03, top1 + 0.03],
        "verdict": verdict,
        "latency_ms": time,
        "origin": "nsga2",
        **more,
    }


def front(*candidates: dict[str, Any], **more: Any) -> dict[str, Any]:
    dense = entry([65] * 3, 0.846, 20.0, "FAIL", origin="dense")
    body = {"target": TARGET, "budgets": ["latency=8ms"], "split": "val", "metric": "top1", "baselines": [dense]}
    return {**body, "candidates": list(candidates), **more}


def records(**bodies: dict[str, Any]) -> Records:
    return Records({kind: (RecordFile(Path(f"{kind}.json"), body),) for kind, body in bodies.items()})


def said(found: Answer) -> str:
    return "".join(str(part) for part in found.sentence.parts).replace("\u00a0", " ")


def row(kind: str, top1: float, median: float, split: str = "test", low: float | None = None) -> dict[str, Any]:
    interval = None if low is None else [low, top1 + 0.01]
    return {
        "name": kind,
        "kind": kind,
        "split": split,
        "top1": top1,
        "n": 656,
        "ci95": interval,
        "latency_ms": {"median": median},
    }


def test_a_pass_says_everything_in_one_sentence() -> None:
    body = front(entry([65, 40, 20], 0.841, 6.9, "PASS"), entry([65, 65, 65], 0.85, 19.0, "FAIL"), verdict="PASS")
    found = answer(records(front=body))
    assert found.verdict == "PASS"
    assert said(found) == (
        "The model that fits 8 ms (p90) on OpenVINO CPU, 2 threads, f32, batch 1 keeps 84.1 % top-1 (dense 84.6 %) on "
        "the val split, n = 500, 2.9× faster; PASS, p90 7.25 ms ± 2.0 %."
    )
    assert "selected on this very val split" in "".join(map(str, found.more[0].parts))


@pytest.mark.parametrize(
    ("verdict", "begin"),
    [
        ("FAIL", "Nothing fits 8 ms"),
        ("INCONCLUSIVE", "It cannot be told yet whether a model fits 8 ms"),
        (
            "PREDICTED",
            "The model that should fit 8 ms (p90) on OpenVINO CPU, 2 threads, f32, batch 1, by prediction only",
        ),
    ],
)
def test_other_verdicts_never_say_fits(verdict: str, begin: str) -> None:
    found = answer(records(front=front(entry([65, 40, 20], 0.841, 7.9, verdict), verdict=verdict, chosen=0)))
    assert said(found).startswith(begin) and found.verdict == verdict


def test_no_candidate_fits() -> None:
    found = answer(records(front=front(entry([65, 40, 20], 0.841, 9.0, "FAIL"))))
    assert found.verdict == "FAIL" and said(found).endswith("the least that a candidate needs is 9.45 ms (p90); FAIL.")


def test_with_a_floor_the_cheapest_that_fits_is_chosen() -> None:
    candidates = entry([65, 30, 20], 0.80, 5.0, "PASS"), entry([65, 60, 50], 0.84, 7.0, "PASS")
    assert "80.0 %" in said(answer(records(front=front(*candidates, budgets=["latency=8ms", "top1=79%"]))))
    assert "84.0 %" in said(answer(records(front=front(*candidates))))
    assert "80.0 %" in said(answer(records(front=front(*candidates, chosen=[65, 30, 20]))))


def test_a_count_only_search_names_multiply_adds() -> None:
    body = front(entry([65, 40, 20], 0.841, None, "PASS"), budgets=["flops=0.5G"], target=None, baselines=[])
    assert said(answer(records(front=body))) == (
        "The model that fits 500 M multiply-adds keeps 84.1 % top-1 on the val split, n = 500; PASS, 125 M "
        "multiply-adds."
    )


def test_an_unsteady_time_is_called_so() -> None:
    candidate = entry([65, 40, 20], 0.841, 6.9, "INCONCLUSIVE")
    candidate["latency_ms"]["steady"] = False
    host = {"load": [9.5, 8.0, 7.0], "affinity": [0, 1]}
    body = front(candidate, host=host, undecided=["latency=8ms: measure longer"])
    found = answer(records(front=body))
    assert "INCONCLUSIVE, p90 7.25 ms ± 2.0 %, unsteady." in said(found)
    doubts = ["".join(map(str, text.parts)).replace("\u00a0", " ") for text in found.more if text.kind == "warning"]
    assert doubts == [
        "Not decided: latency=8ms: measure longer.",
        "The times are unsteady (p10 to p90 is 6.76 ms to 7.25 ms, with a load of 9.5 on 2 CPUs): measure again on a "
        "quieter machine before relying on them.",
    ]


def better(rows: list[dict[str, Any]], *budgets: str) -> list[str]:
    found = better_rows([CandidateView(one, "top1") for one in rows], Budget.parse(budgets))
    return [one.sentence for one in found]


def test_a_better_baseline_is_said_aloud() -> None:
    rows = [row("dense", 0.72, 20.0), row("int8", 0.715, 6.0), row("resolution", 0.70, 5.0), row("chosen", 0.71, 7.0)]
    (sentence,) = better(rows)
    assert sentence.startswith("A baseline does better here: int8 scores 71.5")
    models = [row("int8", 0.85, 6.0, split="val"), row("resolution", 0.83, 5.0, split="val")]
    found = answer(records(front=front(entry([65, 40, 20], 0.841, 6.9, "PASS"), chosen=0, baseline_models=models)))
    assert found.beaten and found.verdict == "PASS" and said(found).startswith("A baseline does better here: int8")
    assert found.more[0].kind == "warning" and str(found.more[0].parts[0]).startswith("What the search chose: ")
    assert not answer(records(front=front(entry([65, 40, 20], 0.841, 6.9, "PASS")))).beaten


def test_splits_are_never_mixed_in_a_comparison() -> None:
    assert better([row("int8", 0.9, 1.0, split="val"), row("chosen", 0.71, 7.0)]) == []


def test_a_surely_better_baseline_needs_no_doubt() -> None:
    sure = better([row("int8", 0.9, 1.0, low=0.88), row("chosen", 0.71, 7.0)])
    assert "intervals" not in sure[0]
    close = better([row("int8", 0.72, 1.0, low=0.69), row("chosen", 0.71, 7.0)])
    assert "intervals" in close[0]


@pytest.mark.parametrize(
    "junk", [{}, {"candidates": "x"}, {"candidates": [None, 3, {}]}, {"budgets": ["nonsense"], "candidates": [{}]}]
)
def test_odd_fronts_do_not_break_it(junk: dict[str, Any]) -> None:
    assert said(answer(records(front={"schema": "fgvc-kit/front", **junk})))


def test_without_a_search() -> None:
    for kind in ("run", "bench"):
        assert "no verdict" in said(answer(records(**{kind: {"a": 1}})))


def test_a_slower_baseline_within_the_same_budget_wins_by_accuracy_alone() -> None:
    slower = row("resolution", 0.78, 7.9) | {"verdict": "PASS"}
    rows = [slower, row("chosen", 0.71, 7.0)]
    (sentence,) = better(rows, "latency=8ms")
    assert "and keeps to the budget" in sentence
    assert better(rows, "latency=8ms", "top1=70%") == []  # the cheapest was asked for
    assert better([slower | {"verdict": "FAIL"}, rows[1]], "latency=8ms") == []


@pytest.mark.parametrize(
    ("verdict", "lead", "does"),
    [
        ("PASS", "Ship the chosen schedule: 84.1 % right, 7.25 ms, 2.9× as fast as dense", "Export it"),
        ("PREDICTED", "Measure before you ship: that it keeps to 8 ms (p90) is only predicted", "What the search"),
        ("INCONCLUSIVE", "Do not ship yet: whether it keeps to 8 ms (p90) is not decided", "What the search"),
        ("FAIL", "Nothing to ship: nothing keeps to 8 ms (p90)", "Look at what was found"),
    ],
)
def test_what_to_do_comes_first(verdict: str, lead: str, does: str) -> None:
    found = answer(records(front=front(entry([65, 40, 20], 0.841, 6.9, verdict), verdict=verdict, chosen=0)))
    assert found.lead.replace("\u00a0", " ") == lead
    assert found.command is not None and found.command[0].startswith(does)
    assert found.command[1].startswith(
        "fgvc-kit show" if verdict == "FAIL" else "fgvc-kit export . --schedule 65,40,20"
    )


def test_a_better_baseline_is_shipped() -> None:
    pick, int8 = entry([65, 40, 20], 0.841, 6.9, "PASS"), entry([], 0.85, 6.0, "PASS", name="dense INT8", kind="int8")
    body = front(pick, chosen=0, verdict="PASS", baseline_models=[{**int8, "split": "val"}])
    found = answer(records(front=body))
    assert found.beaten and found.lead.startswith("Ship dense INT8, not what the search chose: 85.0")
    assert said(found).startswith("A baseline does better here: dense INT8")
    assert found.command is not None and found.command[1].endswith(
        "--schedule dense --format openvino --precision int8"
    )
    assert [figure.value for figure in found.figures][:2] == ["6.30\u00a0ms", "85.0\u00a0%"]


def test_a_fit_says_which_folder_to_ship(tmp_path: Path) -> None:
    found = answer(gather([write_fit(tmp_path)]))
    body = json.loads((tmp_path / "fit.json").read_text())
    best = body["rows"][body["recommended"]]
    assert found.lead.startswith(f"Ship {best['name']}: {100 * best['val']['top1']:.1f}") and found.verdict == "PASS"
    assert found.command is not None and found.command[1].split()[1:3] == [
        f"{tmp_path}/recommended/predict.py", f"{tmp_path}/recommended/model.xml",
    ]  # fmt: skip
    body["recommended"] = None
    (tmp_path / "fit.json").write_text(json.dumps(body))
    found = answer(gather([tmp_path]))
    assert found.lead == "Nothing to ship: nothing keeps to 8\u00a0ms (p90)" and found.command is None


@pytest.mark.parametrize(
    ("kept", "lead", "does"),
    [
        ("check.json", "Ship chosen.onnx: it answers as its source does", "predict"),
        ("bench.json", "Measured side by side: 2 candidates, the fastest chosen.onnx at 10.1 ms", None),
        ("run.json", "What distillation did: 5 schedules", "search"),
        ("prune.json", "Pruned to 63 % of the multiply-adds for −0.6 points", "search"),
        ("profile.json", "Where the time goes: 15.1 ms in 14 parts", None),
    ],
)
def test_a_record_alone_is_answered_too(tmp_path: Path, kept: str, lead: str, does: str | None) -> None:
    folder = write_pruned(write_run(tmp_path).folder)
    found = answer(gather([folder / kept]))
    assert found.lead.replace("\u00a0", " ") == lead and found.opens
    assert (found.command[1].split()[1] if found.command else None) == does


def test_a_file_that_did_not_pass_is_not_shipped(tmp_path: Path) -> None:
    path = write_run(tmp_path).folder / "check.json"
    body = json.loads(path.read_text())
    body["checks"] = body["checks"][1:]
    path.write_text(json.dumps(body))
    found = answer(gather([path]))
    assert found.lead == "Do not ship chosen.int8.xml: its check did not pass"
    assert found.verdict == "INCONCLUSIVE" and found.command is None
