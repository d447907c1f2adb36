"""The examples run, and say what their texts promise."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_pim_over_any_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "pim_over_any_backbone.py"), run_name="__main__")
    cnn, vit = re.split(r"\n(?=deit3)", capsys.readouterr().out)
    assert "nothing to drop" in cnn and "taper 0.2: 0.43 GMACs" in vit
    for said in (cnn, vit):
        assert float(re.search(r"batch 3: (\S+) of the largest logit", said)[1]) < 1e-4  # type: ignore[index]
