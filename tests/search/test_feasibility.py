"""Whether a budget can be met, told before an image is looked at."""

from __future__ import annotations

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.layout import TokenLayout
from tavt_kit.errors import BudgetError, BudgetTooTight
from tavt_kit.search.feasibility import COSTS as REGISTERED
from tavt_kit.search.feasibility import Costs, feasibility_table, refuse_unsearchable, require_feasible
from tavt_kit.search.objectives import Objectives
from tavt_kit.search.space import Space

SPACE = Space(TokenLayout(101, 4), minimum=2)
COSTS = Costs(
    macs=lambda schedule: 1_000_000 * sum(schedule.counts),
    latency_ms=lambda schedule: 1.0 + sum(schedule.counts) / 100,
    quantile_ratios={"p90": 1.1},
)


@pytest.mark.parametrize("name", REGISTERED)
def test_a_registered_cost_orders_schedules_and_can_be_an_objective(name: str) -> None:
    cost, kind = REGISTERED[name], Objectives.parse([name]).cost
    least, dense = (cost.of(COSTS, schedule, None) for schedule in (SPACE.least, SPACE.dense))
    assert cost.kind == kind and (least > dense if name == "throughput" else least < dense)
    if not cost.is_timed:
        assert cost.of(Costs(COSTS.macs), SPACE.dense, None) == dense, "known without a target"


def test_table() -> None:
    budget = Budget.parse(["latency=3ms", "latency[p50]=1.02ms", "flops=500M", "top1=50%"])
    rows = feasibility_table(SPACE, COSTS, budget, tolerance=0.03)
    assert [str(row.limit) for row in rows] == ["latency=3ms", "latency[p50]=1.02ms", "flops=500M"]
    assert rows[0].least == pytest.approx(1.08 * 1.1) and rows[0].dense == pytest.approx(5.04 * 1.1)
    assert [row.reachable for row in rows] == [True, False, True]
    assert [row.note for row in rows] == [
        "within reach",
        "out of reach; the nearest feasible is latency[p50]=1.08ms",
        "dense keeps to it already",
    ]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("flops=5M", "flops=8M"),
        ("latency[p50]=1ms", "latency[p50]=1.08ms"),
        ("latency=0.2ms", "latency=1.19ms"),
        ("throughput=1000/s", "throughput=925/s"),
    ],
)
def test_infeasible_names_the_nearest_which_is_feasible(text: str, nearest: str) -> None:
    with pytest.raises(BudgetTooTight, match="the nearest feasible budget is") as caught:
        require_feasible(feasibility_table(SPACE, COSTS, Budget.parse([text])))
    named = str(caught.value).rsplit(" ", 1)[1]
    assert named == nearest
    require_feasible(feasibility_table(SPACE, COSTS, Budget.parse([named])))


def test_slack_is_for_predictions_only() -> None:
    fits = COSTS.fits(Budget.parse(["latency[p50]=1.06ms"]), tolerance=0.03)
    assert fits(SPACE.least)
    assert not COSTS.fits(Budget.parse(["flops=7.9M"]), tolerance=0.03)(SPACE.least)


def test_nearest_is_rounded_finely() -> None:
    costs = Costs(macs=lambda schedule: 14_020_000 + 10_000 * (schedule.counts[0] - 2))
    row = feasibility_table(SPACE, costs, Budget.parse(["flops=1M"]))[0]
    assert row.nearest == "flops=14.1M" and row.dense > 14.1e6


def test_throughput_is_of_a_batch_and_a_floor_on_cost() -> None:
    target = TargetDevice("torch", "cpu", batch=8)
    costs = Costs(macs=COSTS.macs, latency_ms=COSTS.latency_ms, target=target)
    row = feasibility_table(SPACE, costs, Budget.parse(["throughput=3000/s"]))[0]
    assert row.reachable and row.least == pytest.approx(8000 / 1.08) and row.dense == pytest.approx(8000 / 5.04)
    fits = costs.fits(Budget.parse(["throughput=3000/s"]))
    assert fits(SPACE.least) and not fits(SPACE.dense)
    assert costs.fits(Budget.parse([f"throughput={8000 / 5.04 * 1.02}/s"]), tolerance=0.03)(SPACE.dense)


@pytest.mark.parametrize(("text", "says"), [("size=3MB", "int8"), ("memory=300MB", "fgvc-kit bench")])
def test_limits_that_no_schedule_keeps_or_breaks_are_refused(text: str, says: str) -> None:
    with pytest.raises(BudgetError, match=f"no limit for a search.*{says}"):
        refuse_unsearchable(Budget.parse([text]))


def test_latency_needs_a_target() -> None:
    with pytest.raises(BudgetError, match="needs a target"):
        feasibility_table(SPACE, Costs(macs=COSTS.macs), Budget.parse(["latency=3ms"]))
