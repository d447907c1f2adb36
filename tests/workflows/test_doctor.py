"""``doctor`` from Python."""

from __future__ import annotations

import json

import pytest

from tavt_kit.core.device import RUNTIMES
from tavt_kit.errors import TargetError
from tavt_kit.workflows.doctor import doctor


@pytest.fixture(autouse=True)
def a_machine_with_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for asking the runtimes, which would load all of them."""

    def check(target: object) -> None:
        if not str(target).startswith("torch:cpu"):
            raise TargetError(f"target {target} is not here; choose torch:cpu")

    monkeypatch.setattr("tavt_kit.runtimes.check_available", check)


def test_what_can_be_used_is_found_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    found = doctor()
    assert capfd.readouterr() == ("", "")
    assert found.usable == ("torch:cpu",)
    assert repr(found).startswith("<doctor: torch:cpu usable, ")
    frame = found.to_frame()
    assert {text.partition(":")[0] for text in frame["target"]} == set(RUNTIMES)
    assert list(frame["usable"]) == [True] + [False] * (len(frame) - 1)
    assert "is not here" in frame["reason"][1]
    assert json.loads(json.dumps(found.record, allow_nan=False))["targets"]["torch:cpu"] == {
        "usable": True,
        "reason": "",
    }
