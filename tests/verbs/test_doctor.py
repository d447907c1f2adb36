from __future__ import annotations

import json

import pytest

from tavt_kit.errors import TargetError
from tavt_kit.verbs import doctor
from tests.verbs.command import run


@pytest.fixture(autouse=True)
def a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for asking the runtimes, which would load all of them."""

    def check(target: object) -> None:
        if ":cpu" not in str(target):
            raise TargetError(f"target {target} needs a device [that] is not here; choose torch:cpu")

    monkeypatch.setattr("tavt_kit.runtimes.check_available", check)


def test_json_names_every_target_and_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["version"]) == ("fgvc-kit/doctor", 1)
    assert set(answer["targets"]) == set(doctor.TARGETS)
    assert answer["targets"]["openvino:cpu"] == {"usable": True, "reason": ""}
    refused = answer["targets"]["torch:cuda:0"]
    assert not refused["usable"] and "needs a device [that] is not here" in refused["reason"]
    assert answer["host"]["packages"]["torch"] and answer["host"]["cores"] >= 1


def test_the_table_says_why_a_target_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "torch:cpu" in out and "[that]" in out and "None" not in out
