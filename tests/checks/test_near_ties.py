"""Margins of the choice of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tavt_kit.checks.near_ties import NEAR_TIE, margins
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.token_reduction import Pick
from tavt_kit.models.wrap import wrap
from tests.contracts import zoo


def test_equal_patches_tie_and_noise_does_not() -> None:
    model = zoo.build("plain")
    with torch.no_grad():
        model.pos_embed.zero_()  # type: ignore[union-attr, operator]
    adaptive = wrap(model)
    images = zoo.images(model, 2)
    images[0] = 0.3
    found = margins(adaptive, TokenSchedule((17, 12, 9, 9)), images.numpy())
    assert found[0] < NEAR_TIE < found[1]


def test_dense_models_choose_nothing() -> None:
    model = zoo.build("plain")
    adaptive = wrap(model)
    assert margins(adaptive, adaptive.dense_schedule, zoo.images(model, 2).numpy()).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("score", ["column", "cls"])
@pytest.mark.parametrize("kind", ["deit_distilled", "eva02"])
def test_margins_are_those_of_the_scores_the_drop_uses(kind: str, score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build(kind)
    adaptive = wrap(model, score=score)
    images = zoo.images(model, 4)
    first = adaptive.tokens - 3
    adaptive.schedule = TokenSchedule((first, first, first - 2, first - 2))
    seen: list[tuple[np.ndarray, int]] = []
    index = Pick.index

    def recorded(self: Pick, scores: torch.Tensor) -> torch.Tensor:
        seen.append((scores.detach().numpy()[:, self.prefix :], int(self.count) - self.prefix))
        return index(self, scores)

    monkeypatch.setattr(Pick, "index", recorded)
    adaptive(images)
    monkeypatch.undo()
    assert len(seen) == 2
    expected = np.full(4, np.inf)
    for scores, kept in seen:
        ordered = -np.sort(-scores.astype(np.float64), axis=1)
        expected = np.minimum(expected, 1 - ordered[:, kept] / ordered[:, kept - 1])
    np.testing.assert_allclose(margins(adaptive, adaptive.schedule, images.numpy()), expected, rtol=1e-3, atol=1e-6)


def test_the_order_of_what_pim_selects_is_a_choice_too() -> None:
    """Where two places change their ranks when a logit moves by a little, the margin is as little."""
    torch.manual_seed(0)
    adaptive = wrap(zoo.ZOO["pim"]().eval())
    images = zoo.images(adaptive.bare, 3)
    found = margins(adaptive, adaptive.dense_schedule, images.numpy())
    with torch.inference_mode():
        _, logits = adaptive.bare.judge(adaptive.bare.levels(images))
    expected = np.full(3, np.inf)
    for level, count in zip(logits, adaptive.bare.num_selects, strict=True):
        surest = np.sort(level.double().softmax(2).amax(2).numpy(), axis=1)[:, ::-1]
        for rank in range(min(count, surest.shape[1] - 1)):
            expected = np.minimum(expected, 1 - surest[:, rank + 1] / surest[:, rank])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
