"""torch's other modes: compiled, recorded as a CUDA graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TargetError
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes import open_module
from tests.runtimes.models import SHAPE, images, tiny_vit


def lean() -> LeanViT:
    model = tiny_vit()
    return LeanViT(model, TokenSchedule.parse("17x1,9x2", model.layout))


def test_a_module_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **more: object) -> object:
        raise RuntimeError("no compiler\nand so on")

    monkeypatch.setattr(torch, "compile", lambda module, **how: broken)
    with pytest.raises(TargetError, match="cannot compile LeanViT here: no compiler; choose mode=eager"):
        open_module(lean(), TargetDevice.parse("torch:cpu:threads=1:mode=compile"), SHAPE)


@pytest.mark.slow
def test_compiled_it_answers_as_it_is() -> None:
    module = lean()
    plain = open_module(module, TargetDevice.parse("torch:cpu:threads=1"), SHAPE)
    session = open_module(module, TargetDevice.parse("torch:cpu:threads=1:mode=compile"), SHAPE)
    np.testing.assert_allclose(session(images()), plain(images()), atol=1e-5)
    assert session.compile_ms is not None and 100 < session.compile_ms <= session.load_ms
    run = session.timer(images())
    assert max(run() for _ in range(5)) < session.compile_ms / 2  # compiled once, whatever the way it is called
