"""What a search tells while it runs, where stderr is no terminal: its first state, one in ten seconds, and its last."""

from __future__ import annotations

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search import Progress as SearchState
from tavt_kit.search.feasibility import Feasibility
from tavt_kit.verbs.live import SearchProgress
from tavt_kit.workflows.search import FeasibilityTable

DENSE = Candidate(TokenSchedule((5, 5)), 100)


def state(evaluations: int, replayed: bool = False) -> SearchState:
    return SearchState(evaluations, 9, 2, 0.5, None, 1.0, 65.0, replayed, DENSE)


def test_the_first_and_the_last_state_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with SearchProgress() as progress:
        for evaluations in (1, 2, 3):
            progress.show(state(evaluations))
        progress.say("then it measures")
        progress.show(state(4))
    line = "evaluations, front 2, hypervolume 0.5000, none within the budget yet, 1:05 left"
    assert capsys.readouterr().err.splitlines() == [f"1/9 {line}", f"3/9 {line}", "then it measures", f"4/9 {line}"]


def test_what_is_replayed_is_one_line_and_an_interruption_none(capsys: pytest.CaptureFixture[str]) -> None:
    with SearchProgress() as progress:
        for evaluations in (1, 2):
            progress.show(state(evaluations, replayed=True))
    assert capsys.readouterr().err.startswith("2/9 evaluations")
    with pytest.raises(KeyboardInterrupt), SearchProgress() as progress:
        progress.show(state(1, replayed=True))
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_feasibility_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    ceiling, floor = Budget.parse(["flops=3G", "top1=84%"])
    with SearchProgress() as progress:
        progress.show(FeasibilityTable((Feasibility(ceiling, 1e9, 9e9, True),), (floor,)))
    said = capsys.readouterr().err
    assert "within reach" in said and "top1=84%" in said and "known once images are looked at" in said
