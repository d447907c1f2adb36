from __future__ import annotations

from pathlib import Path

import pytest

from tavt_kit.distill.run_folder import RunFolder, read_run_record
from tavt_kit.errors import OutputError, RecordError, TrainingError

ASKED = {"bound": 0.4, "augment": ["flip"], "limit": None}


def test_a_run_is_begun_noted_and_finished(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "distill", ASKED)
    assert not run.done and not (tmp_path / "run" / "run.json").exists()
    run.note(before=[1])
    again = RunFolder(tmp_path / "run", "distill", ASKED)
    assert not again.done and again.results == {"before": [1]}
    again.finish(after=[2])
    record = read_run_record(tmp_path / "run")
    assert record["status"] == "done" and record["results"] == {"before": [1], "after": [2]}
    assert record["asked"] == ASKED and record["host"]["cores"] >= 1
    assert RunFolder(tmp_path / "run", "distill", ASKED).done


def test_another_recipe_is_refused_and_the_differences_are_listed(tmp_path: Path) -> None:
    RunFolder(tmp_path, "distill", ASKED).note()
    with pytest.raises(TrainingError) as refused:
        RunFolder(tmp_path, "distill", {"bound": 0.5, "augment": [], "limit": None, "new": 3})
    said = str(refused.value)
    assert "bound 0.4 (now 0.5)" in said and "augment flip (now none)" in said and "new none (now 3)" in said
    assert "limit" not in said and "`fresh`" in said


def test_another_verbs_run_and_a_foreign_model_are_not_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a", "train", ASKED).note()
    with pytest.raises(RecordError, match="holds a train run"):
        RunFolder(tmp_path / "a", "distill", ASKED)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.json").write_text("{}")
    with pytest.raises(OutputError, match="did not make"):
        RunFolder(tmp_path / "b", "train", ASKED)


def test_a_state_of_an_unknown_run_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-00000001.pt").write_text("x")
    with pytest.raises(OutputError, match="no run.json that tells of which"):
        RunFolder(tmp_path, "train", ASKED)
    assert not RunFolder(tmp_path, "train", ASKED, fresh=True).done


def test_fresh_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "train", ASKED)
    run.note()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-00000001.pt").write_text("x")
    (tmp_path / "mine.txt").write_text("x")
    fresh = RunFolder(tmp_path, "distill", {"bound": 0.1}, fresh=True)
    assert not fresh.done and not (tmp_path / "run.json").exists() and not (tmp_path / "state").exists()
    assert (tmp_path / "mine.txt").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        RunFolder(tmp_path / "file" / "run", "train", ASKED)
