"""What only a GPU has, against the CPU: its kernels, compiled forms and recorded graphs. OpenVINO is not needed."""

from __future__ import annotations

import numpy as np
import pytest

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError
from tavt_kit.models.token_reduction import REDUCTIONS, SCORES
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes import open_module
from tests.runtimes.models import SHAPE, images, tiny_vit

pretended = pytest.mark.gpu(pretended=True)
MODES = [
    pytest.param(mode, score, reduction, marks=(pretended,) if mode == "eager" else (pretended, pytest.mark.slow))
    for mode in ("eager", "graph")
    for score in SCORES
    for reduction in REDUCTIONS
]


@pytest.mark.parametrize(
    ("mode", "score", "reduction"), [*MODES, pytest.param("compile", "column", "drop", marks=pytest.mark.gpu)]
)
def test_every_mode_answers_as_the_cpu_does(mode: str, score: str, reduction: str) -> None:
    model = tiny_vit()
    model.score, model.reduction = score, reduction
    module = LeanViT(model, TokenSchedule.parse("17x1,9x2", model.layout))
    plain = open_module(module, TargetDevice.parse("torch:cpu"), SHAPE)
    session = open_module(module, TargetDevice.parse(f"torch:cuda:0:mode={mode}"), SHAPE)
    for seed in range(3):  # a graph reads what is put in its place, not what it was recorded with
        np.testing.assert_allclose(session(images(seed=seed)), plain(images(seed=seed)), atol=1e-3)
    assert session.timer(images())() > 0 and (session.compile_ms is None) == (mode == "eager")
    if mode == "eager":
        np.testing.assert_allclose(session(images(3)), plain(images(3)), atol=1e-3)
    if mode == "graph":
        with pytest.raises(DataError, match=r"\(1, 3, 32, 32\), got \(2,"):
            session(images(2))
