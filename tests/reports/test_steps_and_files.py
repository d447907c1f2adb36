from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tavt_kit.core.records import write_record
from tavt_kit.reports import write_report
from tavt_kit.reports.blocks import Section, Table, Text
from tavt_kit.reports.candidates import FrontView
from tavt_kit.reports.front import convergence_section, export_command, front_section
from tavt_kit.reports.records import gather
from tests.reports.records import EMPTY_FRONT, write_fit, write_run
from tests.reports.test_answer import entry, front, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run")).folder


def test_a_plain_schedule_is_exported_by_its_counts(folder: Path) -> None:
    view = FrontView(gather([folder]).first("front"))
    command = export_command(view, view.candidates[0], Path("runs/my run"))
    assert command == f"fgvc-kit export 'runs/my run' --schedule {view.candidates[0].schedule} --format openvino"


def test_candidates_of_one_schedule_in_two_precisions_are_two(folder: Path, tmp_path: Path) -> None:
    """A joint search finds both; neither stands for the other, and an export names the one by its place."""
    front = json.loads(json.dumps(gather([folder]).first("front")))
    for place, one in enumerate(front["candidates"]):
        one["precision"] = "int8"
        if place == front["chosen"]:
            front["baselines"].append({key: value for key, value in one.items() if key != "precision"})
            front["baselines"][-1]["top1"] = 0.99
    view = FrontView(front)
    assert view.pick is not None and view.pick.schedule.endswith(" in int8")
    twin = [one for one in view.shown if one.key.startswith("b") and one.record["top1"] == 0.99]
    assert len(twin) == 1 and twin[0].counts == view.pick.counts
    command = export_command(view, view.pick, tmp_path)
    assert command == f"fgvc-kit export {tmp_path} --pick {view.chosen} --format openvino"


def test_csv_and_json_say_what_the_page_says(folder: Path, tmp_path: Path) -> None:
    written = write_report([folder], tmp_path)
    body = json.loads(written.json.read_text(encoding="utf-8"))
    assert (body["schema"], body["version"]) == ("fgvc-kit/report", 1)
    assert body["verdict"] == "PASS" and body["budgets"] == ["latency=11ms"]
    assert body["sentence"].startswith("The model that fits 11 ms (p90)")
    assert f"{100 * body['chosen']['value']:.1f} %" in body["sentence"]
    assert body["chosen"]["p90_high_ms"] <= 11
    with written.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(body["rows"]) > 10
    (chosen,) = [row for row in rows if row["table"] == "front" and row["chosen"] == "1"]
    assert float(chosen["value"]) == body["chosen"]["value"] and chosen["schedule"] == body["chosen"]["schedule"]
    assert all(len(one["sha256"]) == 64 for one in body["records"])


def test_a_fit_has_its_files_as_rows_and_its_choice(tmp_path: Path) -> None:
    written = write_report([write_fit(tmp_path)], tmp_path / "out")
    body, fit = (json.loads(path.read_text(encoding="utf-8")) for path in (written.json, tmp_path / "fit.json"))
    assert [row["value"] for row in body["rows"]] == [row["val"]["top1"] for row in fit["rows"]]
    best = fit["rows"][fit["recommended"]]
    assert body["chosen"]["name"] == best["name"] and body["chosen"]["verdict"] == best["verdict"] == body["verdict"]
    assert (body["budgets"], body["split"], body["metric"]) == (fit["budgets"], "val", "top1")
    assert body["lead"].startswith(f"Ship {best['name']}") and "recommended/model.xml" in body["command"]


def test_a_name_cannot_be_a_formula(tmp_path: Path) -> None:
    one = {"schedule": [65, 40], "macs": 9, "top1": 0.5, "n": 8, "ci95": [0.3, 0.7], "latency_ms": None}
    front = {**EMPTY_FRONT, "candidates": [{**one, "origin": "=HYPERLINK(1)"}]}
    write_record(tmp_path / "front.json", "front", front)
    written = write_report([tmp_path], tmp_path / "out")
    assert "'=HYPERLINK(1)" in written.csv.read_text(encoding="utf-8")


def test_what_was_measured_over_the_budget_is_shown_and_counted() -> None:
    chosen = entry([65, 40, 20], 0.84, 6.9, "PASS")
    slow, dear = entry([65, 64, 63], 0.83, 9.0, "FAIL"), entry([65, 50, 30], 0.84, 7.2, "PASS")
    body = front(chosen, chosen=0, verdict="PASS", measured=[chosen, slow, dear], measured_over_budget=1)
    section = front_section(records(front=body))
    assert isinstance(section, Section)
    tables = [one for one in section.blocks if isinstance(one, Table)]
    (over,) = [one for one in tables if "over the budget" in one.caption]
    assert [row[0].text for row in over.rows] == ["65,64,63"]
    went = convergence_section(records(front=body))
    assert isinstance(went, Section)
    told = " ".join("".join(map(str, one.parts)) for one in went.blocks if isinstance(one, Text))
    assert "3 schedules measured end to end" in told
