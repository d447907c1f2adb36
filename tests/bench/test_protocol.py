"""The protocol against sessions whose times are made up, so that what it should find is known."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from tavt_kit.bench import Protocol, bench, paired_ratio, random_images
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import MeasurementError
from tavt_kit.runtimes.session import InputShape

IMAGES = random_images((1, 3, 4, 4), np.random.default_rng(0))
QUICK = Protocol(min_seconds=1.0, max_seconds=6.0, visit_seconds=0.1)


class Fake:
    """A session that takes as long as a script says."""

    input_shape: InputShape = (None, 3, 4, 4)
    load_ms = 7.0

    def __init__(self, next_ms: Callable[[], float], log: list[str] | None = None, name: str = "", batch: int = 1):
        self.target = TargetDevice("torch", "cpu", batch=batch)
        self.next_ms, self.log, self.name = next_ms, log, name

    def __call__(self, images: np.ndarray) -> np.ndarray:
        raise AssertionError("timing runs timers")

    def timer(self, images: np.ndarray) -> Callable[[], float]:
        def run() -> float:
            if self.log is not None:
                self.log.append(self.name)
            return self.next_ms()

        return run


class Machine:
    """Noise shared by all sessions: levels that last for about a hundred milliseconds of work, and jitter."""

    def __init__(self, seed: int, level: float = 1.0, jitter: float = 0.01) -> None:
        self.rng, self.size, self.jitter = np.random.default_rng(seed), level, jitter
        self.now, self.until, self.level = 0.0, 0.0, 1.0

    def takes(self, ms: float) -> Callable[[], float]:
        def next_ms() -> float:
            if self.now >= self.until:
                self.until = self.now + self.rng.uniform(500, 3000)
                self.level = 1 + self.size * float(self.rng.random())
            found = ms * self.level * float(1 + self.jitter * self.rng.random())
            self.now += found
            return found

        return next_ms


def test_a_quiet_machine_is_steady_and_right() -> None:
    machine = Machine(0, level=0.0)
    found = bench({"a": Fake(machine.takes(10.0)), "b": Fake(machine.takes(20.0))}, IMAGES, QUICK)
    for name, ms in (("a", 10.0), ("b", 20.0)):
        one = found[name]
        assert one.steady and one.n >= 30 and sum(one.samples) >= 1000
        assert one.median == pytest.approx(ms * 1.005, rel=0.005)
        assert one.load_ms == 7.0 and one.first_ms == pytest.approx(ms, rel=0.02) and one.warmup >= 10
    assert paired_ratio(found["b"], found["a"]).value == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_on_a_noisy_machine_twins_are_equal_and_a_planted_slowdown_is_found(seed: int) -> None:
    machine = Machine(seed, level=1.0)
    sessions = {"one": Fake(machine.takes(8.0)), "twin": Fake(machine.takes(8.0)), "slow": Fake(machine.takes(8.8))}
    found = bench(
        sessions,
        IMAGES,
        Protocol(min_seconds=5.0, max_seconds=10.0, visit_seconds=0.1),
        rng=np.random.default_rng(seed),
    )
    twins = paired_ratio(found["twin"], found["one"])
    assert twins.value == pytest.approx(1.0, abs=0.03)
    slow = paired_ratio(found["slow"], found["one"])
    assert slow.value == pytest.approx(1.1, abs=0.03) and slow.low > 1.0
    assert not any(one.steady for one in found.values())  # the medians themselves are not sure, and it says so


def test_turns_are_interleaved_in_an_order_that_the_seed_decides() -> None:
    def order(seed: int) -> list[str]:
        log = list[str]()
        sessions = {name: Fake(lambda: 50.0, log, name) for name in "abc"}
        bench(
            sessions,
            IMAGES,
            Protocol(min_seconds=2.0, max_seconds=9.0, visit_seconds=0.1),
            rng=np.random.default_rng(seed),
        )
        return log[30 + 3 :]  # after warm-up: a first run and ten more each

    log = order(0)
    turns = [log[i : i + 4] for i in range(0, len(log), 4)]  # one untimed run and three timed ones
    assert all(len(set(turn)) == 1 for turn in turns)
    rounds = [tuple(turn[0] for turn in turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds) and len(set(rounds)) > 2
    assert order(0) == log and order(1) != log


def test_the_first_run_of_a_turn_is_not_counted() -> None:
    log = list[str]()
    state = {"last": ""}

    def script(name: str) -> Callable[[], float]:
        def next_ms() -> float:
            switched, state["last"] = state["last"] != name, name
            return 500.0 if switched else 20.0

        return next_ms

    found = bench({name: Fake(script(name), log, name) for name in "ab"}, IMAGES, QUICK)
    assert max(found["a"].samples) == 20.0 and found["a"].first_ms == 500.0


def test_slow_candidates_get_few_runs_fast_ones_many_and_rounds_stay_paired() -> None:
    found = bench({"fast": Fake(lambda: 1.0), "slow": Fake(lambda: 400.0)}, IMAGES, Protocol(max_seconds=20.0))
    assert len(found["fast"].rounds) == len(found["slow"].rounds)
    assert set(found["slow"].rounds) == {3} and set(found["fast"].rounds) == {300}
    assert found["slow"].n == 30 and found["fast"].steady


def test_what_is_never_sure_ends_unsteady_at_its_time() -> None:
    machine = Machine(3, level=0.0, jitter=4.0)
    found = bench({"a": Fake(machine.takes(10.0)), "b": Fake(lambda: 10.0)}, IMAGES, QUICK)
    assert not found["a"].steady and 6.0 <= sum(found["a"].samples) / 1e3 < 6.5
    assert found["b"].steady


def test_progress_tells_who_is_not_sure() -> None:
    told = list[tuple[str, ...]]()
    bench({"a": Fake(lambda: 30.0)}, IMAGES, QUICK, on_round=lambda seconds, unsure: told.append(tuple(unsure)))
    assert told[0] == ("a",) and told[-1] == () and len(told) > 3


def test_constant_images_and_other_batches_are_refused() -> None:
    with pytest.raises(MeasurementError, match="constant images"):
        bench({"a": Fake(lambda: 1.0)}, np.zeros((1, 3, 4, 4), np.float32), QUICK)
    with pytest.raises(MeasurementError, match="batches of 4, but got a batch of 1"):
        bench({"a": Fake(lambda: 1.0, batch=4)}, IMAGES, QUICK)
    with pytest.raises(MeasurementError, match="min_seconds <= max_seconds"):
        Protocol(min_seconds=5, max_seconds=1)
    with pytest.raises(MeasurementError, match="at least 2 runs"):
        Protocol(min_runs=1)


def test_each_candidate_may_have_images_of_its_own() -> None:
    small = random_images((1, 3, 2, 2), np.random.default_rng(0))
    found = bench({"a": Fake(lambda: 9.0), "b": Fake(lambda: 9.0)}, {"a": IMAGES, "b": small}, QUICK)
    assert list(found) == ["a", "b"]


def test_the_garbage_collector_rests_meanwhile_and_comes_back() -> None:
    seen = list[bool]()

    def broken() -> float:
        seen.append(gc.isenabled())
        raise RuntimeError("a bug in a runtime")

    with pytest.raises(RuntimeError):
        bench({"a": Fake(broken)}, IMAGES, QUICK)
    assert seen == [False] and gc.isenabled()
