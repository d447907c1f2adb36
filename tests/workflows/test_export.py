"""``export`` and ``check`` as Python functions: what the verbs do, without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.budget import Verdict
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, OutputError, ParameterError
from tavt_kit.workflows.check import check
from tavt_kit.workflows.export import export
from tests.verbs.command import run

SCHEDULE = "14,11,8,8"


@pytest.mark.slow
def test_the_verb_gives_what_the_function_gives(
    data: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "function"
    files = export(model, out, schedule=SCHEDULE, format="onnx", data=data)
    assert capfd.readouterr() == ("", "")
    assert (
        run(
            "export",
            model,
            "-o",
            tmp_path / "verb",
            "--schedule",
            SCHEDULE,
            "--format",
            "onnx",
            "--data",
            data,
            "--json",
        )
        == 0
    )
    said = json.loads(capfd.readouterr().out)
    assert [one.record["sha256"] for one in files] == [one["sha256"] for one in said["artifacts"]]
    assert [one.verdict for one in files.checks] == [one["verdict"] for one in said["checks"]] == ["PASS"]
    assert len(files) == 1 and files[0].path == out / "model.f32.onnx" and files[0].path.is_file()
    assert (files[0].format, files[0].precision, files[0].status) == ("onnx", "f32", "final")
    assert files[0].check is files.checks[0] and files.settled and files.licence is None
    assert files.record == read_record(out / "exported.json", "exported")
    assert repr(files[0]) == f"<ExportedFile {out / 'model.f32.onnx'}: final, PASS>"
    assert list(files.to_frame()["verdict"]) == ["PASS"]


@pytest.mark.slow
def test_a_wrapped_model_and_a_schedule_as_values(data: Path, model: Path, tmp_path: Path, quiet: None) -> None:
    adaptive = load_model(model)
    files = export(adaptive, tmp_path / "out", schedule=TokenSchedule((14, 11, 8, 8)), format="onnx", data=str(data))
    assert files[0].record["schedule"] == [14, 11, 8, 8] and files.settled
    assert adaptive.schedule == adaptive.dense_schedule
    found = check(files[0].path, adaptive, data=data, out=tmp_path / "again")
    assert (found.verdict, found.accepted, found.notes) == (Verdict.PASS, True, ())
    assert found.checks[0].top1 == files[0].check.top1
    assert found.record == read_record(tmp_path / "again" / "check.json", "check")
    assert list(found.to_frame()["artifact"]) == ["model.f32.onnx"]
    assert repr(found) == "<CheckResult model.f32.onnx: PASS>"
    adaptive.folder = None
    with pytest.raises(OutputError, match="give `out`"):
        export(adaptive, schedule="dense", data=data)
    with pytest.raises(DataError, match="give `data`"):
        export(adaptive, tmp_path / "none", schedule="dense")


def test_contradictions_name_parameters(model: Path, data: Path, quiet: None) -> None:
    with pytest.raises(ParameterError, match="leave out `pick=fast`"):
        export(model, switchable=True, pick="fast", data=data)
