"""One contract, every registered reduction, those of other packages included."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tavt_kit.core import registry
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import UnknownName
from tavt_kit.models.costs import count_pass
from tavt_kit.models.flops import count_macs
from tavt_kit.models.token_reduction import REDUCTIONS, Pick, Reduction, gather_rows, keep_best
from tavt_kit.models.wrap import LeanViT, wrap
from tests.contracts import zoo
from tests.contracts.test_export_routes import _agrees
from tests.parameters import few

SCHEDULE = TokenSchedule((17, 12, 9, 6))
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def into_the_best(patches: Tensor, scores: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
    """What leaves goes into the first of those that stay, whatever it resembles."""
    kept = keep_best(scores, pick.count - pick.prefix, 0, pick.selection)
    rows = torch.arange(scores.shape[1], device=scores.device)
    stays = kept.unsqueeze(2) == rows  # (B, m, n)
    return kept, stays.float().argmax(dim=1)


INTO_THE_BEST = Reduction(into_the_best)


@every_reduction
def test_with_nothing_to_reduce_it_is_the_model_itself(reduction: str) -> None:
    model = zoo.build("plain")
    with torch.inference_mode():
        images = zoo.images(model, 2)
        assert torch.equal(wrap(model, reduction=reduction)(images), model(images))


@every_reduction
def test_every_path_keeps_as_many_tokens_and_costs_what_is_counted(reduction: str) -> None:
    _holds(reduction)


def _holds(reduction: str) -> None:
    model = zoo.build("plain")
    adaptive = wrap(model, reduction=reduction)
    adaptive.schedule = SCHEDULE
    images = zoo.images(model, 3)
    with torch.inference_mode():
        logits, kept = adaptive.forward_kept(images)
        torch.testing.assert_close(LeanViT(adaptive)(images), logits, atol=1e-5, rtol=0)
        assert [places.shape[1] for places in kept] == list(SCHEDULE.counts)
        assert all(bool((places.diff(dim=1) > 0).all()) for places in kept), "ascending, so each is kept once"
        if adaptive.merges:
            _, owners = adaptive.forward_owned(images)
            for places, owner in zip(kept, owners, strict=True):
                assert torch.equal(gather_rows(owner, places), places), "what stays owns itself"
                assert all(set(one.tolist()) <= set(own.tolist()) for one, own in zip(owner, places, strict=True))
    assert count_macs(adaptive, SCHEDULE) == count_pass(LeanViT(adaptive), images[:1])


@pytest.mark.parametrize("suffix", few([".onnx", ".xml"], ".onnx"))
@every_reduction
def test_an_exported_file_agrees(reduction: str, suffix: str, tmp_path: Path) -> None:
    _agrees("plain", suffix, tmp_path, (1, 5), reduction=reduction)


def test_another_package_brings_a_reduction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="reduction must be one of drop, merge, got 'best'"):
        wrap(zoo.build("plain"), reduction="best")
    point = EntryPoint("best", f"{__name__}:INTO_THE_BEST", "tavt_kit.reductions")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    _holds("best")
    _agrees("plain", ".onnx", tmp_path, (1, 5), reduction="best")
