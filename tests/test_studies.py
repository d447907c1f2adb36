"""The studies run; what they found on a real machine is in the docs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[1] / "examples" / "studies"


@pytest.mark.slow
def test_training_feed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--model", "test_vit", "--image-size", "64", "--batch", "4", "--pictures", "40", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["training_feed.py", *flags, "--updates", "1", "--rounds", "1"])
    runpy.run_path(str(STUDIES / "training_feed.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("| files |") == said.count("| cache |") == 6 and "step alone" in said
