from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tavt_kit.distill.optimizer import freeze, make_optimiser
from tavt_kit.distill.options import OptimizerOptions
from tavt_kit.errors import TrainingError, UnknownName
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

Make = Callable[..., AdaptiveViT]


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("vit_small_patch14_reg4_dinov2", {"cls_token", "reg_token", "pos_embed", "patch_embed"}),
        ("deit_tiny_distilled_patch16_224", {"cls_token", "dist_token", "pos_embed", "patch_embed"}),
        ("eva02_tiny_patch14_224", {"cls_token", "pos_embed", "patch_embed"}),
        ("vit_relpos_small_patch16_rpn_224", {"cls_token", "patch_embed"}),
    ],
)
def test_freezing_finds_all_that_lies_below(name: str, below: set[str]) -> None:
    model = wrap(timm.create_model(name, img_size=56 if "14" in name else 64, embed_dim=48, num_heads=3, depth=4))
    freeze(model, 2)
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    expected = {
        key
        for key, _ in model.named_parameters()
        if key.split(".")[0] in below or key.startswith(("blocks.0.", "blocks.1."))
    }
    assert frozen == expected
    trained = freeze(model, 0)
    assert (
        trained
        == sum(p.numel() for p in model.parameters() if p.requires_grad)
        == sum(p.numel() for p in model.parameters())
    )


def test_freezing_leaves_mode_and_gradients_alone(make_model: Make) -> None:
    model = make_model().train()
    freeze(model, 3)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_frozen_weights_do_not_move_and_only_matrices_decay(make_model: Make) -> None:
    model = make_model()
    freeze(model, 2)
    optimiser = make_optimiser(model, OptimizerOptions(lr=0.1, weight_decay=0.5))
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert decays[id(parameter)] == (0.5 if parameter.dim() == 2 else 0.0)
        else:
            assert id(parameter) not in decays


def test_what_cannot_be_is_refused(make_model: Make) -> None:
    model = make_model()
    for layers in (-1, 6):
        with pytest.raises(TrainingError, match="0 to 5"):
            freeze(model, layers)
    with pytest.raises(UnknownName, match="adamw, sgd.*lion"):
        OptimizerOptions(optimiser="lion")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="frozen"):
        make_optimiser(model, OptimizerOptions(optimiser="sgd"))


SGD = OptimizerOptions(optimiser="sgd", lr=0.1, momentum=0.8, weight_decay=0.1, decay_all=True, nesterov=True)


def test_sgd_is_torchs_own(make_model: Make) -> None:
    model = make_model()
    optimiser = make_optimiser(model, SGD)
    assert isinstance(optimiser, torch.optim.SGD)
    (group,) = optimiser.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.1, True)
