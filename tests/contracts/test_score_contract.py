"""The contract of a score, over every one that is registered and one that another package brings."""

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
from tavt_kit.models.token_reduction import REDUCTIONS, SCORES, Score, attention_map
from tavt_kit.models.wrap import LeanViT, wrap
from tests.contracts import zoo
from tests.contracts.test_export_routes import _agrees
from tests.parameters import few


def strongest(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """The most attention that any query of any head gives to a token: a score of another package."""
    return attention_map(q, k, bias, scale).amax(dim=2).amax(dim=1)


THEIRS = Score(strongest)
NAMES = [*SCORES, "strongest"]
every_score = pytest.mark.parametrize("score", NAMES)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("strongest", f"{__name__}:THEIRS", "tavt_kit.scores")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("kind", "score"),
    [  # the own ones are asked of every kind elsewhere, too
        pytest.param(kind, score, marks=pytest.mark.slow if kind != "plain" and score in SCORES else ())
        for kind in ("plain", "dinov2_registers", "beit", "rope", "parallel_things")
        for score in NAMES
    ],
)
def test_every_path_keeps_the_same_tokens_and_costs_what_is_counted(score: str, kind: str, reduction: str) -> None:
    adaptive = wrap(zoo.build(kind), score, reduction=reduction)
    x = zoo.images(adaptive.bare, 3)
    with torch.inference_mode():
        assert torch.equal(adaptive(x), adaptive.bare(x)), "nothing to drop: the model itself"
        n = adaptive.tokens
        adaptive.schedule = TokenSchedule((n, n - 2, n - 2, n - 5))
        plain, kept = adaptive.forward_kept(x)
        assert [place.shape[1] for place in kept] == list(adaptive.schedule.counts)
        assert not kept[-1].diff(dim=1).le(0).any(), "in ascending position"
        torch.testing.assert_close(adaptive.forward_lean(x), plain, atol=1e-5, rtol=1e-5)
        alone, kept_alone = adaptive.forward_kept(x[:1])
        assert all(torch.equal(one, all_[:1]) for one, all_ in zip(kept_alone, kept, strict=True))
        torch.testing.assert_close(alone, plain[:1], atol=1e-5, rtol=1e-5)
    assert count_macs(adaptive) == count_pass(LeanViT(adaptive), zoo.images(adaptive.bare, 1))
    logits = adaptive.train()(x)
    logits.sum().backward()
    gradients = [weight.grad for weight in adaptive.parameters() if weight.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("suffix", few([".onnx", ".xml"], ".onnx"))
@pytest.mark.parametrize("score", few(NAMES, "cls"))
def test_an_exported_file_keeps_the_same_tokens(score: str, suffix: str, tmp_path: Path) -> None:
    _agrees("plain", suffix, tmp_path, (1, 5), score)


def test_scores_choose_differently_and_an_unknown_one_is_one_sentence() -> None:
    model, chosen = zoo.build("plain"), dict[str, Tensor]()
    for score in NAMES:
        adaptive = wrap(model, score)
        adaptive.schedule = TokenSchedule((17, 9, 9, 9))
        with torch.inference_mode():
            chosen[score] = adaptive.forward_kept(zoo.images(model, 8))[1][-1]
    assert not any(torch.equal(chosen[one], chosen[other]) for one in NAMES for other in NAMES if one < other)
    with pytest.raises(UnknownName, match="score must be one of column, cls, strongest, got 'colum'"):
        wrap(model, "colum")
