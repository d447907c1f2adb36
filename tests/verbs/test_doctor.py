from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.host import HostFacts
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import TargetError
from tavt_kit.verbs.doctor import _findings as print_findings
from tavt_kit.workflows import doctor
from tavt_kit.workflows.doctor import TARGETS, Finding, Room
from tests.verbs.command import run

SPEED: dict[str, Any] = {
    "peaks": [
        {"processor": "cpu", "threads": 1, "gflops": {"f32": 70.0, "bf16": 140.0, "int8": 1500.0},
         "by": {"f32": "torch", "bf16": "openvino", "int8": "openvino"}, "size": 1024, "copy_gbs": 11.2,
         "cached_gbs": 97.0, "gains": {"bf16": 2.0, "int8": 21.4}},
        {"processor": "cpu", "threads": 2, "gflops": {"f32": 130.0, "bf16": 132.0},
         "by": {"f32": "torch", "bf16": "openvino"}, "size": 1024, "copy_gbs": 20.1, "cached_gbs": None,
         "gains": {"bf16": 1.02}},
    ],
    "bf16_in_torch": False,
    "reference": {"model": "vit_small_patch16_224", "seconds": 4.0, "rows": [
        {"target": "torch:cpu:precision=f32:batch=1", "precision": "f32", "median": 81.25, "p90": 1234.5,
         "steady": True, "first_ms": 99.0, "load_ms": 15300.0},
        {"target": "openvino:cpu:precision=bf16:batch=1", "reason": "a reason [of] its own"}]},
    "noise": {"word": "unsteady", "reasons": ["other processes used 30 % of the time of the CPUs allowed"],
              "unseen": [], "facts": {}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for asking the runtimes, which would load all of them, and for measuring."""

    def check(target: object) -> None:
        if ":cpu" not in str(target):
            raise TargetError(f"target {target} needs a device [that] is not here; choose torch:cpu")

    def measure(usable: Sequence[str], progress: Progress) -> dict[str, Any]:
        assert list(usable) == ["torch:cpu", "openvino:cpu", "onnxruntime:cpu"]
        progress.update("something")
        return SPEED

    monkeypatch.setattr("tavt_kit.runtimes.check_available", check)
    monkeypatch.setattr("tavt_kit.workflows.doctor.measure_speed", measure)


def test_json_names_every_target_and_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["version"]) == ("fgvc-kit/doctor", 1)
    assert set(answer["targets"]) == set(TARGETS)
    assert answer["targets"]["openvino:cpu"] == {"usable": True, "reason": ""}
    refused = answer["targets"]["torch:cuda:0"]
    assert not refused["usable"] and "needs a device [that] is not here" in refused["reason"]
    assert answer["host"]["packages"]["torch"] and answer["host"]["cores"] >= 1
    assert answer["room"]["cache"] and answer["speed"] == SPEED
    assert all(one["what"] and one["command"] for one in answer["findings"])


def test_the_table_says_why_a_target_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--fast") == 0
    printed = capsys.readouterr().out
    out = " ".join(printed.split())
    assert "torch:cpu" in out and "needs a device [that] is not here" in out and "None" not in out
    assert "AVX2" in out or "NEON" in out
    assert "GFLOP/s" not in out  # nothing was measured
    assert max(len(line) for line in printed.splitlines() if "    " not in line[:4]) <= 80


def test_speeds_are_printed_with_what_they_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert "cpu: bf16 is 1.02x f32 (openvino over torch): not faster here, stay with f32\n" in printed
    assert "1500" in printed and "1234" in printed and "15.3" in printed and "e+" not in printed
    assert "trains and searches in f32" in printed and "a reason [of] its own" in " ".join(printed.split())
    assert "unsteady: other processes used 30 %" in printed


def test_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    command = "sudo do-it " + "x" * 120
    print_findings(Console(width=80), [Finding("a [b] is gone", command, optional=True)])
    out = capsys.readouterr().out
    assert f"    {command}\n" in out and "optional: a [b] is gone" in out


def test_gains_are_over_f32() -> None:
    assert doctor.precision_gains({"f32": 10.0, "bf16": 25.0}) == {"bf16": 2.5}
    assert doctor.precision_gains({"int8": 25.0}) == {}


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
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine on which all is well, as far as its files say."""
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=2.0"])
    facts = replace(HostFacts.gather(), quota=None, affinity=(0, 1, 2, 3), governor=None)
    room = Room(2**34, 2**33, None, "/cache", 2**35, True, 2**32, 20000, 20000, "RAPL")
    return Machine(facts, room, {}, tmp_path)


def put(machine: Machine, path: str, text: str = "") -> None:
    (machine.root / path).parent.mkdir(parents=True, exist_ok=True)
    (machine.root / path).write_text(text, encoding="ascii")


def test_where_all_is_well_nothing_is_found(machine: Machine) -> None:
    assert findings(machine) == []


def test_packages_and_extras_that_are_not_installed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["numpy>=2.0", "no-such-thing<3,>=2", 'nor-this; extra == "distributed"', "nor-that; extra == 'dev'",
              "elsewhere; sys_platform == 'never'"]  # fmt: skip
    monkeypatch.setattr(doctor, "requires", lambda name: listed)
    base, extra = findings(machine)
    assert base == Finding("not installed: no-such-thing<3,>=2", "pip install 'no-such-thing<3,>=2'")
    assert extra.command == "pip install 'tavt-kit[distributed]'" and extra.optional


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"files": 256, "files_most": 4096}, "ulimit -n 4096"),
        ({"files": 256, "files_most": -1}, "ulimit -n 65536"),
        ({"files": 256, "files_most": 256}, "sudo prlimit --pid $$ --nofile=65536"),
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
    refused = dict.fromkeys(("torch:cuda:0", "onnxruntime:cuda", "openvino:gpu", "openvino:npu"), "no")
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
    found = findings(replace(machine, refused={"torch:cuda:0": "no", "onnxruntime:cuda": "no"}))
    assert [one.optional for one in found] == [False, True, True]
    assert "torch>=2.6" in found[0].command and found[1].command == "pip install onnxruntime-gpu"
    assert found[2].command == "pip install nvidia-ml-py"


def test_what_makes_measuring_unsure_is_optional(machine: Machine) -> None:
    put(machine, "sys/class/powercap/intel-rapl:0/energy_uj")
    found = findings(replace(machine, facts=replace(machine.facts, governor="powersave")))
    assert all(one.optional for one in found) and len(found) == 2
    assert "cpupower" in found[0].command and "chmod" in found[1].command


def test_room_of_a_made_up_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path / "not" / "yet"))
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:  500 kB\nHugePages_Total:  0\n")
    room = Room.gather(tmp_path)
    assert (room.memory, room.memory_free, room.memory_limit) == (2_048_000, 512_000, None)
    assert room.cache_writable and room.cache_free and room.shared is None and "no RAPL" in room.energy


@pytest.mark.slow
def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    speed = doctor.measure_speed(["torch:cpu", "openvino:cpu", "onnxruntime:cpu"], Silent())
    assert all(row["gflops"]["f32"] > 0 for row in speed["peaks"])
    targets = {row["target"] for row in speed["reference"]["rows"] if row["median"] > 0}
    assert {"torch:cpu:precision=f32:batch=1", "onnxruntime:cpu:precision=f32:batch=1"} < targets
    assert json.dumps(speed, allow_nan=False)
