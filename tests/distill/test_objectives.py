"""Objectives as steps, on small models; their golden steps are in tests/parity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.losses import (
    AttentionCall,
    balanced_weights,
    class_rollouts,
    make_step,
    shaping_loss,
    target_loss,
    token_distance,
)
from tavt_kit.distill.optimizer import attached, freeze
from tavt_kit.distill.options import Objective
from tavt_kit.errors import TrainingError
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import TokenState
from tavt_kit.models.wrap import AdaptiveViT, wrap

Make = Callable[..., AdaptiveViT]


def batch(model: AdaptiveViT, size: int = 4, soft: Tensor | None = None) -> Batch:
    draws = torch.Generator().manual_seed(3)
    images = torch.randn(size, 3, *model.backbone.image_size, generator=draws)
    return Batch(images, torch.arange(size) % 3, soft, np.arange(size))


def plain_vit(**options: object) -> AdaptiveViT:
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 3}
    return wrap(timm.create_model("vit_tiny_patch16_224", **{**shape, **options}))


def test_soft_targets_are_those_of_timms_mixup() -> None:
    """Smoothing on mixed targets is what timm's Mixup does with both."""
    logits, labels, share, smoothing = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), 0.3, 0.1
    mixed = share * F.one_hot(labels, 3).float() + (1 - share) * F.one_hot(labels.flip(0), 3).float()
    theirs = timm.data.mixup.mixup_target(labels, 3, share, smoothing)
    expected = -(theirs * logits.log_softmax(1)).sum(1).mean()
    ours = target_loss(logits, Batch(torch.empty(0), labels, mixed, np.arange(4)), smoothing)
    torch.testing.assert_close(ours, expected)


def test_balanced_weights_make_every_class_count_alike() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = balanced_weights(labels, 4)
    assert weights.tolist() == pytest.approx([6 / 12, 6 / 4, 6 / 8, 6 / 4])
    counts = torch.from_numpy(np.bincount(labels, minlength=4))
    assert (weights * counts)[:3].tolist() == pytest.approx([1.5] * 3)
    logits = torch.randn(6, 4)
    by_class = [F.cross_entropy(logits[labels == c], torch.from_numpy(labels[labels == c])) for c in range(3)]
    ours = target_loss(logits, Batch(torch.empty(0), torch.from_numpy(labels), None, labels), 0.0, weights)
    torch.testing.assert_close(ours, torch.stack(by_class).mean())


