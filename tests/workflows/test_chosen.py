"""A search's folder runs at what the search chose, whoever asks: eval, predict and explain, as export does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.progress import Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError
from tavt_kit.workflows.bench import bench
from tavt_kit.workflows.evaluate import evaluate
from tavt_kit.workflows.explain import explain
from tavt_kit.workflows.predict import predict
from tavt_kit.workflows.run_model import model_at
from tests.verbs.command import run
from tests.workflows.conftest import Heard

CHOSEN = TokenSchedule((9, 7, 5, 5))
OTHER = TokenSchedule((17, 17, 14, 14))
Searched = Callable[..., Path]


def test_the_choice_is_what_runs(searched: Searched, data: Path, tmp_path: Path, heard: Heard) -> None:
    folder = searched(OTHER, CHOSEN, chosen=1)
    images = sorted((data / "disc").iterdir())[:4]
    default = evaluate(folder, data, progress=heard)
    assert default.schedule == "9,7,5x2"
    assert default.record["confusion"] == evaluate(folder, data, schedule="9,7,5,5").record["confusion"]
    assert evaluate(folder, data, schedule="dense").schedule == "17x4"
    shares = [
        [share for one in predict(folder, images, schedule=schedule, progress=heard) for _, share in one.ranked]
        for schedule in (None, "9,7,5,5", "dense")
    ]
    assert shares[0] == shares[1] and not np.allclose(shares[0], shares[2], atol=1e-3)
    drawn = explain(folder, images[0], tmp_path / "drawn", progress=heard)
    assert drawn.record is not None and drawn.record["schedule"] == "9,7,5x2"
    dense = explain(folder, images[0], tmp_path / "dense", schedule="dense")
    assert dense.record is not None and dense.record["schedule"] == "17x4"
    sentence = f"{folder} runs under 9,7,5x2, which its search chose; the schedule dense drops nothing"
    assert heard.said == [sentence] * 3  # each by default, and never where a schedule is given


@pytest.mark.slow
def test_the_verbs_say_it_on_stderr(
    searched: Searched, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = searched(CHOSEN)
    image = data / "disc" / "0.png"
    for words in (
        ("eval", folder, "--data", data, "--json"),
        ("predict", folder, image, "--json"),
        ("explain", folder, image, "-o", tmp_path / "out", "--json"),
    ):
        assert run(*words) == 0
        said = capsys.readouterr()
        assert said.err == f"{folder} runs under 9,7,5x2, which its search chose; the schedule dense drops nothing\n"
        assert json.loads(said.out)
        assert run(*words, "--schedule", "dense") == 0
        assert capsys.readouterr().err == ""
    assert run("export", folder, "--data", data, "-o", tmp_path / "files") == 0
    assert capsys.readouterr().err.startswith(f"{folder} is exported under 9,7,5x2, which its search chose\n")


def test_a_joint_choice_is_taken_whole(searched: Searched, data: Path, tmp_path: Path, heard: Heard) -> None:
    schedule = TokenSchedule((26, 10, 9, 9))
    joint = Configuration(schedule, image_size=(40, 40), score="cls", precision="int8")
    folder = searched(joint)
    model, under = model_at(folder, None, heard)
    assert (tuple(model.backbone.image_size), model.score) == ((40, 40), "cls")
    assert (model.schedule, str(under)) == (schedule, "26,10,9x2 at 40 px, by cls")
    assert heard.said == [f"{folder} runs under {under}, which its search chose; the schedule dense drops nothing"]
    default = evaluate(folder, data)
    assert default.schedule == "26,10,9x2 at 40 px, by cls"
    wrapped = load_model(folder, image_size=40)
    wrapped.score = "cls"
    at_size = evaluate(wrapped, data, schedule=schedule)
    assert default.record["confusion"] == at_size.record["confusion"]
    drawn = explain(folder, data / "disc" / "0.png", tmp_path / "drawn").record
    assert drawn is not None and drawn["images"][0]["grid"] == [5, 5]
    assert [len(one.ranked) for one in predict(folder, data / "disc" / "0.png")] == [3]
    assert tuple(model_at(folder, "dense", heard)[0].backbone.image_size) == (32, 32)


def test_without_a_choice_or_a_search_the_model_is_as_it_was(searched: Searched, model: Path, heard: Heard) -> None:
    assert str(model_at(model, None, heard)[0].schedule) == "17x4" and heard.said == []
    folder = searched(CHOSEN, chosen=None)
    assert str(model_at(folder, None, heard)[0].schedule) == "17x4"
    assert heard.said == [f"the search in {folder} chose no schedule, so the model runs under 17x4"]


def test_the_callers_own_model_keeps_its_schedule(model: Path) -> None:
    own = load_model(model)
    own.schedule = CHOSEN
    assert model_at(own, "dense", Silent())[0].schedule == own.dense_schedule
    assert model_at(own, None, Silent())[0].schedule == CHOSEN == own.schedule


@pytest.mark.slow
def test_another_candidate_is_picked(
    searched: Searched, data: Path, tmp_path: Path, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = searched(OTHER, CHOSEN, chosen=1)
    image = data / "disc" / "0.png"
    assert evaluate(folder, data, pick="0", progress=heard).schedule == "17x2,14x2"
    assert heard.said == [f"{folder} runs under 17x2,14x2, as `pick` 0 says"]
    assert explain(folder, image, tmp_path / "drawn", pick="fast").record["schedule"] == "17x2,14x2"  # type: ignore[index]
    with pytest.raises(ScheduleError, match="give one of them"):
        predict(folder, image, pick="0", schedule="dense")
    assert run("eval", folder, "--data", data, "--dense", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == "17x4"
    assert run("predict", folder, image, "--pick", "0") == 0
    assert capsys.readouterr().err == f"{folder} runs under 17x2,14x2, as --pick 0 says\n"
    quick = {"target": "torch:cpu:threads=1", "max_time": 0.05, "out": tmp_path / "bench"}
    for more, counts in (({}, CHOSEN), ({"pick": "0"}, OTHER), ({"schedule": "dense"}, TokenSchedule((17,) * 4))):
        (row,) = bench(folder, **quick, **more).rows
        assert row.schedule == counts
    with pytest.raises(ScheduleError, match="give one of them"):
        bench(folder, **quick, pick="0", schedule="dense")
