"""Whether a budget can be met, told before an image is looked at."""

from __future__ import annotations

import pytest

from tavt_kit.budget import Budget
from tavt_kit.errors import BudgetError, BudgetTooTight
from tavt_kit.search.feasibility import Costs, check_reachable, reach_of, refuse_unsearchable
from tavt_kit.search.space import Space

SPACE = Space(tokens=101, layers=4)
COSTS = Costs(
    macs=lambda schedule: 1_000_000 * sum(schedule.counts),
    latency_ms=lambda schedule: 1.0 + sum(schedule.counts) / 100,
    tails={"p90": 1.1},
)


def test_table() -> None:
    budget = Budget.parse(["latency=3ms", "latency[p50]=1.02ms", "flops=500M", "top1=50%"])
    rows = reach_of(SPACE, COSTS, budget, slack=0.03)
    assert [str(row.limit) for row in rows] == ["latency=3ms", "latency[p50]=1.02ms", "flops=500M"]
    assert rows[0].least == pytest.approx(1.08 * 1.1) and rows[0].dense == pytest.approx(5.04 * 1.1)
    assert [row.reachable for row in rows] == [True, False, True]
    assert [row.note for row in rows] == [
        "within reach",
        "out of reach; the nearest feasible is latency[p50]=1.1ms",
        "dense keeps to it already",
    ]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("flops=5M", "flops=8M"), ("latency[p50]=1ms", "latency[p50]=1.1ms"), ("latency=0.2ms", "latency=1.2ms")],
)
def test_infeasible_names_the_nearest_which_is_feasible(text: str, nearest: str) -> None:
    with pytest.raises(BudgetTooTight, match="the nearest feasible budget is") as caught:
        check_reachable(reach_of(SPACE, COSTS, Budget.parse([text])))
    named = str(caught.value).rsplit(" ", 1)[1]
    assert named == nearest
    check_reachable(reach_of(SPACE, COSTS, Budget.parse([named])))


def test_slack_is_for_predictions_only() -> None:
    fits = COSTS.fits(Budget.parse(["latency[p50]=1.06ms"]), slack=0.03)
    assert fits(SPACE.least)
    assert not COSTS.fits(Budget.parse(["flops=7.9M"]), slack=0.03)(SPACE.least)


@pytest.mark.parametrize(
    "text", ["memory=1GB", "size=3MB", "throughput=5/s", "macro_f1=50%", "recall[a]=50%", "latency[e2e]=5ms"]
)
def test_limits_not_acted_on_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="not yet a search constraint"):
        refuse_unsearchable(Budget.parse([text]))


def test_latency_needs_a_target() -> None:
    with pytest.raises(BudgetError, match="needs a target"):
        reach_of(SPACE, Costs(macs=COSTS.macs), Budget.parse(["latency=3ms"]))
