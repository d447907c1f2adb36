"""Distillation over every kind of backbone that can drop: it learns, nothing is blurred, and dense stays the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.losses import divergence, pim_loss
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.sandwich import sandwich_step
from tavt_kit.errors import TrainingError
from tavt_kit.models.prefix_sharing import batch_norms
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.contracts.zoo import ZOO, images
from tests.parameters import few

FAMILIES = ("plain", "deit_distilled", "parallel_scaling", "relative_table", "rope_mixed", "no_class_token",
            "ffvt", "transfg", "pim", "pim_sum", "vitae", "vitae_class_token", "vitaev2")  # fmt: skip
"""Mix-ViT's pure model is "plain" once it is fine-tuned: what mixes tokens is in no run."""
each_family = pytest.mark.parametrize("name", few(FAMILIES, "plain", "ffvt", "pim", "vitae"))
WITH_NORMS = ("pim", "vitae", "vitaev2")


def fresh(name: str) -> AdaptiveViT:
    torch.manual_seed(0)
    return wrap(ZOO[name]())


def split(model: AdaptiveViT, batch: int = 6) -> tuple[Tensor, Tensor]:
    """Of three classes, told apart by their brightness."""
    labels = torch.arange(batch) % 3
    return 0.3 * images(model.bare, batch) + (labels - 1.0)[:, None, None, None], labels


@each_family
def test_a_few_steps_lower_the_loss_and_dense_stays_the_bare_forward(name: str) -> None:
    model = fresh(name)
    x, labels = split(model)
    sampler = Sampler(model.layout, bound=0.5, random=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    losses = []
    for number in range(8):
        _, subs = sampler.draw(np.random.default_rng(number))
        step = sandwich_step(model, x, labels, subs)
        losses.append(step.loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.8 * losses[0], losses
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), model.bare(x))


@each_family
def test_gradients_are_those_of_the_sum(name: str) -> None:
    """Shared layers and separate backward passes against one expression of plain passes, differentiated at once."""
    model = fresh(name).double().train()
    x, labels = (each.double() if each.is_floating_point() else each for each in split(model))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for norm in batch_norms(model):  # as a distillation step has them
        norm.eval()
    subs = [TokenSchedule.taper(model.layout, ratio) for ratio in (0.4, 0.15)]
    step = sandwich_step(model, x, labels, subs)
    ours = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    full = _outputs(model, model.dense_schedule, x)
    total = (
        pim_loss(full.named, labels)
        if name.startswith("pim")
        else torch.nn.functional.cross_entropy(full.logits, labels)
    )
    if name == "transfg":
        total = total + step.full["contrastive"].requires_grad_(False)
    for sub in subs:
        total = total + divergence(_outputs(model, sub, x).logits, full.logits)
    torch.autograd.backward(total / 3)
    assert step.loss.item() == pytest.approx(total.item() / 3, rel=1e-9)
    if name == "transfg":
        return
    theirs = [p.grad for p in model.parameters()]
    scale = max(float(g.abs().max()) for g in theirs if g is not None)
    for own, expected in zip(ours, theirs, strict=True):
        assert (own is None) == (expected is None)
        if own is not None and expected is not None:
            torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-9 * scale)


def _outputs(model: AdaptiveViT, schedule: TokenSchedule, x: Tensor):  # type: ignore[no-untyped-def]
    return model.outputs(model.advance(model.start(x), range(model.layers), schedule.counts))


@pytest.mark.parametrize("name", WITH_NORMS)
def test_batch_norms_answer_in_training_as_they_will_be_asked(name: str) -> None:
    """Every network is taught under the running statistics, which stay; afterwards the norms are as they were."""
    model = fresh(name).train()
    norms = batch_norms(model)
    start = {key: value.clone() for key, value in model.named_buffers()}
    subs = [TokenSchedule.taper(model.layout, ratio) for ratio in (0.6, 0.3)]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, labels = split(model, 4)
    step = sandwich_step(model, x, labels, subs)
    assert norms and all(norm.training for norm in norms)
    assert all(torch.equal(value, start[key]) for key, value in model.named_buffers())
    model.eval()
    with torch.no_grad():
        for schedule, logits in zip([model.dense_schedule, *subs], step.logits, strict=True):
            torch.testing.assert_close(logits, _outputs(model, schedule, x).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["transfg", "pim"])
def test_a_loss_that_reads_whole_labels_refuses_mixed_images(name: str) -> None:
    model = fresh(name)
    x, labels = split(model, 2)
    with pytest.raises(TrainingError, match="mixup"):
        sandwich_step(model, x, torch.nn.functional.one_hot(labels, 7).float(), [])
