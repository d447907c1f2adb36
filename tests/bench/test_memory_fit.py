"""Fitting peak memory: laws that are found, noise that is not taken for one, and targets that cannot tell."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from tavt_kit.bench.memory_fit import fit_memory
from tavt_kit.bench.schedule_memory import ScheduleMemory, refuse_untold
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.memory_fit import MemoryFit, gene_terms, memory_terms
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TargetError

TARGET = TargetDevice("openvino", "cpu", threads=1, batch=8)
ENDS = TokenSchedule((197,) * 12), TokenSchedule((2,) * 12)


class Meter:
    """A made-up law with a little noise; remembers what it was asked."""

    def __init__(self, *law: float, noise: float = 0.0) -> None:
        self.law, self.noise, self.asked = law, noise, list[tuple[str, TokenSchedule]]()

    def __call__(self, purpose: str, schedule: TokenSchedule) -> tuple[int, ...]:
        self.asked.append((purpose, schedule))
        terms = memory_terms(schedule, 197)
        chance = random.Random(f"{purpose} {schedule}")
        level = sum(a * b for a, b in zip(self.law, terms, strict=True))
        times = 3 if purpose == "end" else 1
        return tuple(round(level + chance.uniform(-self.noise, self.noise)) for _ in range(times))


def fitted(meter: Meter) -> MemoryFit:
    return fit_memory(meter, TARGET, name="toy", ends=ENDS, prefix=1)


def test_a_law_is_found_through_noise() -> None:
    meter = Meter(320e6, 15e6, 5e6, 20e6, noise=1e6)
    fit = fitted(meter)
    assert (fit.fixed, fit.choosing, fit.doubling, fit.widest) == pytest.approx(meter.law, rel=0.25)
    assert fit.worst_error is not None and 0 < fit.worst_error < 0.01 and len(fit.held_out) == 4
    assert 0 < fit.repeated <= 2e6 and MemoryFit.from_record(fit.as_record()) == fit
    schedules = [schedule for _, schedule in meter.asked]
    assert len(schedules) == len(set(schedules)) <= 15 and schedules[:2] == list(ENDS)
    assert {one.schedule for one in fit.held_out}.isdisjoint(one.schedule for one in fit.points)


def test_the_law_of_other_sizes_and_fewer_layers_is_found() -> None:
    """Images of 101 tokens instead of 197, and up to four layers less."""

    def size_of(schedule: TokenSchedule) -> int:
        return 101 if schedule.counts[0] <= 101 else 197

    def measured(purpose: str, schedule: TokenSchedule) -> tuple[int, ...]:
        plain, genes = memory_terms(schedule, 197, size_of(schedule)), gene_terms(schedule, 197, size_of(schedule))
        law = zip((320e6, 15e6, 5e6, 20e6, -30e6, -8e6), (*plain, *genes), strict=True)
        return (round(sum(a * b for a, b in law)),)

    def without(layers: int, count: int) -> TokenSchedule:
        return TokenSchedule((count,) * 12, tuple(range(12 - layers)))

    fit = fit_memory(
        measured, TARGET, name="toy", ends=ENDS, prefix=1, at_size=size_of,
        further=[without(0, 101), without(2, 197), without(4, 197), without(4, 101)],
        varied=lambda schedule, rng: without(int(rng.integers(5)), 101),
    )  # fmt: skip
    assert (fit.smaller, fit.absent) == pytest.approx((-30e6, -8e6), rel=0.01) and not fit.is_constant
    assert len(fit.held_out) == 4 and fit.worst_error == pytest.approx(0.0, abs=1e-6)
    assert all(one.schedule.counts[0] == 101 for one in fit.held_out)


@pytest.mark.parametrize("seed", range(3))
def test_absent_layers_let_no_noise_of_token_counts_in(seed: int) -> None:
    def measured(purpose: str, schedule: TokenSchedule) -> tuple[int, ...]:
        chance = random.Random(f"{seed} {purpose} {schedule} {schedule.executed}")
        return (round(290e6 - 10e6 * gene_terms(schedule, 197)[1] + chance.uniform(-6e6, 6e6)),)

    further = [TokenSchedule((197,) * 12, tuple(range(12 - fewer))) for fewer in (1, 2, 3, 4)]
    fit = fit_memory(measured, TARGET, name="toy", ends=ENDS, prefix=1, further=further)
    assert fit.choosing == fit.doubling == fit.widest == 0.0
    assert fit.absent == pytest.approx(-10e6, rel=0.3) and not fit.is_constant


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_law(seed: int) -> None:
    fit = fitted(Meter(290e6 + seed, 0.0, 0.0, 0.0, noise=12e6))
    assert fit.is_constant and fit.fixed == pytest.approx(290e6, rel=0.04) and fit.slack > 0.01


def test_an_exact_law_and_a_tiny_model() -> None:
    fit = fitted(Meter(540e6, 0.0, 0.0, 0.0))
    assert fit.is_constant and fit.fixed == 540e6 and fit.slack == 0
    ends = TokenSchedule((5, 5)), TokenSchedule((2, 2))
    tiny = fit_memory(Meter(50e6, 0.0, 0.0, 0.0), TARGET, name="tiny", ends=ends, prefix=1)
    assert tiny.predict(ends[1]) == 50e6


@pytest.mark.parametrize(
    ("target", "says"),
    [("onnxruntime:cuda", "allocator"), ("openvino:gpu", "allocator")],
)
def test_targets_that_cannot_tell_are_refused(target: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        refuse_untold(TargetDevice.parse(target))


@pytest.mark.slow
@pytest.mark.parametrize("target", [
    "torch:cpu:threads=1", "openvino:cpu:threads=1", "onnxruntime:cpu:threads=1",
    "openvino:cpu:threads=1:precision=int8", "onnxruntime:cpu:threads=1:precision=int8",
])  # fmt: skip
def test_schedules_of_a_model_are_measured_on_every_runtime(
    tmp_path_factory: pytest.TempPathFactory, target: str
) -> None:
    from tavt_kit.checkpoints import load_model
    from tests.verbs.tiny import write_run

    model = load_model(write_run(tmp_path_factory.mktemp("memory") / "run"))
    device = TargetDevice.parse(target)
    with closing(ScheduleMemory(model, device)) as peak:
        found = peak(TokenSchedule((17, 9, 9, 5)), 2)
    assert len(found) == 2 and all(20e6 < one < 2e9 for one in found)