@pytest.mark.parametrize("frozen", [0, 2])
def test_terms_of_weight_0_are_not_computed_and_frozen_layers_have_no_graph(make_model: Make, frozen: int) -> None:
    model = make_model()
    freeze(model, frozen)
    step, branch = make_step(model, Objective("contrastive", {"contrastive": 0.0}), frozen=frozen)
    values = step(batch(model), np.random.default_rng(0), torch.autograd.backward)
    assert branch is None and set(values) == {"loss"}
    expected = F.cross_entropy(model(batch(model).images), batch(model).labels)
    assert values["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("reduction", ["drop", "merge"])
def test_features_stay_near_those_of_the_network_as_it_was(reduction: str) -> None:
    model = plain_vit()
    model.reduction, model.schedule = reduction, "17,9,5"
    images = batch(model)
    step, branch = make_step(model, Objective("features"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    values = step(images, np.random.default_rng(0), torch.autograd.backward)
    assert branch is None and values["loss"] == values["cross_entropy"] + values["features"] > values["cross_entropy"]
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.schedule = model.dense_schedule
    unchanged = make_step(model, Objective("features"))[0](images, np.random.default_rng(0), torch.autograd.backward)
    assert unchanged["features"] == 0


def test_a_merged_token_is_compared_with_the_mean_of_its_own() -> None:
    draws = torch.Generator().manual_seed(0)
    theirs, tokens = torch.randn(2, 5, 4, generator=draws), torch.randn(2, 3, 4, generator=draws)
    owner = torch.tensor([[0, 1, 1, 2, 1], [0, 0, 1, 2, 2]])
    wanted = [[theirs[i, [k for k in range(5) if owner[i, k] == row]].mean(0) for row in range(3)] for i in range(2)]
    by_loops = torch.stack([torch.stack(rows) for rows in wanted])
    expected = F.mse_loss(F.layer_norm(tokens, (4,)), F.layer_norm(by_loops, (4,)))
    torch.testing.assert_close(token_distance(TokenState(tokens, 1, owner=owner), theirs), expected)


def test_rollouts_are_products_of_whole_maps() -> None:
    draws = torch.Generator().manual_seed(0)
    calls = [AttentionCall(*(torch.randn(2, 3, 9, 4, generator=draws) for _ in "qk"), 0.5) for _ in range(4)]
    rows = columns = torch.eye(9)
    for call in calls:
        rows = call.logits().softmax(3) @ rows
        columns = call.logits().softmax(2) @ columns
    row, column = class_rollouts(calls)
    torch.testing.assert_close(row, rows[:, :, 0, 1:].mean(1))
    torch.testing.assert_close(column, columns[:, :, 1:, 0].mean(1))


def test_mixing_as_it_was_meant_replaces_patches_and_never_the_class_token() -> None:
    model = plain_vit()
    step, branch = make_step(model, Objective("mixvit_pure", mix_share=1.0))
    assert branch is not None and branch.mask_head.out_features == 16  # type: ignore[attr-defined, union-attr]
    seen: list[Tensor] = []
    branch.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(0)
    values = step(batch(model, 3), np.random.default_rng(0), torch.autograd.backward)
    state = model.advance(model.start(batch(model, 3).images), range(2), model.dense_schedule.counts)
    assert torch.equal(seen[0][:, 0], state.tokens[:, 0])
    # The first image has every patch of another one; a later one may get its own back.
    ranks = (seen[0][0, 1:, None] == state.tokens[1:, None, 1:]).all(3).any(2)  # (images, patches)
    assert ranks.all(1).any() and not (seen[0][0, 1:, None] == state.tokens[0, None, 1:]).all(2).any()
    assert set(values) == {"loss", "cross_entropy", "mask"}
    assert all(p.grad is not None for p in branch.parameters())


def test_a_branch_is_a_part_of_the_model_only_while_it_trains() -> None:
    model = plain_vit()
    before = list(model.state_dict())
    _, branch = make_step(model, Objective("mixvit_pure"))
    with pytest.raises(RuntimeError), attached(model, branch):
        assert any(name.startswith("training_branch.block.") for name, _ in model.named_parameters())
        assert list(model.unwrap().state_dict()) == list(model.state_dict()) != before
        raise RuntimeError
    assert list(model.state_dict()) == before == list(model.unwrap().state_dict())
    _, other = make_step(plain_vit(), Objective("mixvit_pure"))
    for mine, theirs in zip(branch.parameters(), other.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("objective", "model", "said"),
    [
        (Objective("pim"), plain_vit, "the loss pim is for PIM"),
        (Objective("mixvit_hybrid"), plain_vit, "Mix-ViT's hybrid model"),
        (
            Objective("mixvit_pure"),
            lambda: plain_vit(class_token=False, global_pool="avg"),
            "head reads its class token",
        ),
        (Objective("mixvit_pure", mix_share=0.05), plain_vit, "0.05 of 16 tokens is none"),
    ],
)
def test_an_objective_of_another_model_is_refused(
    objective: Objective, model: Callable[[], AdaptiveViT], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        make_step(model(), objective)


def test_a_batch_of_one_and_a_small_map_are_refused() -> None:
    model = plain_vit()
    step, _ = make_step(model, Objective("mixvit_pure"))
    with pytest.raises(TrainingError, match="at least two images"):
        step(batch(model, 1), np.random.default_rng(0), torch.autograd.backward)
    with pytest.raises(TrainingError, match="at least 5 places a side, got 4x4"):
        shaping_loss(torch.rand(2, 5, 4, 4))
