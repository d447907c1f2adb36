"""Fronts against brute force: what is held, what is turned away, and the area below."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.front import ParetoFront, dominates, hypervolume, knee
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError


def candidate(cost: int, right: int, n: int = 20, **fields: object) -> Candidate:
    accuracy = Accuracy.of_counts(right, n, split=str(fields.pop("split", "val")))
    return Candidate(TokenSchedule((9, 9)), cost, accuracy, **fields)  # type: ignore[arg-type]


def brute_force(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every point that no other dominates, by all pairs, each once, by rising cost."""
    free = {p for p in points if not any(dominates(q, p) for q in points)}
    return sorted(free)


@pytest.mark.parametrize("seed", range(500))
def test_holds_what_brute_force_holds(seed: int) -> None:
    rng = random.Random(seed)
    size, span = rng.randint(1, 30), rng.choice([3, 10, 1000])
    offered = [candidate(rng.randint(1, span), rng.randint(0, min(span, 20))) for _ in range(size)]
    front = ParetoFront("macs", offered)
    assert front.points() == brute_force([front.point(one) for one in offered])
    for held in front:  # of equals the first stays
        first = next(one for one in offered if front.point(one) == front.point(held))
        assert held is first


@pytest.mark.parametrize("seed", range(60))
def test_area_by_counting_cells(seed: int) -> None:
    rng = random.Random(seed)
    points = [(rng.randint(0, 12) / 10, rng.randint(0, 10) / 10) for _ in range(rng.randint(0, 8))]
    cells = sum(
        any(x <= i / 10 + 1e-9 and y >= (j + 1) / 10 - 1e-9 for x, y in points) for i in range(10) for j in range(10)
    )
    assert hypervolume(points) == pytest.approx(cells / 100)


def test_dominance_needs_one_better_axis_and_numbers() -> None:
    assert dominates((1, 0.9), (1, 0.8)) and dominates((1, 0.9), (2, 0.9)) and dominates((1, 0.9), (2, 0.8))
    assert not dominates((1, 0.9), (1, 0.9)) and not dominates((1, 0.8), (2, 0.9))
    assert not dominates((math.nan, 0.9), (1, 0.8)) and not dominates((1, 0.9), (1, math.nan))


def test_what_is_not_known_never_enters() -> None:
    front = ParetoFront("predicted")
    assert not front.add(candidate(1, 10))  # no predicted latency
    assert not front.add(Candidate(TokenSchedule((9, 9)), 1, None, 3.0))  # not evaluated
    assert not front.add(candidate(1, 10, latency_predicted_ms=math.nan))
    assert front.add(candidate(1, 10, latency_predicted_ms=3.0))
    assert len(front) == 1


def test_never_two_splits_or_targets() -> None:
    front = ParetoFront("macs", [candidate(5, 10)])
    with pytest.raises(RecordError, match="one metric, split and target"):
        front.add(candidate(1, 12, split="test"))
    here, there = TargetDevice("torch", "cpu", threads=1), TargetDevice("openvino", "cpu", threads=1)
    latencies = ParetoFront("predicted", [candidate(5, 10, latency_predicted_ms=1.0, target=here)])
    with pytest.raises(RecordError, match="openvino"):
        latencies.add(candidate(1, 12, latency_predicted_ms=0.5, target=there))


def test_hypervolume_relative_to_dense() -> None:
    front = ParetoFront("macs", [candidate(100, 16), candidate(50, 8)])
    assert front.hypervolume(candidate(100, 16)) == pytest.approx(0.5 * 0.4)  # dense itself touches the reference line
    assert hypervolume([]) == 0.0
    assert hypervolume([(math.nan, 0.5), (0.5, math.nan)]) == 0.0


def test_the_hypervolume_is_that_of_pymoo() -> None:
    from pymoo.indicators.hv import HV

    points = np.random.default_rng(2).uniform(0, 1.2, (25, 2))
    inside = points[(points < 1).all(1)]
    volume = hypervolume([(cost, 1 - loss) for cost, loss in points])
    assert volume == pytest.approx(HV(ref_point=np.ones(2))(inside))


def test_knee() -> None:
    assert knee([(1, 0.1)]) == 0
    assert knee([(1, 0.1), (2, 0.2)]) == 1
    assert knee([(1, 0.1), (2, 0.7), (3, 0.75), (9, 0.8)]) == 1
    with pytest.raises(RecordError, match="knee"):
        knee([])
