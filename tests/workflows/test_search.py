"""``search`` as a Python function: what the verb does, silently; and a search that really measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.bench.noise import Noise
from tavt_kit.checkpoints import load_model
from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.budget import Verdict
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import inherit_split, load_images
from tavt_kit.errors import BudgetTooTight, DataError, ParameterError, RecordError
from tavt_kit.models.wrap import wrap
from tavt_kit.search import Progress as SearchState
from tavt_kit.workflows import search_context
from tavt_kit.workflows.export import export
from tavt_kit.workflows.search import FeasibilityTable, SearchRun, search
from tests.verbs.command import run
from tests.verbs.tiny import write_images, write_run
from tests.workflows.conftest import Heard

BUDGET = "flops=400K"


def test_the_verb_finds_what_the_function_finds(
    data: Path, model: Path, tmp_path: Path, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> None:
    found = search(model, data=data, out=tmp_path / "function", budget=BUDGET, evaluations=12, population=4,
                   baselines=False, progress=heard)  # fmt: skip
    assert capfd.readouterr() == ("", "")
    flags = ("--data", data, "--budget", BUDGET, "--evaluations", 12, "--population", 4, "--no-baselines", "--json")
    assert run("search", model, *flags, "-o", tmp_path / "verb") == 0
    said = json.loads(capfd.readouterr().out)
    assert found.record["candidates"] == said["candidates"] and found.record["chosen"] == said["chosen"]
    assert found.record == read_record(tmp_path / "function" / "front.json", "front")
    assert found.best is found.front[said["chosen"]] and found.verdict is Verdict.PASS
    assert [one.macs for one in found.front] == [one["macs"] for one in said["candidates"]]
    assert found.baselines[0].macs == max(one.macs for one in found.baselines)  # the dense model
    assert found.report == tmp_path / "function" / "report.html" and found.report.is_file()
    frame = found.to_frame()
    assert list(frame["schedule"]) == [str(one.schedule) for one in found.front] and frame["macs"].max() <= 400_000
    assert repr(found).startswith(f"SearchRun(PASS: {found.best.schedule} at ") and len(repr(found)) < 200
    feasibility, *states = heard.shown
    assert isinstance(feasibility, FeasibilityTable) and str(feasibility) == f"{BUDGET}: within reach"
    assert [state.evaluations for state in states if isinstance(state, SearchState)] == list(range(1, 13))


@pytest.mark.slow
def test_a_model_in_hand_is_searched_and_stays_as_it_was(data: Path, tmp_path: Path, quiet: None) -> None:
    folder = write_run(tmp_path / "run")
    inherit_split(folder, load_images(str(data), seed=5))
    adaptive = load_model(folder).train()
    adaptive.schedule = given = TokenSchedule((14, 11, 8, 8))
    asked = {"budget": ["flops=400K", "top1=1%"], "evaluations": 6, "population": 3, "baselines": False}
    ours = search(adaptive, data=folder, out=tmp_path / "module", **asked)
    theirs = search(folder, out=tmp_path / "folder", **asked)
    assert ours.front == theirs.front and ours.best == theirs.best
    assert adaptive.training and adaptive.schedule == given
    assert read_record(tmp_path / "module" / "recipe.json", "recipe")["model"] == "vit_tiny_patch16_224"
    again = search(adaptive, data=load_images(str(data), seed=5), out=tmp_path / "module", **asked)  # it continues
    assert again.front == ours.front


def test_the_users_own_baselines_are_among_the_baselines(data: Path, model: Path, tmp_path: Path, quiet: None) -> None:
    found = search(model, data=data, out=tmp_path / "out", budget=BUDGET, evaluations=4, population=2,
                   baselines=False, baseline=str(model))  # fmt: skip
    (own,) = [one for one in found.baselines if isinstance(one, Baseline)]
    assert own.name == model.name and own.verdict is Verdict.FAIL  # it is the dense model, above the budget


def test_a_budget_that_nothing_meets_leaves_nothing(data: Path, model: Path, tmp_path: Path, quiet: None) -> None:
    asked = {"data": data, "out": tmp_path / "out"}
    with pytest.raises(BudgetTooTight, match="nearest feasible"):
        search(model, budget="flops=1K", **asked)
    with pytest.raises(TypeError, match="bugdet"):
        search(model, bugdet=BUDGET, **asked)  # type: ignore[call-arg]
    assert not (tmp_path / "out").exists()


def test_what_it_cannot_use_is_refused_by_its_parameters_name(
    data: Path, model: Path, tmp_path: Path, quiet: None
) -> None:
    adaptive, out = load_model(model), tmp_path / "out"
    with pytest.raises(DataError, match="give `data`"):
        search(adaptive, out=out)
    with pytest.raises(DataError, match="no card"):
        search(wrap(adaptive.unwrap()), data=data, out=out)
    with pytest.raises(RecordError, match="is no run folder"):
        search("vit_tiny_patch16_224", data=data, out=out)
    for name, value in (("table_seconds", 0), ("measure_seconds", -1), ("evaluations", 0)):
        with pytest.raises(ParameterError, match=f"`{name}`"):
            search(model, data=data, out=out, **{name: value})
    assert not out.exists()


def test_measured_on_openvino_from_the_model_to_the_verdict(
    data: Path, model: Path, tmp_path: Path, heard: Heard, quiet: None
) -> None:
    """Nothing stands in for anything: a table of layer times, a search by it, and whole passes that decide.

    Which of such small models is the fastest is the machine's matter; ``export`` writes it as it was found.
    """
    target = "openvino:cpu:threads=1"
    found = search(
        model, data=data, out=tmp_path / "out", target=target, budget=["latency=500ms", "top1=0.01%"], evaluations=5,
        population=2, schedule="taper:0.3", final=1, fix=["layers", "precision"], table_seconds=0.5,
        measure_seconds=0.1, progress=heard,
    )  # fmt: skip
    assert isinstance(found, SearchRun) and found.best is not None
    assert isinstance(found.best, Candidate) and found.best.target == TargetDevice.parse(target).resolved()
    assert {one.origin for one in found.baselines if isinstance(one, Candidate)} >= {"dense", "resolution"}
    for one in (found.best, found.baselines[0]):
        assert one.latency is not None and one.latency.n >= 40 and 0 < one.latency.p90 < 500
    assert found.best.latency_predicted_ms and found.record["objectives"][0] == "latency_ms.p90"
    assert any(sentence.startswith("Timing the layers on openvino:cpu") for sentence in heard.said)
    assert (tmp_path / "out" / "profile.json").is_file() and found.report.is_file()
    assert f"{found.best.latency.median:.3g} ms" in repr(found)
    chosen = Configuration.of(found.best.schedule)
    (file,) = export(found, out=tmp_path / "files", accept_inconclusive=True)
    card = read_metadata(file.path)
    assert card.image_size == (chosen.image_size or load_model(model).backbone.image_size)
    assert card.schedule == chosen.schedule


@pytest.mark.slow
def test_a_first_look_at_the_target_keeps_to_the_time_and_says_what_it_leaves_out(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    monkeypatch.setattr("tavt_kit.workflows.search_target._LOOK", 0.0)
    monkeypatch.setattr("tavt_kit.workflows.search_target._TIMED", 0.0)
    found = search(
        model, data=data, out=tmp_path / "out", target="openvino:cpu:threads=1", budget="latency=500ms", fix="all",
        evaluations=3, population=2, final=1, max_time="10m", table_seconds=0.1, measure_seconds=0.1,
        progress=heard,
    )  # fmt: skip
    told = " ".join(heard.said)
    assert "no room for a look at" in told and "of the layers' times" in told.lower()
    assert found.best is not None and found.record["evaluations"] == 3
    table = read_record(tmp_path / "out" / "profile.json", "profile")["cells"]
    assert len(table["attend"]["counts"]) == len(table["feed"]["counts"]) == 2


@pytest.mark.slow
def test_a_budget_out_of_reach_says_what_would_meet_it_and_that_the_machine_is_busy(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    """Everything is measured: INT8, the smallest image and both, which this search was told to leave out."""
    busy = Noise("unsteady", ("other processes used 60 % of the time of the CPUs allowed",))
    monkeypatch.setattr("tavt_kit.bench.noise.Watch.verdict", lambda watch: busy)
    asked = {"data": data, "target": "openvino:cpu:threads=1", "budget": "latency=0.001ms", "measure_seconds": 0.05}
    with pytest.raises(BudgetTooTight) as refused:
        search(model, out=tmp_path / "out", fix="all", progress=heard, **asked)
    said = str(refused.value)
    assert "nearest feasible budget" in said and "so a smaller model is needed" in said
    assert all(way in said for way in (" at 16 px ", " in int8 ", " at 16 px, in int8 "))
    assert said.count("ms,") >= 3 and any("not quiet" in sentence and "60 %" in sentence for sentence in heard.said)
    assert said.endswith("so try again on a quiet one")
    with pytest.raises(BudgetTooTight) as searched:  # all of it is searched anyway
        search(model, out=tmp_path / "out", fix="layers", **asked)
    assert "measured with what" not in str(searched.value)


@pytest.mark.slow
def test_half_of_val_judges_a_floor_and_the_search_does_not_see_it(
    model: Path, tmp_path: Path, heard: Heard, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_context, "LEAST_HELD_OUT", 5)
    data, evaluated = write_images(tmp_path / "data", each=20), list[int]()
    asked = {"data": data, "evaluations": 6, "population": 3, "baselines": False, "baseline": str(model)}
    found = search(model, out=tmp_path / "out", budget=["flops=400K", "drop=90"], progress=heard, **asked)
    evaluated += {one.candidate.accuracy.n for one in heard.shown if isinstance(one, SearchState)}
    (searched,) = evaluated
    held_out = found.record["selection"]["held_out"]
    samples = load_images(str(data)).split("val")
    assert searched + held_out == len(samples) and abs(searched - held_out) <= 3
    assert any(f"{held_out} more val images" in sentence for sentence in heard.said)
    shown = (*found.front, *found.baselines)
    assert {one.accuracy.n for one in shown if one.accuracy} == {held_out}
    assert found.verdict is Verdict.PASS and found.record["selection"]["evaluated"] == 6
    again = search(model, out=tmp_path / "out", budget=["flops=400K", "drop=90"], **asked)
    assert again.front == found.front
    plain = search(model, out=tmp_path / "plain", budget="flops=400K", **asked)
    assert plain.record["selection"]["held_out"] == 0 and plain.record["candidates"][0]["n"] == len(samples)


def test_a_precision_of_no_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="`precision` is the target's, got foo without a target"):
        search(tmp_path / "none", budget="flops=9G", precision="foo", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
