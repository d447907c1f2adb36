"""Choices of pruning: what is left, which units matter, and structures that a card may not hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tavt_kit.errors import (
    BudgetError,
    CheckpointError,
    DataError,
    UnknownName,
    UnsupportedBackbone,
)
from tavt_kit.models.backbones.pruned import reshape
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tavt_kit.pruning import IMPORTANCES, LabelledImages, Targets, prune
from tests.contracts.zoo import build, images


def labelled(model: nn.Module) -> LabelledImages:
    return LabelledImages(images(model, 4), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mlp": 0.0}, "`mlp` is the share"),
        ({"heads": 1.5}, "got 1.5"),
        ({"depth": 0}, "`depth` is the number"),
        ({"round_to": 0}, "`round_to` is a whole number"),
    ],
)
def test_targets_out_of_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BudgetError, match=sentence):
        Targets(**wrong)


def test_requests_that_cannot_be_met_are_refused() -> None:
    model = build("plain")
    with pytest.raises(BudgetError, match="nothing is to be pruned"):
        prune(model, Targets())
    with pytest.raises(UnknownName, match="importance is one of"):
        prune(model, Targets(mlp=0.5), importance="beauty")
    with pytest.raises(DataError, match="training images"):
        prune(model, Targets(mlp=0.5), importance="taylor")
    with pytest.raises(BudgetError, match="here 1 to 4, got 5"):
        prune(model, Targets(depth=5), images=labelled(model))
    with pytest.raises(BudgetError, match="here 1 to 4, got 0|at least 1"):
        prune(build("ffvt"), Targets(depth=0))
    with pytest.raises(UnsupportedBackbone, match="has no list of them"):
        prune(timm.create_model("pim_resnet50", img_size=64, num_selects=(16, 8, 8, 4)).eval(), Targets(mlp=0.5))


def test_a_hybrid_mix_vit_keeps_its_layers_but_its_transformer_is_pruned() -> None:
    model = timm.create_model(
        "mixvit_hybrid_r50", img_size=64, embed_dim=48, num_heads=3, mlp_dim=96, resnet_blocks=(1, 1, 1),
        resnet_width=32, num_classes=5,
    ).eval()  # fmt: skip
    with pytest.raises(UnsupportedBackbone, match="no layers can be taken"):
        prune(model, Targets(depth=1), images=LabelledImages(torch.zeros(1, 3, 64, 64), torch.tensor([0])))
    before = count_macs(wrap(model))
    prune(model, Targets(mlp=0.5, heads=0.67))
    assert count_macs(wrap(model)) < before
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_is_deterministic_and_leaves_no_trace(importance: str) -> None:
    def weights() -> dict[str, torch.Tensor]:
        model = build("plain").requires_grad_(False)
        prune(model, Targets(mlp=0.5, heads=0.67), importance=importance, images=labelled(model))
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
        return model.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@torch.no_grad()
def test_units_that_do_nothing_go_first(importance: str) -> None:
    model: Any = build("plain")
    for block in model.blocks:  # every other channel has small weights: of little magnitude, and little in the loss
        block.mlp.fc1.weight[::2] *= 1e-3
        block.mlp.fc1.bias[::2] = 0
        block.mlp.fc2.weight[:, ::2] *= 1e-3
    kept = [block.mlp.fc2.weight[:, 1::2].clone() for block in model.blocks]
    prune(model, Targets(mlp=0.5), importance=importance, images=labelled(model))
    assert all(torch.equal(block.mlp.fc2.weight, weight) for block, weight in zip(model.blocks, kept, strict=True))


@torch.no_grad()
def test_the_layers_that_do_least_go() -> None:
    model: Any = build("plain")
    for layer in (1, 3):
        model.blocks[layer].attn.proj.weight.zero_()
        model.blocks[layer].attn.proj.bias.zero_()
        model.blocks[layer].mlp.fc2.weight.zero_()
        model.blocks[layer].mlp.fc2.bias.zero_()
    before = model(images(model))
    # Labels that the model gives itself, so that any change costs.
    given = LabelledImages(images(model), before.argmax(1))
    for block in (0, 2):
        model.blocks[block].ls1 = nn.Identity()
    assert prune(model, Targets(depth=2), images=given).kept == (0, 2)
    torch.testing.assert_close(model(images(model)), before)


def test_a_run_whose_embedding_was_pruned_by_an_earlier_version_still_opens() -> None:
    first, last = ("norm1", "norm2"), ("attn.proj", "mlp.fc2")
    sizes: dict[str, list[int | None]] = {"cls_token": [None, None, 32], "pos_embed": [None, None, 32]}
    sizes |= {
        "patch_embed.proj.weight": [32, None, None, None],
        "patch_embed.proj.bias": [32],
        "head.weight": [None, 32],
    }
    sizes |= {f"norm.{leaf}": [32] for leaf in ("weight", "bias")}
    for block in (f"blocks.{layer}" for layer in range(4)):
        sizes |= {f"{block}.{norm}.{leaf}": [32] for norm in first for leaf in ("weight", "bias")}
        sizes |= {f"{block}.{part}.weight": [None, 32] for part in ("attn.qkv", "mlp.fc1")}
        sizes |= {f"{block}.{part}.weight": [32, None] for part in last} | {
            f"{block}.{part}.bias": [32] for part in last
        }
    model: Any = reshape(
        build("plain"), {"sizes": {n: size for n, size in sizes.items() if n in build("plain").state_dict()}}
    )
    assert model.embed_dim == 32 and model.blocks[0].attn.qkv.in_features == 32
    assert torch.isfinite(model(images(model))).all()


def test_rounding_to_multiples() -> None:
    model: Any = build("plain")
    prune(model, Targets(mlp=0.43, round_to=16))
    assert model.blocks[0].mlp.fc1.out_features == 80 and model.embed_dim == 48


@pytest.mark.parametrize(
    ("structure", "sentence"),
    [
        ([], "must be an object, but is \\[\\]"),
        ({"blocks": [0], "code": "x"}, "code is not known"),
        ({"blocks": {}}, "blocks must be a list of whole numbers"),
        ({"blocks": [0, 9]}, "keeps some of its 4 blocks"),
        ({"blocks": [1, 0]}, "keeps some of its 4 blocks"),
        ({"blocks": []}, "keeps some of its 4 blocks"),
        ({"blocks": ["0"]}, "must be a whole number"),
        ({"heads": {"blocks.0.attn": True}}, "must be a whole number"),
        ({"heads": {"blocks.0.attn": 7}}, "gives 7 heads"),
        ({"heads": {"blocks.0": 1}}, "gives 1 heads"),
        ({"heads": {"nowhere": 1}}, "gives 1 heads"),
        ({"sizes": {"blocks.0.mlp.fc1.weight": 3}}, "must be a list"),
        ({"sizes": {"blocks.0.mlp.fc1.weight": [96]}}, "is not one of this architecture"),
        ({"sizes": {"nowhere": [1]}}, "is not one of this architecture"),
        ({"sizes": {"blocks.0.mlp.fc1.weight": [960, None]}}, "is smaller than that of its architecture"),
        ({"sizes": {"blocks.0.mlp.fc1.weight": [0, None]}}, "is smaller than that of its architecture"),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(structure: Any, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        reshape(build("plain"), structure)
