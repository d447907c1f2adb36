from __future__ import annotations

import pytest

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.common import SWEEP, schedule_sweep
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tests.contracts.zoo import ZOO


def test_the_ladder_reaches_ten_times_fewer_multiply_adds_by_the_mildest_taper() -> None:
    model = wrap(timm.create_model("vit_tiny_patch16_224", num_classes=5))
    ladder = schedule_sweep(model)
    assert set(ladder) == {*SWEEP, "3x fewer", "5x fewer", "10x fewer"}
    macs = {name: count_macs(model, schedule) for name, schedule in ladder.items()}
    assert list(macs.values()) == sorted(macs.values(), reverse=True) and list(ladder)[0] == "dense"
    for times in (3, 5, 10):
        assert 0.97 * macs["dense"] < times * macs[f"{times}x fewer"] <= macs["dense"]
    for name in SWEEP:
        assert ladder[name] == TokenSchedule.parse(name, TokenLayout(197, 12))
    # A thousandth milder would be too many multiply-adds.
    thirds = [TokenSchedule.taper(TokenLayout(197, 12), ratio / 1000) for ratio in range(1000)]
    assert ladder["3x fewer"] == next(each for each in thirds if 3 * count_macs(model, each) <= macs["dense"])
    assert schedule_sweep(model) == ladder


@pytest.mark.parametrize("name", ["vitaev2", "pim", "ffvt"])
def test_where_nothing_gets_so_low_the_ladder_ends_with_the_fewest_tokens(name: str) -> None:
    model = wrap(ZOO[name]())
    ladder = schedule_sweep(model)
    assert "10x fewer" not in ladder and list(ladder)[-1] == "fewest tokens"
    assert set(ladder["fewest tokens"].counts) == {max(2, model.prefix + 1)}
    assert 10 * count_macs(model, ladder["fewest tokens"]) > count_macs(model)
