"""``doctor`` from Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tavt_kit.core.progress import Progress
from tavt_kit.errors import TargetError
from tavt_kit.workflows.doctor import TARGETS, doctor
from tests.workflows.told import Told


@pytest.fixture(autouse=True)
def a_machine_with_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for asking the runtimes, which would load all of them, and for measuring."""

    def check(target: object) -> None:
        if not str(target).startswith("torch:cpu"):
            raise TargetError(f"target {target} is not here; choose torch:cpu")

    def measure(usable: Sequence[str], progress: Progress) -> dict[str, Any]:
        progress.update("measuring something")
        return {"usable": list(usable)}

    monkeypatch.setattr("tavt_kit.runtimes.check_available", check)
    monkeypatch.setattr("tavt_kit.workflows.doctor.measure_speed", measure)


def test_what_can_be_used_is_measured_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    found = doctor(progress=told)
    assert capfd.readouterr() == ("", "")
    assert found.usable == ("torch:cpu",) and found.speed == {"usable": ["torch:cpu"]}
    assert told.done == ["measuring something"]
    assert repr(found).startswith("<doctor: torch:cpu usable, ")
    frame = found.to_frame()
    assert tuple(frame["target"]) == TARGETS and list(frame["usable"]) == [True] + [False] * (len(TARGETS) - 1)
    assert "is not here" in frame["reason"][1]
    assert json.loads(json.dumps(found.record, allow_nan=False))["targets"]["torch:cpu"] == {
        "usable": True,
        "reason": "",
    }


def test_a_fast_one_measures_nothing() -> None:
    found = doctor(fast=True)
    assert found.speed is None and found.record["speed"] is None
