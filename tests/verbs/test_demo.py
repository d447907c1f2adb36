"""``fgvc-kit demo``: its stages on small images, interrupted and continued, and what it concludes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tavt_kit import cli
from tavt_kit.core.records import write_record
from tavt_kit.workflows import demo as demo_workflow
from tavt_kit.workflows.demo import Stages, conclusions, read_table
from tests.verbs.tiny import write_images
from tests.workflows.conftest import Heard


def test_an_unknown_data_set_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--data", "birds", "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "elpv or textile" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def _record(folder: Path, chosen_ms: float | None, top1: float = 0.70) -> Path:
    """The records behind the conclusions: distillation lifted one schedule, a smaller image is faster and better."""

    def accuracy(value: float) -> dict[str, object]:
        return {"value": value, "n": 500}

    before = [{"name": "taper:0.2", "accuracy": accuracy(0.46)}]
    after = [{"name": "taper:0.2", "accuracy": accuracy(0.69), "difference": {"ci95": [0.19, 0.27]}}]
    (folder / "distilled").mkdir(parents=True)
    write_record(folder / "distilled" / "run.json", "run", {"results": {"before": before, "after": after}})
    rows = [
        {"name": "dense f32", "kind": "dense", "top1": 0.735, "ms": 15.0, "verdict": "FAIL"},
        {"name": "70 px INT8", "kind": "resolution", "top1": 0.73, "ms": 6.0, "verdict": "PASS"},
        {"name": "chosen INT8", "kind": "chosen", "top1": top1, "ms": chosen_ms, "verdict": "PASS"},
    ]
    for row in rows:
        row["note"] = "" if row["kind"] != "chosen" or chosen_ms is None else "recommended, val 71.0 %"
        row |= {"split": "test", "n": 500, "ci95": [0.6, 0.8]}
        ms = row.pop("ms")
        row["latency_ms"] = None if ms is None else {"median": ms, "p90": ms, "steady": True, "samples": 40}
    write_record(folder / "final.json", "final", {"rows": rows, "budgets": ["latency=9ms"]})
    (folder / "candidates.csv").write_text("schedule,origin\n17,dense\n9,nsga2\n8,nsga2\n")
    return folder


def test_conclusions_name_the_baseline_that_wins(tmp_path: Path) -> None:
    lifted, searched, recommended, baseline = conclusions(_record(tmp_path / "a", 7.0))
    assert "taper:0.2: 46.0 -> 69.0 % top-1 on val, paired difference [+19.0, +27.0]" in lifted
    assert "3 evaluations: 2 by nsga2, 1 by dense" in searched and "chosen INT8" in recommended
    assert "A baseline does better here: 70 px INT8" in baseline
    assert conclusions(_record(tmp_path / "b", 3.0, 0.74))[3:] == ["No baseline does better than the chosen model."]
    folder = _record(tmp_path / "d", 7.0)
    text = (folder / "final.json").read_text()
    (folder / "final.json").write_text(text.replace('"kind": "chosen"', '"kind": "int8"'))
    assert "a baseline" in conclusions(folder)[-1]
    *_, nothing, failed = conclusions(_record(tmp_path / "c", None))
    assert "nothing is recommended" in nothing and "failed its check" in failed


@pytest.mark.slow
def test_the_whole_job_interrupted_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_workflow, "NAME", "test_vit")
    monkeypatch.setattr(demo_workflow, "WEIGHTS", "random")
    monkeypatch.setattr(demo_workflow, "PATCH", 16)
    monkeypatch.setattr(demo_workflow, "SHARE", 3.0)  # so small a model is no faster with fewer tokens
    monkeypatch.setattr(demo_workflow, "LAYERS_TRAINED", 2)
    data = write_images(tmp_path / "data", each=60, size=64)
    demo = Stages(tmp_path / "out", str(data), "openvino:cpu:threads=1", 96, 3, 6, 0, progress := Heard())
    for title, stage in demo.listed():
        if title.startswith("export"):  # everything before it is done; go on as the same command would
            break
        stage()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    front = (demo.out / "front.json").read_bytes()
    for _, stage in demo.listed():
        stage()
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()) and len(stamps) == 4
    assert (demo.out / "front.json").read_bytes() == front
    table = read_table(demo.out)
    assert [row["kind"] for row in table["rows"]] == ["dense", "int8", "resolution", "resolution", "chosen"]
    assert all(row["split"] == "test" and row["top1"] is not None for row in table["rows"])
    assert capsys.readouterr() == ("", "")
    kinds = [type(value).__name__ for value in progress.shown]
    told = ("TrainResult", "DistillResult", "DemoBudget", "SearchRun", "ExportResult", "BenchResult")
    assert [kind for kind in dict.fromkeys(kinds) if kind in told] == list(told)
    assert kinds.count("ExportResult") == 4
    assert conclusions(demo.out) and "<html" in (demo.out / "report.html").read_text()
