"""The front of a search as a frame."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.core.records import write_record
from tavt_kit.errors import MissingDependency, RecordError
from tavt_kit.search import front_frame, search
from tavt_kit.search.finalists import confirm
from tavt_kit.search.record import FRONT_FILE, front_body
from tests.search.test_final import Machine
from tests.search.toy import COSTS, MACS_ONLY, SPACE, answers


def test_frame_of_a_result() -> None:
    found = search(SPACE, answers, costs=MACS_ONLY, budget=Budget.parse(["flops=3M"]), evaluations=20)
    frame = front_frame(found)
    assert found.dense.accuracy is not None
    assert list(frame["macs"]) == [one.macs for one in found.front] and frame["macs"].max() <= 3e6
    assert list(frame["top1"]) == [one.metric for one in found.front] and (frame["n"] == found.dense.accuracy.n).all()
    assert frame["schedule"][0] == str(found.front[0].schedule) and frame["median"].isna().all()


def test_frame_of_a_run_folder(tmp_path: Path) -> None:
    budget = Budget.parse(["latency=8ms"])
    result = search(SPACE, answers, costs=COSTS, budget=budget, evaluations=30)
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.0), number=3)
    body = front_body(result, final, model={}, budget=budget, target=COSTS.target, seed=0)
    write_record(tmp_path / FRONT_FILE, "front", body)
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
