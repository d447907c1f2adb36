"""The watch on a made-up machine, whose disturbances are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tavt_kit.bench import noise as noise_module
from tavt_kit.bench.noise import Noise, Watch, gpu_state
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import MeasurementError
from tests.bench.machine import Machine

SECONDS, STEPS = 10.0, 15


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).write()


def watched(machine: Machine, happens: Callable[[Machine, float], None], paces: tuple[float, ...] = (1.0,)) -> Noise:
    """The verdict on ten seconds in which our own process is busy all the time.

    Args:
        machine: As it is before.
        happens: Changes the machine; told the share of the run that is over.
        paces: Of the fixed piece of work, in equal parts of the run.
    """
    now = 0.0
    watch = Watch(
        machine.root,
        cpus=(0,),
        now=lambda: now,
        pace=lambda: paces[min(int(now / SECONDS * len(paces)), -1 + len(paces))],
    )
    own, busy = machine.own, machine.busy[0]
    with watch:
        for step in range(1, STEPS + 1):
            now = SECONDS * step / STEPS
            machine.own, machine.busy[0] = own + now, busy + now
            happens(machine, step / STEPS)
            machine.write()
            watch.turn(now, ["dense"])
    return watch.verdict()


def nothing(machine: Machine, share: float) -> None:
    """A quiet machine: the other CPU is not ours."""
    machine.busy[1] = 50 + SECONDS * share


def test_a_quiet_machine_is_steady(machine: Machine) -> None:
    noise = watched(machine, nothing)
    assert noise == Noise("steady", (), ("stops by the control group",), noise.facts) and noise.is_steady
    assert noise.facts["others"] == pytest.approx(0, abs=0.02) and noise.facts["elsewhere"] == pytest.approx(
        1, abs=0.02
    )
    assert noise.facts["mhz_low"] == noise.facts["mhz_high"] == 3000  # not the other CPU's 9999
    assert noise.facts["seconds"] == SECONDS and noise.facts["pace"] == 1


def test_waited_children_are_our_own(machine: Machine) -> None:
    def happens(machine: Machine, share: float) -> None:
        machine.children = machine.own - 10
        machine.own = 10

    assert watched(machine, happens).is_steady


def others(machine: Machine, share: float) -> None:
    machine.busy[0] += 0.2 * SECONDS * share


def stolen(machine: Machine, share: float) -> None:
    machine.stolen = 0.3 * share


def preempted(machine: Machine, share: float) -> None:
    machine.preempted = (5, round(7 + 3000 * share))
    machine.busy[0] += 0.02 * SECONDS * share


def test_our_own_threads_may_take_turns(machine: Machine) -> None:
    def happens(machine: Machine, share: float) -> None:
        preempted(machine, share)
        machine.busy[0] -= 0.02 * SECONDS * share

    noise = watched(machine, happens)
    assert noise.is_steady and noise.facts["preempted"] == pytest.approx(300)


def heat(machine: Machine, share: float) -> None:
    machine.hot = 3 if share > 0.5 else 0


def clock(machine: Machine, share: float) -> None:
    machine.mhz = 2400 if share > 0.6 else 3000


def quota(machine: Machine, share: float) -> None:
    machine.quota(1.5, 4 + share)


def all_taken(machine: Machine, share: float) -> None:
    machine.busy[0] += SECONDS * share


@pytest.mark.parametrize(
    ("happens", "sentence"),
    [
        (all_taken, "other processes used 100 % of the time of the CPUs allowed"),
        (others, "other processes used 20 % of the time of the CPUs allowed"),
        (stolen, "the hypervisor kept the CPUs for others 3 % of the time"),
        (preempted, "threads were taken off their CPU 300 times a second of their work"),
        (heat, "CPUs were slowed for their heat 3 times"),
        (clock, "the clock moved between 2400 and 3000 MHz in the run"),
    ],
)
def test_a_disturbance_is_named(machine: Machine, happens: Callable[[Machine, float], None], sentence: str) -> None:
    noise = watched(machine, happens)
    assert noise.word == "unsteady" and noise.reasons == (sentence,)
    assert str(noise) == f"unsteady: {sentence}"


def test_stops_by_a_quota_are_those_of_the_run(machine: Machine) -> None:
    machine.quota(1.5, 4)
    noise = watched(machine, quota)
    assert noise.reasons == ("the control group's quota (1.5 CPUs) stopped the work 10 % of the time",)
    assert noise.unseen == ()


def test_a_clock_that_no_file_shows_is_found_by_a_fixed_piece_of_work(machine: Machine) -> None:
    noise = watched(machine, nothing, paces=(1.0, 1.0, 1.0, 1.2))
    assert noise.reasons == ("a fixed piece of work took up to 20 % longer at some times than at others",)


def test_a_short_dip_is_no_change_of_the_clock(machine: Machine) -> None:
    def dip(machine: Machine, share: float) -> None:
        machine.mhz = 1500 if share in (0.2, 0.6) else 3000

    assert watched(machine, dip).is_steady


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda step: (1980.0, False), ""),
        (lambda step: (1980.0 if step < 12 else 1200.0, False), "the GPU's clock moved between 1200 and 1980 MHz"),
        (lambda step: (1980.0, step == 7), "the GPU was slowed for heat or power"),
    ],
)
def test_a_gpu_that_is_slowed_is_unsteady(
    machine: Machine, state: Callable[[int], tuple[float, bool]], reason: str
) -> None:
    steps, now = iter(range(1000)), 0.0
    watch = Watch(machine.root, cpus=(0,), now=lambda: now, pace=lambda: 1.0, gpu=lambda: state(next(steps)))
    with watch:
        for _ in range(24):
            now += 0.5
            watch.turn()
    noise = watch.verdict()
    assert noise.is_steady == (not reason) and reason in str(noise)
    assert noise.facts["gpu_mhz_high"] == 1980


def test_what_a_machine_does_not_tell_is_listed(tmp_path: Path) -> None:
    watch = Watch(tmp_path, cpus=(0,), pace=lambda: 1.0)
    with watch:
        pass
    noise = watch.verdict()
    assert noise.word == "steady" and len(noise.unseen) == 7


def test_turns_in_quick_succession_cost_nothing(machine: Machine) -> None:
    asked = list[int]()
    watch = Watch(machine.root, cpus=(0,), now=lambda: 0.0, pace=lambda: asked.append(1) or 1.0)
    watch.__enter__()
    for _ in range(50):
        watch.turn()
    assert len(asked) == 1


def test_a_verdict_needs_a_block_that_is_over(machine: Machine) -> None:
    watch = Watch(machine.root)
    with pytest.raises(MeasurementError, match="after its block"):
        watch.verdict()


def test_a_verdict_survives_json(machine: Machine) -> None:
    noise = watched(machine, clock)
    assert Noise.from_record(json.loads(json.dumps(noise.as_record()))) == noise


def test_this_machine_can_be_watched() -> None:
    watch = Watch()
    with watch:
        watch.turn()
    noise = watch.verdict()
    assert noise.facts["cpus"] and all(noise.reasons) and noise.word in ("steady", "unsteady")


class DriverError(Exception):
    """Stands in for pynvml.NVMLError."""


def test_the_driver_tells_clock_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = SimpleNamespace(
        NVMLError=DriverError,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1755,
    )
    cuda = TargetDevice.parse("torch:cuda:0")
    for reasons, slowed in ((0x04, False), (0x20, True), (0x80 | 0x04, True)):
        nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle, reasons=reasons: reasons
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(noise_module, "find_spec", lambda name: name)
        read = gpu_state(cuda)
        assert read is not None and read() == (1755.0, slowed)
    assert gpu_state(TargetDevice.parse("torch:cpu")) is None

    def old(handle: object, kind: int) -> int:
        raise DriverError("Not Supported")

    nvml.nvmlDeviceGetClockInfo = old
    assert gpu_state(cuda) is None
