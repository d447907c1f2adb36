"""Depths of parameters, layer-wise rates, dropout and drop path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tavt_kit.distill.fine_tune import set_drop_path, set_dropout
from tavt_kit.distill.optimizer import check_scales, make_optimiser, parameter_depths, set_rate
from tavt_kit.distill.options import OptimizerOptions
from tavt_kit.errors import TrainingError
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

Make = Callable[..., AdaptiveViT]
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 3}


def vitae() -> AdaptiveViT:
    shape = {"embed_dims": (8, 8, 16), "token_dims": (8, 16, 32), "nc_depth": (0, 0, 3), "nc_group": (1, 1, 16)}
    return wrap(timm.create_model("vitae_tiny", img_size=32, num_classes=3, **shape))


def pim() -> AdaptiveViT:
    backbone = {"patch_size": 8, "embed_dim": 24, "depth": 5, "num_heads": 3}
    return wrap(
        timm.create_model("pim_vit_base_patch16", img_size=32, fpn_size=16, num_selects=(8, 8, 8, 8), **backbone)
    )


@pytest.mark.parametrize("make", [vitae, pim, lambda: wrap(timm.create_model("ffvt_base_patch16", **TINY))])
def test_depths_follow_the_layers_of_every_family(make: Callable[[], AdaptiveViT]) -> None:
    model = make()
    depths = parameter_depths(model)
    assert list(depths) == [name for name, _ in model.named_parameters()]
    for name, depth in depths.items():
        parts = name.replace("layers.2.NC", "blocks").removeprefix("backbone.").split(".")
        if parts[0] == "blocks":
            assert depth == int(parts[1]) + 1, name
        elif parts[0] in ("patch_embed", "cls_token", "pos_embed", "layers"):
            assert depth == 0, name
        else:
            assert depth == model.layers + 1, name
    assert not any(p.grad is not None for p in model.parameters())


def test_layer_decay_and_named_scales_multiply() -> None:
    model = wrap(timm.create_model("vit_tiny_patch16_224", **TINY))
    settings = OptimizerOptions(lr=1.0, layer_decay=0.5, lr_scale={"head": 3.0, "blocks.3": 2.0, "blocks.3.mlp": 4.0})
    optimiser = make_optimiser(model, settings)
    set_rate(optimiser, 1.0)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    names = dict(model.named_parameters())
    expected = {"cls_token": 0.5**5, "blocks.0.norm1.bias": 0.5**4, "blocks.3.norm1.bias": 1.0,
                "blocks.3.mlp.fc1.weight": 2.0, "norm.weight": 1.0, "head.weight": 3.0}  # fmt: skip
    assert {name: rates[id(names[name])] for name in expected} == expected
    with pytest.raises(TrainingError, match="no parameter's name begins with hea; .* patch_embed"):
        check_scales(model, OptimizerOptions(lr_scale={"hea": 2.0}))


def test_drop_path_rises_through_the_models_own_modules(make_model: Make) -> None:
    model = make_model()
    before = list(model.state_dict())
    set_drop_path(model, 0.5)
    rates = [block.drop_path1.drop_prob for block in model.bare.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]) and list(model.state_dict()) == before
    x = torch.randn(2, 3, 64, 64)
    torch.manual_seed(0)
    first, second = model.train()(x), model(x)
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(x), make_model()(x))


def test_drop_path_of_vitae_is_its_own_rule() -> None:
    ours = vitae()
    set_drop_path(ours, 0.4)
    made = timm.create_model("vitae_tiny", img_size=32, nc_depth=(0, 0, 3), drop_path_rate=0.4)
    rates = [[getattr(cell.drop_path, "drop_prob", 0.0) for cell in m.layers[2].NC] for m in (ours.bare, made)]  # type: ignore[index, union-attr]
    assert rates[0] == rates[1] == pytest.approx([0.0, 0.2, 0.4])


def test_dropout_is_where_vit_pytorch_has_it() -> None:
    model = wrap(timm.create_model("vit_tiny_patch16_224", **TINY))
    set_dropout(model, 0.1)
    found = {name for name, m in model.bare.named_modules() if isinstance(m, nn.Dropout) and m.p}
    assert found == {"pos_drop", *(f"blocks.{i}.mlp.drop{j}" for i in range(4) for j in (1, 2))}
    with pytest.raises(TrainingError, match="no places for dropout"):
        set_dropout(wrap_resnet(), 0.1)
    with pytest.raises(TrainingError, match="no blocks with drop path"):
        set_drop_path(wrap_resnet(), 0.1)


def wrap_resnet() -> AdaptiveViT:
    shape = {"backbone": "resnet10t", "img_size": 64, "num_selects": (16, 8, 4, 4)}
    return wrap(timm.create_model("pim_resnet50", **shape))
