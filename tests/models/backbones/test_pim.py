"""FGVC-PIM over any backbone: sizes, generality, token drop, switches, heads, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tavt_kit.bench.parts import AttendPart, DropPart, FeedPart, HeadPart
from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.losses import pim_loss, pim_terms
from tavt_kit.errors import TavtError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones.pim import _maps, fuse_heads, head_scores, make_backbone
from tavt_kit.models.costs import count_pass
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import LeanViT, wrap
from tests.contracts.pim_models import CNNS, SWIN, VITS, small
from tests.contracts.zoo import build, images
from tests.parameters import few

# --------------------------------------------------------------------------------------------------- sizes


SHAPES = {
    "pim_vit_base_patch16": [(785, 768)] * 4,
    "pim_resnet50": [(112**2, 256), (56**2, 512), (28**2, 1024), (14**2, 2048)],
    "pim_efficientnet_b7": [(28**2, 160), (28**2, 224), (14**2, 384), (14**2, 640)],
    "pim_swin_large_patch4_window12_384": [(2304, 384), (576, 768), (144, 1536), (144, 1536)],
}
"""(S, C) of the levels."""


@pytest.mark.parametrize(("name", "millions", "gmacs", "off", "unused"), [
    ("pim_vit_base_patch16", 92.12, 82.83, 1.5e-3, 0),
    ("pim_resnet50", 33.01, 28.88, 3e-3, 0),
    pytest.param("pim_efficientnet_b7", 65.46, 21.68, 1.1e-2, 0, marks=pytest.mark.slow),
    # The official Swin keeps a norm of 1536 channels and a head of 21841 classes, which nothing reads.
    pytest.param(
        "pim_swin_large_patch4_window12_384", 256.91, 119.33, 1e-3, 2 * 1536 + 1536 * 21841 + 21841,
        marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_full_sizes_have_the_official_parameters_and_macs(
    name: str, millions: float, gmacs: float, off: float, unused: int
) -> None:
    model = sketch(name, {"num_classes": 200}).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round((parameters + unused) / 1e6, 2) == millions
    # The official figures come from a trace that counts norms as well, one per element; ours are matrix products.
    assert gmacs * (1 - off) < count_macs(wrap(model), rule="matmul") / 1e9 < gmacs
    assert [(level.places, level.width) for level in model.plan] == SHAPES[name]


# ----------------------------------------------------------------------------------------------- generality


@pytest.mark.parametrize("backbone", few([*CNNS, *VITS, SWIN], CNNS[0], VITS[0]))
def test_any_backbone_trains_with_every_weight(backbone: str) -> None:
    model = small(backbone).train()
    for module in model.modules():
        if isinstance(module, timm.layers.DropPath):
            module.drop_prob = 0.0
    x = images(model)
    outputs = model.forward_outputs(x)
    loss = pim_loss(outputs, torch.tensor([0, 3, 6]))
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    for level, (plan, count) in enumerate(zip(model.plan, model.num_selects, strict=True), 1):
        assert outputs[f"layer{level}"].shape == (3, plan.places, 7)
        assert outputs[f"select_layer{level}"].shape == (3, count, 7)
        assert outputs[f"drop_layer{level}"].shape == (3, plan.places - count, 7)
    assert head_scores(outputs).shape == (3, 5, 7)


@torch.no_grad()
def test_levels_of_swin_are_merged() -> None:
    """By timm's own stages: each begins by merging, so a level is what the next stage's merging gives."""
    options = {"window_size": 2, "depths": (2, 2, 2, 2), "embed_dim": 8, "num_heads": (1, 2, 2, 4)}
    backbone = make_backbone(SWIN, (64, 64), 3, options).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = backbone.forward_intermediates(x, 4, intermediates_only=True)  # type: ignore[operator]
    plain = [level.permute(0, 2, 3, 1) for level in plain]
    merged = [stage.downsample(level) for stage, level in zip(backbone.layers[1:], plain, strict=False)]  # type: ignore[index]
    for mine, theirs in zip(_maps(backbone, x), [*merged, plain[3]], strict=True):
        assert torch.equal(mine, theirs.flatten(1, 2))


@pytest.mark.parametrize("backbone", few(["convnext_atto", SWIN], "convnext_atto"))
def test_what_has_no_tokens_to_drop_says_so(backbone: str) -> None:
    model = wrap(small(backbone))
    assert model.layers == 1
    with pytest.raises(UnsupportedBackbone, match=f"{backbone}, has to stay whole; make it smaller"):
        model.schedule = TokenSchedule((model.tokens - 1,))
    x = images(model.bare)
    with torch.no_grad():
        assert torch.equal(model(x), model.bare(x)) and torch.equal(model.forward_lean(x), model.bare(x))
        pooled = model.forward_pooled(x)
        torch.testing.assert_close(model.bare.get_classifier()(pooled), model.bare(x))  # type: ignore[operator]
    assert count_macs(model) > 0 and not model.training


@pytest.mark.parametrize("backbone", few(VITS, VITS[0]))
@torch.no_grad()
def test_other_vits_drop_too(backbone: str) -> None:
    model = wrap(small(backbone))
    x = images(model.bare)
    assert torch.equal(model(x), model.bare(x))
    model.schedule = TokenSchedule.taper(model.layout, 0.3)
    torch.testing.assert_close(model.forward_lean(x), model(x), atol=1e-5, rtol=1e-5)
    assert count_macs(model) == count_pass(LeanViT(model), x[:1])
    assert not torch.allclose(model(x), model.bare(x))


@torch.no_grad()
def test_a_block_without_a_joint_leaves_its_dropped_tokens_whole() -> None:
    """Parallel blocks drop after the whole layer, so a dropped token has passed it on both paths."""
    model = wrap(small("vit_base_patch16_xp_224", head="sum"))
    assert not any(model.backbone.joint)
    model.schedule = TokenSchedule.taper(model.layout, 0.4)
    x = images(model.bare)
    torch.testing.assert_close(model.forward_lean(x), model(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_block_left_out_hands_on_what_it_received() -> None:
    model = wrap(build("pim"))
    x = images(model.bare)
    model.schedule = TokenSchedule((26,) * 4, executed=(0, 3))
    state = model.advance(model.start(x), [0], model.dense_schedule.counts)
    last = model.advance(state, [3], model.dense_schedule.counts)
    expected = model.bare.compute_logits([state.tokens, state.tokens, state.tokens, last.tokens])  # type: ignore[operator]
    assert torch.equal(model(x), expected)


@torch.no_grad()
def test_parts_can_be_timed_on_mere_tokens() -> None:
    """Every layer and the head alone, as the latency table runs them; a head on few tokens restores the others."""
    model = wrap(build("pim"))
    x = images(model.bare)
    tokens, notes = model.start(x).tokens, model.start(x).notes
    for layer in range(4):
        (attended,) = AttendPart(model, [layer], notes, False)(tokens)
        expected = model.advance(model.start(x), [0], model.dense_schedule.counts).tokens
        if layer == 0:
            assert torch.equal(FeedPart(model, [0], notes, False)(attended), expected)
        (dropped,) = DropPart(model, [layer], notes, True)(9, tokens)
        assert dropped.shape == (3, 9, 48)
    whole = HeadPart(model, (), notes, False)(tokens)
    assert torch.equal(whole, model.bare.compute_logits([tokens] * 4))  # type: ignore[operator]
    blank = torch.cat([tokens[:, :5], torch.zeros_like(tokens[:, 5:])], dim=1)
    few = HeadPart(model, (), notes, False)(tokens[:, :5])
    torch.testing.assert_close(few, model.bare.compute_logits([blank] * 4))  # type: ignore[operator]


# --------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("head", few(["combiner", "sum"], "sum"))
@pytest.mark.parametrize("backbone", few(["convnext_atto", "vit_tiny_patch16_224"], "vit_tiny_patch16_224"))
def test_the_head_is_heeded(backbone: str, head: str) -> None:
    model = small(backbone, head=head)
    x = images(model)
    outputs = model.train().forward_outputs(x)
    assert set(pim_terms(outputs, torch.tensor([0, 1, 2]))) == set(outputs)
    assert set(wrap(model).outputs(wrap(model).start(x)).named) == set(outputs)
    with torch.no_grad():
        logits = model.eval()(x)
        outputs = model.forward_outputs(x)
        if model.head == "combiner":
            torch.testing.assert_close(logits, outputs["comb_outs"])
        else:
            scores = head_scores(outputs)
            torch.testing.assert_close(logits, fuse_heads(scores, scores.shape[1]).div(scores.shape[1]).log())
            assert model.get_classifier() is None
            with pytest.raises(UnsupportedBackbone, match="no one last linear layer"):
                wrap(model).forward_pooled(x)
    if "vit" in backbone:
        adaptive = wrap(model)
        assert count_macs(adaptive) == count_pass(LeanViT(adaptive), x[:1])


def test_official_fusion_adds_the_least_sure_heads() -> None:
    """Five heads of which the surest alone is right: the official order finds it last."""
    sure, unsure = [0.9, 0.1], [0.45, 0.55]
    scores = torch.tensor([[sure, unsure, unsure, unsure, unsure]])
    assert [int(fuse_heads(scores, k).argmax()) for k in (1, 2, 5)] == [0, 0, 0]
    assert [int(fuse_heads(scores, k, "official").argmax()) for k in (1, 2, 3, 4, 5)] == [1, 1, 1, 1, 0]
    with pytest.raises(UnknownName, match="fixed, official"):
        fuse_heads(scores, 1, "ascending")  # type: ignore[arg-type]


@pytest.mark.parametrize(("backbone", "changes", "says"), [
    ("vit_tiny_patch16_224", {"head": "mean"}, "or 'sum', got head='mean'"),
    ("vit_tiny_patch16_224", {"num_selects": (12, 10, 6)}, "of each level"),
    ("vit_tiny_patch16_224", {"num_selects": (12, 10, 6, 18)}, "at most all tokens"),
    ("vit_tiny_patch16_224", {"num_selects": (4, 4, 4, 4)}, "at least so many, got 16"),
    ("vit_tiny_patch16_224", {"depth": 3}, "has 3"),
    ("vit_tiny_patch16_224", {"img_size": 63}, "multiple"),
])  # fmt: skip
def test_what_does_not_fit_together_is_one_sentence(backbone: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TavtError, match=says) as caught:
        small(backbone, **changes)
    assert "\n" not in str(caught.value)
