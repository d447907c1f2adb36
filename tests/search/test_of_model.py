"""A search in five lines of Python, and its front as a frame."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.budget import Budget
from tavt_kit.data import inherit_split, load_images
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import BudgetError, DataError, MissingDependency, RecordError
from tavt_kit.models.wrap import wrap
from tavt_kit.search import Progress, front_frame, search, search_model
from tavt_kit.search.finalists import confirm
from tavt_kit.search.record import front_body, write_front
from tests.search.test_final import Machine
from tests.search.toy import COSTS, SPACE, answers
from tests.verbs.tiny import write_images, write_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("of_model")
    write_images(folder / "data", each=30)
    write_run(folder / "run")
    return folder


def test_five_lines(place: Path) -> None:
    told: list[Progress] = []
    model = load_model(place / "run")
    found = search_model(model, place / "data", budget=["flops=450K"], evaluations=20, on_progress=told.append)
    frame = front_frame(found)
    assert len(told) == 20 and told[3].candidate == found.candidates[3]
    assert list(frame["macs"]) == [one.macs for one in found.front] and frame["macs"].max() <= 450_000
    assert list(frame["top1"]) == [one.metric for one in found.front] and (frame["n"] == 18).all()
    assert frame["schedule"][0] == str(found.front[0].schedule) and frame["median"].isna().all()


def test_the_split_of_a_run_is_kept(place: Path, tmp_path: Path) -> None:
    run, images = write_run(tmp_path / "run"), load_images(str(place / "data"), seed=5)
    inherit_split(run, images)
    model, told = load_model(run), list[Progress]()
    search_model(model, run, evaluations=1, on_progress=told.append)
    again = search_model(model, images, evaluations=1)
    assert told[0].candidate == again.dense
    with pytest.raises(DataError):
        search_model(model, place / "run")  # a run without images


def test_metrics_and_bounds(place: Path) -> None:
    model = wrap(load_model(place / "run").unwrap())
    preprocessing = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    found = search_model(
        model, place / "data", objectives=["recall[disc]", "loss", "macs"], algorithm="random", evaluations=12,
        budget=["macro_f1=1%"], limit=12, preprocessing=preprocessing,
    )  # fmt: skip
    frame = front_frame(found)
    assert {"recall[disc]", "likelihood", "macro_f1", "top1"} <= set(frame.columns)
    assert (frame["n"] == 4).all()
    with pytest.raises(DataError, match="no card"):
        search_model(model, place / "data")
    with pytest.raises(DataError, match="limit asks for 19"):
        search_model(model, place / "data", limit=19, preprocessing=preprocessing)
    with pytest.raises(BudgetError, match="needs a target"):
        search_model(model, place / "data", budget=["latency=3ms"], preprocessing=preprocessing)
    write_images(place / "two", each=4, classes=("disc", "square"))
    for given in (model, load_model(place / "run")):
        with pytest.raises(DataError, match="classes"):
            search_model(given, place / "two", preprocessing=preprocessing)


def test_frame_of_a_run_folder(tmp_path: Path) -> None:
    budget = Budget.parse(["latency=8ms"])
    result = search(SPACE, answers, costs=COSTS, budget=budget, evaluations=30)
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.0), number=3)
    write_front(tmp_path, front_body(result, final, model={}, budget=budget, target=COSTS.target, seed=0))
    for given in (tmp_path, str(tmp_path / "front.json")):
        frame = front_frame(given)
        assert list(frame["p90"]) == [one.cost("p90") for one in final.candidates]
        assert list(frame["counts"]) == [one.schedule.counts for one in final.candidates]
    with pytest.raises(RecordError):
        front_frame(tmp_path / "absent")


def test_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependency, match="pip install pandas"):
        front_frame({"metric": "top1", "candidates": []})
