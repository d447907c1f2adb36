from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.records import write_record
from tavt_kit.errors import RecordError
from tavt_kit.reports import write_report
from tavt_kit.reports.blocks import Missing, Section
from tavt_kit.reports.front import chart_of
from tavt_kit.reports.images import kept_section
from tavt_kit.reports.page import build_report
from tavt_kit.reports.provenance import COUNTING
from tavt_kit.reports.records import RecordFile, Records, gather
from tests.reports.pages import Page
from tests.reports.records import write_fit, write_pruned, write_run
from tests.reports.test_charts import once


def read(places: list[Path], out: Path) -> Page:
    return Page(write_report(places, out)[0].read_text(encoding="utf-8"))


def section_of(make: Callable[[Records], Section | Missing], folder: Path) -> Section:
    section = make(gather([folder]))
    assert isinstance(section, Section)
    return section


def test_every_missing_record_is_named_with_its_command(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", "run", {})
    page = read([tmp_path], tmp_path)
    for verb in ("search", "profile", "export", "distill", "bench"):
        assert f"fgvc-kit {verb}" in page.text
    assert [v["id"] for tag, v in page.tags if tag == "details" and "id" in v] == [
        "provenance",
        "reproduction",
        "missing",
    ]
    assert "Not recorded" not in read([write_run(tmp_path / "whole").folder], tmp_path / "out").text


@pytest.mark.parametrize("kind", ["fit", "kept", "profile", "bench", "check", "run", "split", "model", "exported"])
@pytest.mark.parametrize(
    "body", [{}, {"rows": 3, "images": {}, "grid": "x", "candidates": [[]], "target": 1, "host": []}]
)
def test_no_record_breaks_the_report(tmp_path: Path, kind: str, body: dict[str, object]) -> None:
    write_record(tmp_path / f"{kind}.json", kind, body)
    if kind == "front":  # every reader of it goes through one door
        with pytest.raises(RecordError, match=r"front\.json"):
            read([tmp_path], tmp_path)
        return
    assert read([tmp_path], tmp_path).count("section") >= 3


@pytest.mark.slow
def test_any_single_field_may_be_missing(tmp_path: Path) -> None:
    records = gather([write_run(tmp_path, classes=("crack", "good")).folder])
    for kind, files in records.by_kind.items():
        for field in files[0].body:
            body = {name: value for name, value in files[0].body.items() if name != field}
            changed = Records({**records.by_kind, kind: (RecordFile(files[0].path, body),)})
            assert build_report(changed).groups


def test_counting_is_said_once(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    assert page.text.count(COUNTING) == 1


def test_the_facts_of_the_run_are_there(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    for fact in (
        "OpenVINO CPU, 2 threads, f32, batch 1",
        "Example CPU <b> 9000",
        "2 of 8 usable",
        "openvino 2026.4.1",
        "2026-11-21 04:47 UTC",
        "cd" * 32,
        "ab" * 32,
        "split by us, stratified",
        "Seed of the search 0",
        "Apache-2.0",
        "CC BY 4.0",
    ):
        assert fact in page.text, fact


def test_two_machines_are_pointed_out(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_record(tmp_path / "bench.json", "bench", {"host": {"cpu": "Another CPU"}})
    assert "come from 2 different machines" in read([run.folder], tmp_path / "out").text


def test_the_chosen_candidate_is_marked_in_table_and_chart(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    strong = [values for tag, values in page.tags if tag == "tr" and values.get("class") == "strong"]
    assert [values["data-key"] for values in strong if "data-key" in values] == ["c3"]
    keys = [values["data-key"] for tag, values in page.tags if values.get("class") == "point" and "data-key" in values]
    assert sorted(keys) == sorted(2 * ["b0", "b1", "b2", "c0", "c1", "c2", "c3", "c4", "c5"])  # in both sizes


def test_the_chart_has_whatever_was_measured_and_the_budget(tmp_path: Path) -> None:
    folder = write_run(tmp_path).folder
    body = json.loads((folder / "front.json").read_text())
    other = {**body["candidates"][1], "name": "dense, INT8", "kind": "int8", "split": "val"}
    body["baseline_models"] = [{name: value for name, value in other.items() if name != "schedule"}]
    (folder / "front.json").write_text(json.dumps(body))
    figure = chart_of(gather([folder]))
    assert figure is not None
    page = Page(str(figure.legend) + once(figure))
    for said in ("chosen", "fewer tokens", "dense, f32", "dense, INT8", "uniform taper"):
        assert said in page.text
    assert "budget 11 ms (p90)" in page.text and "95 % bounds of the latency" in page.text
    assert chart_of(gather([write_pruned(tmp_path / "pruned")])) is None


def test_the_chart_of_a_fit_has_every_file(tmp_path: Path) -> None:
    figure = chart_of(gather([write_fit(tmp_path)]))
    assert figure is not None
    rows = json.loads((tmp_path / "fit.json").read_text())["rows"]
    assert once(figure).count('class="point"') == len(rows) > 5
    assert "budget 8 ms (p90)" in Page(once(figure)).text.replace("\u00a0", " ")


def test_the_report_of_a_fit_shows_all_that_belongs_to_it(tmp_path: Path) -> None:
    page = read([write_fit(tmp_path)], tmp_path / "out")
    assert {"final", "learning", "exported", "bench", "provenance", "reproduction"} <= set(page.attributes("id"))
    for said in (
        "What each training ended with", "adapted-98 finetune at 98 px", "head probe at 112 px",
        "Fine-tuning at 98 px by the recipe",
        "The mean of the fine-tuned weights beside each of them", "at 84 px", "Agreement", "98.2 %", "p99",
        "chosen.int8.xml: top-1 changes by", "Interleaved in random order on OpenVINO CPU",
    ):  # fmt: skip
        assert said in page.text, said


def test_dropped_patches_are_covered_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "thumbnails").mkdir()
    kept = [[0, 1, 2, 3, 4, 5], [0, 1, 5], [0, 1, 5]]
    image = {"file": "a.png", "label": "x", "prediction": "y", "probability": 0.5, "kept": kept}
    body = {"grid": [2, 3], "layers": [0, 1, 2], "schedule": [7, 4, 4], "prefix": 1, "split": "test", "images": [image]}
    write_record(tmp_path / "kept.json", "kept", body)
    section = section_of(kept_section, tmp_path)
    assert "Of 6 patches stay 6 after layer 0, 3 after layers 1–2." in str(section.blocks[0])
    page = read([tmp_path], tmp_path)
    paths = [v["d"] for tag, v in page.tags if tag == "path" and v.get("class") == "gone"]
    assert paths == ["M2 0h1v1h-1zM0 1h2v1h-2z"]
    assert "layer 0 6 of 6" in page.text and "layers 1–2 3 of 6" in page.text and ", taken for y (50 %)" in page.text


def test_the_whole_image_is_shown_where_the_first_layer_drops(tmp_path: Path) -> None:
    body = {"grid": [1, 2], "layers": [0, 1], "images": [{"label": "x", "kept": [[1], [1]]}]}
    write_record(tmp_path / "kept.json", "kept", body)
    page = read([tmp_path], tmp_path)
    assert "before layer 0 2 of 2 layers 0–1 1 of 2" in page.text
    assert "kept pairs" in page.attributes("class")


def test_thumbnails_are_embedded_and_strangers_are_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=("a", "b", "c", "d"))
    (run.folder / "check.json").unlink()  # it has images of its own
    (tmp_path / "secret.jpg").write_bytes((run.folder / "thumbnails" / "00.jpg").read_bytes())
    (run.folder / "thumbnails" / "big.jpg").write_bytes(b"\xff\xd8\xff" + bytes(400_000))
    record = json.loads((run.folder / "kept.json").read_text())
    for image, name in zip(record["images"], ("../secret.jpg", "kept.json", "thumbnails/big.jpg"), strict=False):
        image["thumbnail"] = name
    (run.folder / "kept.json").write_text(json.dumps(record))
    page = read([run.folder], tmp_path)
    images = [values["href"] for tag, values in page.tags if tag == "image"]
    assert len(images) == 1 and images[0].startswith("data:image/jpeg;base64,/9j/")


def test_the_ladder_is_told_without_flattery(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    assert "lifted 4 of 5 schedules beyond doubt (paired 95 % interval above 0)." in page.text
    text = page.text.replace("\u00a0", " ")
    assert "50.9 %" in text and "68.6 %" in text and "+17.7" in text
    record = json.loads((tmp_path / "run.json").read_text())
    results = record["results"]
    for rung in results["after"]:
        rung["difference"]["ci95"] = [-0.2, -0.1] if rung["name"] == "dense" else [-0.1, 0.1]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert (
        "lifted 0 of 5 schedules beyond doubt (paired 95 % interval above 0) and lowered dense."
        in read([tmp_path], tmp_path).text
    )
    results["after"][0]["accuracy"]["value"] -= 0.05
    (tmp_path / "run.json").write_text(json.dumps(record))
    told = (
        "Distillation changed the dense model by −4.8 points (73.3 % to 68.5 %), so what is called dense here is less"
    )
    assert told in read([tmp_path], tmp_path).text
    del results["after"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "Distillation has not ended" in read([tmp_path], tmp_path).text


def test_the_layer_table_is_summed_and_doubted(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    table = LatencyTable.from_record(json.loads((tmp_path / "profile.json").read_text()))
    page = read([run.folder], tmp_path)
    chosen = run.candidates[run.chosen].schedule
    assert f"The chosen schedule takes {table.predict(chosen):.1f} ms, " in page.text
    time = run.candidates[run.chosen].latency
    assert time is not None and f"chosen {table.predict(chosen):.1f} ms {time.median:.1f} ms" in page.text
    assert "whole runs of 2 schedules that had no part in it: off by 2.6 % on average, 2.6 % at worst" in page.text
    (tmp_path / "front.json").unlink()
    page = read([run.folder], tmp_path)
    assert "The chosen schedule takes" not in page.text and "dense model takes" in page.text


def test_layers_are_rows_of_the_csv(tmp_path: Path) -> None:
    written = write_report([write_run(tmp_path).folder], tmp_path / "out")
    with written.csv.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "layers"]
    dense, chosen = ([row for row in rows if row["chosen"] == which] for which in "01")
    assert [row["name"] for row in dense] == ["stem", *(f"layer {layer}" for layer in range(12)), "head"]
    assert 0 < float(chosen[-2]["predicted_ms"]) < 0.7 * float(dense[-2]["predicted_ms"]) and not dense[4]["median_ms"]


def test_how_the_search_went_is_told(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    assert "the search ended because 312 evaluations are done" in page.text
    assert "1 schedule predicted within the budget measured above it" in page.text
    assert "the layer table predicted 1." in page.text and "less than was measured (median)" in page.text


def test_checked_files_and_their_verdicts(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    assert "OpenVINO CPU, 2 threads, int8, batch 1" in page.text
    assert page.text.count("The check of chosen.int8.xml says INCONCLUSIVE: top-1 changes by -0.61 points") == 1
    assert "98.2 %" in page.text and "7.0 %" in page.text and "2e-06" in page.text


def test_files_of_several_exports_are_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for name, schedule in (("f32", [65] * 12), ("int8", list(run.candidates[run.chosen].schedule.counts))):
        (tmp_path / name).mkdir()
        check = {"artifact": "model.xml", "schedule": schedule, "verdict": "FAIL", "reason": f"{name} is wrong"}
        write_record(tmp_path / name / "check.json", "check", {"checks": [check]})
    page = read([tmp_path], tmp_path / "out")
    assert "f32/model.xml" in page.text and "int8/model.xml" in page.text
    assert "The check of int8/model.xml says FAIL: int8 is wrong." in page.text
    assert "The check of f32/model.xml" not in page.text  # not what was chosen


def test_a_bench_names_its_reference_and_protocol(tmp_path: Path) -> None:
    page = read([write_run(tmp_path).folder], tmp_path)
    assert "speed is against dense" in page.text and "88.4 MB" in page.text
    assert "at least 3 s and 30 inferences, until its median was known within 1.0 % or 60 s had passed" in page.text
    assert "inputs: textile val; seed 0." in page.text


def test_a_bench_shows_its_meters_and_what_it_could_not_decide(tmp_path: Path) -> None:
    path = write_run(tmp_path).folder / "bench.json"
    body = json.loads(path.read_text())
    body["noise"] = {"word": "unsteady", "reasons": ["other processes used 51 % of the CPUs"]}
    body["candidates"][1] |= {"gflops": 18.5, "memory": {"peak": 339_000_000}}
    body["candidates"][1]["ratio"]["says"] = "INCONCLUSIVE"
    body["candidates"][1]["doubts"] = ["its logits are not numbers"]
    path.write_text(json.dumps(body))
    page = read([path.parent], tmp_path)
    assert "The machine was unsteady: other processes used 51 % of the CPUs." in page.text
    assert "18.5" in page.text and "37" in page.text and "339 MB" in page.text and "inconclusive" in page.text
    assert f"In doubt: {body['candidates'][1]['name']}: its logits are not numbers." in page.text
