from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.host import HostFacts
from tavt_kit.errors import TargetError
from tavt_kit.workflows import doctor
from tavt_kit.workflows.doctor import Finding, Room
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
    assert (answer["schema"], answer["version"]) == ("fgvc-kit/doctor", 2)
    assert set(answer["targets"]) >= {"torch:cpu", "torch:cuda", "onnxruntime:tensorrt", "openvino:npu"}
    assert answer["targets"]["openvino:cpu"] == {"usable": True, "reason": ""}
    refused = answer["targets"]["torch:cuda"]
    assert not refused["usable"] and "needs a device [that] is not here" in refused["reason"]
    assert answer["host"]["packages"]["torch"] and answer["host"]["cores"] >= 1
    assert answer["room"]["cache"]
    assert all(one["what"] and one["command"] for one in answer["findings"])


def test_the_table_says_why_a_target_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    out = " ".join(printed.split())
    assert "torch:cpu" in out and "needs a device [that] is not here" in out and "None" not in out
    assert "avx2" in out or "asimd" in out
    assert max(len(line) for line in printed.splitlines() if "    " not in line[:4]) <= 80


def test_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = "sudo do-it " + "x" * 120
    monkeypatch.setattr(doctor, "findings", lambda *machine: [Finding("a [b] is gone", command, optional=True)])
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert f"    {command}\n" in out and "optional: a [b] is gone" in out


@dataclass(frozen=True)
class Machine:
    """Where to look."""

    facts: HostFacts
    room: Room
    refused: Mapping[str, str]
    root: Path


def findings(machine: Machine) -> list[Finding]:
    return doctor.findings(machine.facts, machine.room, machine.refused, machine.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which all is well, as far as its files say."""
    facts = replace(HostFacts.gather(), quota=None, affinity=(0, 1, 2, 3), governor=None)
    room = Room(2**34, 2**33, None, "/cache", 2**35, True, 2**32)
    return Machine(facts, room, {}, tmp_path)


def put(machine: Machine, path: str, text: str = "") -> None:
    (machine.root / path).parent.mkdir(parents=True, exist_ok=True)
    (machine.root / path).write_text(text, encoding="ascii")


def test_where_all_is_well_nothing_is_found(machine: Machine) -> None:
    assert findings(machine) == []


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"cache_writable": False}, "export FGVC_KIT_CACHE=/a/folder/of/yours"),
        ({"cache_free": 5 * 10**6}, "export FGVC_KIT_CACHE=/a/folder/with/space"),
        ({"shared": 64 * 2**20}, "sudo mount -o remount,size=1g /dev/shm"),
    ],
)
def test_too_little_room(machine: Machine, change: dict[str, Any], command: str) -> None:
    (found,) = findings(replace(machine, room=replace(machine.room, **change)))
    assert found.command == command and not found.optional


def test_a_quota_below_the_cpus_in_sight(machine: Machine) -> None:
    (found,) = findings(replace(machine, facts=replace(machine.facts, quota=2.5)))
    assert found.command.endswith("threads=2") and "2.5" in found.what


def test_devices_that_no_runtime_sees(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = dict.fromkeys(("torch:cuda", "onnxruntime:cuda", "openvino:gpu", "openvino:npu"), "no")
    machine = replace(machine, refused=refused)
    assert findings(machine) == []  # nothing to see
    put(machine, "sys/class/drm/renderD128/device/vendor", "0x1002\n")
    assert findings(machine) == []  # of another maker
    put(machine, "sys/class/drm/renderD129/device/vendor", "0x8086\n")
    put(machine, "sys/class/accel/accel0/device/vendor", "0x8086\n")
    assert [one.command for one in findings(machine)] == [
        "sudo apt-get install intel-opencl-icd",
        "sudo snap install intel-npu-driver",
    ]
    put(machine, "dev/dri/renderD129")
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "usermod" in findings(machine)[0].command
    assert findings(replace(machine, refused={})) == []  # they are seen


def test_an_nvidia_gpu_that_torch_does_not_see(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    put(machine, "dev/nvidia0")
    found = findings(replace(machine, refused={"torch:cuda": "no", "onnxruntime:cuda": "no"}))
    assert [one.optional for one in found] == [False, True, True]
    assert "torch>=2.6" in found[0].command and found[1].command == "pip install onnxruntime-gpu"
    assert found[2].command == "pip install nvidia-ml-py"


def test_torch_that_cannot_be_used_is_missing(machine: Machine) -> None:
    (found,) = findings(replace(machine, refused={"torch:cpu": "needs the torch package"}))
    assert not found.optional and found.command.startswith("pip install 'torch")


def test_what_makes_measuring_unsure_is_optional(machine: Machine) -> None:
    (found,) = findings(replace(machine, facts=replace(machine.facts, governor="powersave")))
    assert found.optional and "cpupower" in found.command


def test_room_of_a_made_up_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path / "not" / "yet"))
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:  500 kB\nHugePages_Total:  0\n")
    room = Room.gather(tmp_path)
    assert (room.memory, room.memory_free, room.memory_limit) == (2_048_000, 512_000, None)
    assert room.cache_writable and room.cache_free and room.shared is None
