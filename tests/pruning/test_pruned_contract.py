"""The law of the wrap, the counting and the way to the disk and back, on pruned models of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tavt_kit.checkpoints import build as build_named
from tavt_kit.checkpoints import load_model, save_model
from tavt_kit.checkpoints.architecture import create, preprocessing_of
from tavt_kit.core.model_card import ModelCard
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.pruned import record_structure, reshape
from tavt_kit.models.costs import count_pass
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import LeanViT, wrap
from tavt_kit.pruning import LabelledImages, Targets, prune
from tavt_kit.pruning.prune import pruned_card
from tests.contracts import test_backbone_contract as contract
from tests.contracts.zoo import IMAGE, PIM, SMALL, ZOO, build, images
from tests.parameters import few

Mlp, SwiGLU = timm.layers.Mlp, timm.layers.SwiGLU
BOUND = ("differential", "eva02", "dinov3", "dinov3_classifier", *contract.BIASED)
"""Attention whose heads fill the width."""
REFUSED = {
    **{kind: ("heads",) for kind in BOUND},
    "parallel_scaling": ("mlp", "heads"),
    "rope_mixed": ("heads",),
}
QUICK = ("plain", "rope", "eva02", "vitae", "pim")
KINDS = few(ZOO, *QUICK)
SHARES = {"mlp": 0.5, "heads": 0.67}


def pruned(kind: str) -> nn.Module:
    """A model of the zoo with everything pruned that its kind lets go."""
    model = build(kind)
    left = {name: share for name, share in SHARES.items() if name not in REFUSED.get(kind, ())}
    if not left:
        pytest.skip("nothing but depth")
    prune(model, Targets(**left, round_to=4), importance="magnitude")  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_pruned_model_keeps_the_law_and_is_counted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pruned(kind)
    adaptive, x = wrap(model), images(model)
    assert torch.equal(adaptive(x), model(x))
    assert list(adaptive.state_dict()) == list(build(kind).state_dict())
    assert adaptive.unwrap() is model
    monkeypatch.setattr(contract, "build", lambda _: model)
    assert contract.difference_to_oracle(kind, "column") < contract.TOLERANCE
    for schedule in (adaptive.dense_schedule, contract.dropping(adaptive)):
        adaptive.schedule = schedule
        torch.testing.assert_close(adaptive.forward_lean(x), adaptive(x), atol=1e-5, rtol=1e-5)
        assert count_macs(adaptive, schedule) == count_pass(LeanViT(adaptive, schedule), images(model, batch=1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_pruned_model_is_built_again_from_its_structure(kind: str) -> None:
    model = pruned(kind)
    structure = record_structure(build(kind), model, range(4))
    again = reshape(build(kind, seed=5), structure)
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(again(images(model)), model(images(model)))


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_pruned_is_refused_in_a_sentence(kind: str) -> None:
    for share in REFUSED[kind]:
        with pytest.raises(UnsupportedBackbone, match="cannot be pruned") as caught:
            prune(build(kind), Targets(**{share: 0.5}))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["plain", "vitae", "aimv2"])
@torch.no_grad()
def test_cut_channels_are_as_if_their_outputs_were_zero(kind: str) -> None:
    """The oracle of the graph: what a hidden channel gives is nought, in a model that is otherwise whole."""
    model, whole = build(kind), build(kind)
    done = prune(model, Targets(mlp=0.5), importance="magnitude")
    for name, module in model.named_modules():
        if isinstance(module, Mlp | SwiGLU) and module.fc2.weight.shape != whole.get_submodule(name).fc2.weight.shape:  # type: ignore[union-attr]
            kept, full = module.fc2.weight, whole.get_submodule(name).fc2.weight  # type: ignore[union-attr]
            there = (full.T[:, None] == kept.T[None]).all(2).any(1)  # type: ignore[union-attr,operator,index]
            assert int(there.sum()) == kept.shape[1] == done.units["mlp"][0]  # type: ignore[union-attr,operator]
            full[:, ~there] = 0  # type: ignore[index,operator]
    torch.testing.assert_close(model(images(model)), whole(images(model)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cut_heads_are_as_if_their_outputs_were_zero() -> None:
    model, whole = build("plain"), build("plain")
    prune(model, Targets(heads=0.67))
    for small, full in zip(model.blocks, whole.blocks, strict=True):  # type: ignore[arg-type]
        there = (full.attn.proj.weight.T[:, None] == small.attn.proj.weight.T[None]).all(2).any(1)
        assert small.attn.num_heads == 2 and there.unflatten(0, (3, 16)).all(1).sum() == 2  # whole heads
        full.attn.proj.weight[:, ~there] = 0
    torch.testing.assert_close(model(images(model)), whole(images(model)), atol=1e-5, rtol=1e-5)


def test_transfg_keeps_the_same_heads_in_all_layers_of_its_rollout() -> None:
    model, whole = build("transfg"), build("transfg")
    prune(model, Targets(heads=0.67))
    kept = []
    for small, full in zip(model.blocks, whole.blocks, strict=True):  # type: ignore[arg-type]
        there = (full.attn.proj.weight.T[:, None] == small.attn.proj.weight.T[None]).all(2).any(1)
        kept.append(there.unflatten(0, (3, 16)).all(1).nonzero().flatten().tolist())
    assert kept[0] == kept[1] == kept[2]


NAMED: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "plain": ("vit_tiny_patch16_224", {}, []),
    "ffvt": ("ffvt_base_patch16", {}, [3]),
    "pim": ("pim_vit_base_patch16", {**PIM, "depth": 5}, [1, 2, 3, 4]),
    "vitae": ("vitae_tiny", {"nc_depth": [0, 0, 4]}, []),
}


@pytest.mark.parametrize("kind", few(NAMED, "plain"))
@torch.no_grad()
def test_layers_are_left_out_and_the_run_comes_back(kind: str, tmp_path: Path) -> None:
    name, changes, needed = NAMED[kind]
    classes = [f"class {i}" for i in range(7)]
    arguments = {"img_size": [IMAGE, IMAGE], **({} if kind == "vitae" else SMALL), **changes, "num_classes": 7}
    model = create(name, arguments, seed=3)
    card = ModelCard("timm_vit", name, arguments, tuple(classes), preprocessing_of(model).as_record())
    labelled = LabelledImages(images(model, 6), torch.arange(6))
    layers = wrap(model).layers
    done = prune(model, Targets(mlp=0.5, depth=layers - 1), importance="taylor", images=labelled)
    assert len(done.kept) == layers - 1
    assert set(needed) <= set(done.kept)
    card = save_model(tmp_path, model, pruned_card(card, model, done.kept, "pruned"))
    again = load_model(tmp_path)
    assert again.layers == layers - 1
    assert torch.equal(again(images(model)), model(images(model)))
    # Once more, from the loaded run: places of blocks are told in the whole architecture.
    second = again.unwrap()
    twice = prune(second, Targets(heads=0.5))
    save_model(tmp_path / "b", second, pruned_card(card, second, twice.kept, "again"))
    last = load_model(tmp_path / "b")
    assert torch.equal(last(images(model)), second(images(model)))
    assert last.require_card().arguments["pruned"]["blocks"] == list(done.kept)
    bigger, _ = build_named(name, weights=str(tmp_path / "b"), image_size=96) if kind == "plain" else (None, None)
    assert bigger is None or bigger(torch.zeros(1, 3, 96, 96)).shape == (1, 7)
