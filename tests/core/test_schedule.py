from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError

OFFICIAL_TAPER = (628, 503, 403, 323, 259, 208, 167, 134, 108, 87, 70, 56)


def test_taper_is_tavts_lower_gene() -> None:
    assert TokenSchedule.taper(TokenLayout(785, 12), ratio=0.2).counts == OFFICIAL_TAPER


def test_taper_never_goes_below_a_prefix_and_one_patch() -> None:
    assert TokenSchedule.taper(TokenLayout(21, 12, 5), 0.9).counts[-1] == 6
    assert TokenSchedule.taper(TokenLayout(16, 12, 0), 0.9).counts[-1] == 2


@pytest.mark.parametrize(
    ("text", "layers", "counts"),
    [
        ("curve:2:8:0.25", 12, "65x2,57,49,41,33,25,17x5"),
        ("curve:2:8:0.25:2", 12, "65x2,64,60,53,44,32,17x5"),
        ("curve:0:99:1", 12, "65x12"),
        ("diffrate:2", 12, "65,59,53,47,38,32,27,20,17x4"),
        ("diffrate:1.5", 6, "65,59,48,37,17x2"),
        ("diffrate:1.5", 24, "65x4,64,63,61,59,55,52,50,48,45,42,39,37,34,32,24,17x5"),
    ],
)
def test_curves_by_name(text: str, layers: int, counts: str) -> None:
    layout = TokenLayout(65, layers)
    schedule = TokenSchedule.parse(text, layout)
    assert str(schedule) == counts and TokenSchedule.parse(counts, layout) == schedule


def test_a_curve_of_few_patches_keeps_them_all() -> None:
    assert str(TokenSchedule.parse("curve:0:2:0.1", TokenLayout(10, 3))) == "10x3"


@pytest.mark.parametrize(
    ("tokens", "layers", "ratio", "prefix", "text"),
    [(197, 12, 0.3, 1, "197x3,138x3,97x3,68x3"), (65, 6, 0.5, 1, "65,33x2,17,9x2"), (9, 2, 0.9, 1, "2x2"),
     (21, 12, 0.9, 5, "21x3,6x9"), (9, 1, 0.5, 0, "5")],
)  # fmt: skip
def test_stages_drop_at_three_layers_by_the_rule_of_the_taper(
    tokens: int, layers: int, ratio: float, prefix: int, text: str
) -> None:
    schedule = TokenSchedule.parse(f"stages:{ratio}", TokenLayout(tokens, layers, prefix))
    assert schedule == TokenSchedule.stages(TokenLayout(tokens, layers, prefix), ratio) and str(schedule) == text


@given(st.lists(st.integers(2, 300), min_size=1, max_size=14).map(lambda c: tuple(sorted(c, reverse=True))))
def test_text_round_trip(counts: tuple[int, ...]) -> None:
    schedule = TokenSchedule(counts)
    again = TokenSchedule.parse(str(schedule), TokenLayout(counts[0], len(counts)))
    assert again == schedule


def test_numpy_integers_become_ints() -> None:
    counts = TokenSchedule(tuple(np.array([9, 5]))).counts
    assert all(type(count) is int for count in counts)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((90, 150), "layer 1 keeps 150 tokens, but only 90 reach it"),
        ((5, 1), "at least 2 must stay"),
        ((), "at least one layer"),
        ((5, 2.5), "whole numbers"),
        ((True, True), "whole numbers"),
        (("5",), "whole numbers"),
    ],
)
def test_bad_counts_are_refused(counts: tuple[object, ...], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        TokenSchedule(counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("197x4", "12 layers, but the schedule has 4"),
        ("197x13", "12 layers, but the schedule has 13"),
        ("197x999999999", "12 layers, 197 tokens"),
        ("9" * 5000, "12 layers, 197 tokens"),
        ("300x12", "197 tokens, but layer 0 keeps 300"),
        ("150x4,190x8", "only 150 reach it"),
        ("197x11,1", "at least 2"),
        ("sparse", "a schedule is 'dense'"),
        ("taper:a lot", "taper:0.2"),
        ("taper:1", "at least 0 and below 1"),
        ("taper:nan", "at least 0 and below 1"),
        ("stages:some", "stages needs a ratio such as 'stages:0.2'"),
        ("curve:3", r"a curve is 'curve:START:STOP:END\[:POWER\]'"),
        ("curve:a:b:c", "got 'curve:a:b:c'"),
        ("curve:5:3:0.2", "stops behind its start"),
        ("curve:1:3:0", "at a share above 0"),
        ("curve:1:3:nan", "got 'curve:1:3:nan'"),
        ("curve:1:3:0.5:0", "a power above 0"),
        ("diffrate:3", "published curves are 'diffrate:1.5', 'diffrate:2', 'diffrate:2s', got 'diffrate:3'"),
        ("stages:1.5", "at least 0 and below 1"),
        ("steps:0.2", "a schedule is 'dense', 'taper:0.2', 'stages:0.5'"),
        ("197x-2", "a schedule is"),
        ("", "a schedule is"),
    ],
)
def test_bad_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        TokenSchedule.parse(text, TokenLayout(197, 12))


def test_the_prefix_must_stay() -> None:
    with pytest.raises(ScheduleError, match="5 prefix tokens and one patch"):
        TokenSchedule.parse("21x11,5", TokenLayout(21, 12, 5))


def test_skipped_layers_repeat_the_count_before() -> None:
    assert TokenSchedule((9, 9, 5), executed=(0, 2)).runs(1) is False
    with pytest.raises(ScheduleError, match="does not run"):
        TokenSchedule((9, 5, 5), executed=(0, 2))
    with pytest.raises(ScheduleError, match="ascending"):
        TokenSchedule((9, 9), executed=(1, 0))


def test_canonical_repeats_the_count_before_the_last() -> None:
    assert TokenSchedule((9, 7, 3)).canonical() == TokenSchedule((9, 7, 7))
    assert TokenSchedule((9,)).canonical() == TokenSchedule((9,))
