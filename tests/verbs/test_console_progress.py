"""Progress where stderr is no terminal: a line now and then, however long one step takes."""

from __future__ import annotations

import time

import pytest

from tavt_kit.verbs import console
from tavt_kit.verbs.console import ConsoleProgress, clock_text
from tavt_kit.verbs.live import FitProgress
from tavt_kit.workflows.fit import FitStage


def test_a_long_step_is_told_again_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "EVERY", 0.05)
    with ConsoleProgress() as progress:
        time.sleep(0.12)  # nothing is done yet, and nothing said
        progress.update("timing the parts", 0.4)
        time.sleep(0.4)
        progress.stage("training", 20, done=5)
        progress.advance(3)
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    timing = [line for line in lines if line == "0:00 timing the parts, 40%"]
    assert 2 <= len(timing) <= 9 and lines[0] == timing[0]
    assert "training, 8 of 20" in "\n".join(lines[len(timing) :])
    before = len(lines)
    time.sleep(0.15)
    assert not capsys.readouterr().err and before  # it ends with the work


def test_nothing_is_repeated_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleProgress() as progress:
        progress.update("a moment", 0.5)
        progress.say("Done.")
    assert capsys.readouterr().err == "Done.\n"


def test_a_fit_says_what_it_does_and_ends_without_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "EVERY", 0.05)
    with FitProgress() as progress:
        progress.show(FitStage("fine-tune"))
        progress.stage("finetune", 20)
        progress.advance(3)
        time.sleep(0.2)
        progress.show(object())  # what a stage itself gives is for those who call it alone
        progress.show(FitStage("fine-tune", 7.0))
        progress.say("A sentence.")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert set(lines) == {"== fine-tune", "0:00 finetune, 3 of 20", "   7 s", "A sentence.", "0:00 fine-tune"}


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65, "1:05"), (7265, "2:01:05")])
def test_a_time_as_a_clock_has_it(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
