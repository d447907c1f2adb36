"""The end of an allowed time."""

from __future__ import annotations

import math

import pytest

from tavt_kit.core.progress import Deadline
from tavt_kit.errors import ParameterError


def test_what_is_left_falls_to_nothing_and_no_further() -> None:
    now = [100.0]
    deadline = Deadline(60.0, clock=lambda: now[0])
    assert deadline.left() == 60 and deadline.left(keep=0.4) == pytest.approx(36)
    now[0] = 130.0
    assert deadline.spent == 30 and deadline.left() == 30 and deadline.left(keep=0.4) == pytest.approx(6)
    now[0] = 161.0
    assert deadline.left() == 0 and deadline.left(keep=0.4) == 0


def test_without_an_end_there_is_always_time() -> None:
    assert Deadline().left() == Deadline().left(keep=0.9) == math.inf


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_no_time_at_all_is_refused(seconds: float) -> None:
    with pytest.raises(ParameterError, match="above 0"):
        Deadline(seconds)
