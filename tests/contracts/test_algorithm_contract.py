"""One contract, every registered search algorithm, those of other packages included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search import ALGORITHMS, Outcome, Space
from tavt_kit.search.algorithms import make_algorithm
from tavt_kit.search.algorithms.base import Algorithm, AlgorithmOptions, RandomSearch

SPACE = Space(TokenLayout(33, 4))


def cost(schedule: Any) -> float:
    return float(sum(schedule.counts))


def made(name: str, seed: int = 0) -> Algorithm:
    return make_algorithm(
        name, SPACE, seed=seed, cost=cost, official_macs=lambda one: int(cost(one)), fits=lambda one: True
    )


def generations(algorithm: Algorithm, count: int) -> Iterator[list[Any]]:
    for _ in range(count):
        asked = algorithm.ask()
        yield asked
        if not asked:
            return
        algorithm.tell([Outcome(cost(one), one.counts[-1] / 33) for one in asked])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_contract(name: str) -> None:
    asked = list(generations(made(name), 3))
    flat = [one for generation in asked for one in generation]
    assert flat and len(set(flat)) == len(flat), "nothing is proposed twice"
    for schedule in flat:
        assert isinstance(schedule, TokenSchedule)
        schedule.check(SPACE.layout)
    assert asked == list(generations(made(name), 3)), "the same seed and answers give the same proposals"
    algorithm = made(name)
    first = algorithm.ask()
    assert all(algorithm.origin(one) for one in first)
    with pytest.raises(RuntimeError):
        algorithm.ask()
    with pytest.raises(RuntimeError):
        algorithm.tell([])


def test_another_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from tavt_kit.core import registry

    def of_ours(given: AlgorithmOptions) -> Algorithm:
        return RandomSearch(given.space, seed=given.seed, population=3)

    monkeypatch.setattr(f"{__name__}.of_ours", of_ours, raising=False)
    point = EntryPoint("mine", f"{__name__}:of_ours", "tavt_kit.algorithms")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    assert "mine" in ALGORITHMS and len(made("mine").ask()) == 3
