"""The space of schedules: its size, its codec, and what mending makes of any numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError
from tavt_kit.search.space import Space


@pytest.mark.parametrize(
    "space",
    [
        Space(TokenLayout(5, 3)),
        Space(TokenLayout(5, 3, token_pooled=False)),
        Space(TokenLayout(9, 4, prefix=5)),
        Space(TokenLayout(10, 3), minimum=7),
        Space(TokenLayout(4, 2, prefix=0)),
    ],
)
def test_lists_exactly_the_schedules_there_are(space: Space) -> None:
    rows = list(space.every())
    schedules = [space.decode(row) for row in rows]
    assert len(rows) == len(set(schedules)) == space.size
    assert schedules[0] == space.dense and schedules[-1] == space.least
    for row, schedule in zip(rows, schedules, strict=True):
        schedule.check(space.layout)
        assert (space.encode(schedule) == row).all()
        assert not space.layout.token_pooled or schedule == schedule.canonical()
        assert set(schedule.counts) <= set(space.values.tolist())


def test_a_minimum_of_all_tokens_leaves_dense_alone() -> None:
    assert Space(TokenLayout(9, 3), minimum=9).size == 1


def test_sixteen_patches_stay_or_half_unless_told_otherwise() -> None:
    assert [Space(TokenLayout(tokens, 3, prefix=5)).low for tokens in (69, 37, 25, 7)] == [21, 21, 15, 6]
    space = Space(TokenLayout(69, 3, prefix=5))
    assert space.holding([TokenSchedule((69, 40, 9))]).low == 9 and space.holding([space.dense]) is space


@pytest.mark.parametrize("seed", range(20))
def test_mends_anything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = TokenLayout(int(rng.integers(3, 300)), int(rng.integers(2, 13)))
    space = Space(layout)
    rows = space.mend(rng.normal(0, 2 * len(space.values), size=(10, space.genes)))
    for row in [*rows, space.sample(rng)]:
        assert (space.encode(space.decode(row)) == row).all()


def test_random_schedules_are_of_all_kinds() -> None:
    space, rng = Space(TokenLayout(197, 12)), np.random.default_rng(0)
    drawn = [space.decode(space.sample(rng)) for _ in range(400)]
    drops = [len(set((197, *schedule.counts))) - 1 for schedule in drawn]
    assert min(drops) <= 1 and max(drops) >= 8
    ends = [schedule.counts[-1] for schedule in drawn]
    assert min(ends) < 20 and max(ends) > 180


@pytest.mark.parametrize(
    ("layout", "grid", "says"),
    [
        (TokenLayout(1, 4), {}, "2 tokens or more"),
        (TokenLayout(9, 1), {}, "count matters"),
        (TokenLayout(9, 4), {"minimum": 1}, "within 2..9"),
        (TokenLayout(9, 4, prefix=5), {"minimum": 5}, "within 6..9"),
        (TokenLayout(9, 4), {"minimum": 10}, "within 2..9"),
    ],
)
def test_refuses(layout: TokenLayout, grid: dict[str, int], says: str) -> None:
    with pytest.raises(ScheduleError, match=says):
        Space(layout, **grid)


def test_encode_refuses_other_models() -> None:
    with pytest.raises(ScheduleError):
        Space(TokenLayout(9, 4)).encode(TokenSchedule((9, 9)))
    with pytest.raises(ScheduleError, match="skip"):
        Space(TokenLayout(9, 4)).encode(TokenSchedule((9, 9, 9, 9), executed=(0, 1, 2)))
