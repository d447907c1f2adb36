"""``profile`` from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.bench import Protocol
from tavt_kit.checkpoints import load_model
from tavt_kit.errors import TargetError
from tavt_kit.workflows.profile import profile
from tests.verbs.tiny import write_run
from tests.workflows.told import Told


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "model")


@pytest.mark.usefixtures("short_series")
def test_a_table_is_measured_without_a_word(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Protocol(min_seconds=0.0, max_seconds=0.2, min_runs=2, visit_seconds=0.0, warmup_seconds=0.01)
    monkeypatch.setattr("tavt_kit.bench.latency_table.BRIEF", hasty)
    told = Told()
    adaptive = load_model(model)
    adaptive.reduction = "merge"
    found = profile(adaptive, target="torch:cpu:threads=1", held_out=1, max_time="1s", out=tmp_path, progress=told)
    assert capfd.readouterr() == ("", "")
    assert found.record == json.loads((tmp_path / "profile.json").read_text())
    model = found.table.model
    assert model.reduction == "merge" and model.layout.layers == 4 and found.table.target.threads == 1
    assert told.done[0] == "opening" and "timing held-out schedules" in told.done
    frame = found.to_frame()
    assert list(frame["measured"]) == [found.table.held_out[0].measured_ms]
    assert "mean error" in repr(found) and str(tmp_path) in repr(found)


@pytest.mark.usefixtures("short_series")
def test_a_table_goes_into_the_run_folder_unless_told(model: Path) -> None:
    found = profile(str(model), target="torch:cpu:threads=1", max_time=0.5)
    assert found.file == model / "profile.json" and found.file.is_file()


def test_a_target_is_refused_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="abacus"):
        profile(model, target="abacus:cpu", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
