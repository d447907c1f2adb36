from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tavt_kit.distill.fine_tune import fit_probe, set_head
from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap


def clouds(each: int, seed: int, noise: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three Gaussian clouds in 8 dimensions of very different scales, one of them constant."""
    centres = np.random.default_rng(0).standard_normal((3, 8)) * 2
    draws = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), each)
    points = (centres[labels] + noise * draws.standard_normal((3 * each, 8))) * 10.0 ** np.arange(-4, 4) + 5
    points[:, 3] = 7
    return points.astype(np.float32), labels.astype(np.int64)


def test_it_separates_what_can_be_separated_whatever_the_scales() -> None:
    train, val = clouds(60, 1, 0.3), clouds(40, 2, 0.3)
    probe = fit_probe(*train, *val, 3)
    logits = torch.from_numpy(val[0]) @ probe.weight.T + probe.bias
    right = int((logits.argmax(1).numpy() == val[1]).sum())
    assert right == probe.val_correct >= 118


def test_it_is_the_minimum_of_the_penalised_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tavt_kit.distill.fine_tune.PENALTIES", (0.01,))
    (x, y), val = clouds(40, 1), clouds(20, 2)
    probe = fit_probe(x, y, *val, 3)
    spread = torch.from_numpy(x).double().std(0, correction=0)
    spread[spread == 0] = 1.0
    standard = (torch.from_numpy(x).double() - torch.from_numpy(x).double().mean(0)) / spread
    weight = (probe.weight.double() * spread).requires_grad_()
    bias = (probe.bias.double() + probe.weight.double() @ torch.from_numpy(x).double().mean(0)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(standard @ weight.T + bias, torch.from_numpy(y))
    torch.autograd.backward(loss + 0.005 * weight.square().sum())
    assert weight.grad is not None and bias.grad is not None
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5


def test_val_alone_chooses_the_penalty_and_of_equals_the_strongest_wins() -> None:
    train, val = clouds(8, 1, 3.0), clouds(60, 2, 3.0)
    probe = fit_probe(*train, *val, 3)
    best = max(share for _, share in probe.tried)
    assert probe.val_correct == round(best * 180)
    assert probe.penalty == max(penalty for penalty, share in probe.tried if share == best)
    assert len({share for _, share in probe.tried}) > 1
    easy = fit_probe(*clouds(60, 1, 0.01), *clouds(10, 2, 0.01), 3)
    assert easy.penalty == max(penalty for penalty, _ in easy.tried)


def test_the_same_features_give_the_same_bits() -> None:
    train, val = clouds(30, 1), clouds(10, 2)
    first, second = fit_probe(*train, *val, 3), fit_probe(*train, *val, 3)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_a_class_without_images_is_never_guessed() -> None:
    (x, y), val = clouds(30, 1), clouds(10, 2)
    probe = fit_probe(x, y, *val, 4)
    logits = torch.from_numpy(val[0]) @ probe.weight.T + probe.bias
    assert probe.weight.shape == (4, 8) and 3 not in logits.argmax(1)


def test_features_that_are_not_finite_are_refused() -> None:
    (x, y), val = clouds(10, 1), clouds(10, 2)
    x[3, 2] = np.nan
    with pytest.raises(TrainingError, match="finite"):
        fit_probe(x, y, *val, 3)


@pytest.mark.parametrize("name", ["test_vit", "deit_tiny_distilled_patch16_224", "vit_base_patch16_siglip_224"])
def test_the_head_gives_the_probes_logits(name: str) -> None:
    size = {"embed_dim": 64, "depth": 2, "num_heads": 2} if name != "test_vit" else {}
    model = wrap(timm.create_model(name, img_size=32, num_classes=5, **size)).eval()
    draws = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 64, generator=draws), torch.randn(5, generator=draws)
    set_head(model, weight, bias)
    images = torch.randn(3, 3, 32, 32, generator=draws)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.forward_pooled(images) @ weight.T + bias, atol=1e-4, rtol=1e-4)


def test_a_head_of_another_size_is_refused(make_model: Callable[..., AdaptiveViT]) -> None:
    with pytest.raises(UnsupportedBackbone, match=r"\(5, 64\)"):
        set_head(make_model(), torch.zeros(5, 64), torch.zeros(5))
