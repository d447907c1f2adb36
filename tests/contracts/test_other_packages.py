"""A model family of another package: its adapter is found by the name of the model's class, and keeps the contract."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, nn

from tavt_kit.core import registry
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones.timm_vit import TimmVit
from tavt_kit.models.wrap import LeanViT, wrap
from tests.contracts import zoo


class Theirs(nn.Module):
    """A model that no adapter of this package knows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = zoo.build("plain")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits


class Gone(Theirs):
    """One whose package is not there any more."""


def their_backbone(model: Theirs) -> TimmVit:
    return TimmVit(model.inner)


def _installed(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, "tavt_kit.backbones")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])


def test_another_package_brings_a_model_family(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Theirs().eval()
    with pytest.raises(UnsupportedBackbone, match="Theirs"):
        wrap(model)
    _installed(monkeypatch, "Theirs", f"{__name__}:their_backbone")
    adaptive = wrap(model).eval()
    images = zoo.images(model.inner, 2)
    with torch.inference_mode():
        assert torch.equal(adaptive(images), model(images)), "nothing to drop: the model itself"
        schedule = TokenSchedule.taper(adaptive.layout, 0.2)
        adaptive.schedule = schedule
        torch.testing.assert_close(LeanViT(adaptive, schedule)(images), adaptive(images))


def test_one_that_cannot_be_imported_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "Gone", "no_such_package:thing")
    with pytest.raises(UnknownName, match="no_such_package.*cannot be imported"):
        wrap(Gone())
