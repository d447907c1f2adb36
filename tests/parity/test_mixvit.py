"""Mix-ViT's official evaluation, pure and hybrid: every recorded quantity of it, through the public converter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_vit import google_to_timm, hybrid_names, official_names
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.losses import (
    AttentionCalls,
    MixBranch,
    class_rollouts,
    draw_partners,
    gaussian_kernel,
    make_step,
    mutual_rollout,
    substitute,
)
from tavt_kit.distill.optimizer import attached
from tavt_kit.distill.options import Objective
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import inside_attention
from tavt_kit.models.token_reduction import attention_map, cls_score
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.parity.official import assert_gradients, load, state_of

TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


def converted(arrays: Any, meta: Any, folder: Path) -> tuple[Any, Any]:
    torch.save(state_of(arrays), folder / "cotton_checkpoint.bin")
    options = {"heads": meta["config"]["num_heads"], "image_size": meta["config"]["img_size"]}
    return convert(folder / "cotton_checkpoint.bin", **options)


@pytest.mark.kind("mixvit_pure")
@torch.no_grad()
def test_pure_is_a_plain_vit(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, card = converted(arrays, meta, tmp_path)
    assert "without 20 tensors that only training uses" in card.provenance and card.name == "vit_base_patch16_224"
    x = torch.from_numpy(arrays["input"])
    torch.testing.assert_close(model(x), torch.from_numpy(arrays["eval/logits"]), **TOLERANCE)
    with inside_attention(Last(), None) as seen:  # type: ignore[arg-type]
        model(x)
    attention = seen.watch.map  # type: ignore[union-attr]
    torch.testing.assert_close(attention, torch.from_numpy(arrays["eval/attention_last"]), **TOLERANCE)


class Last:
    """Keeps the last call's map."""

    map: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: Any, dropout: float) -> Tensor:
        self.map = attention_map(q, k, bias, scale)
        return self.map @ v


@pytest.mark.kind("mixvit_hybrid")
@torch.no_grad()
def test_hybrid_logits_features_and_parts(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, card = converted(arrays, meta, tmp_path)
    assert card.name == "mixvit_hybrid_r50" and "without 22 tensors" in card.provenance
    x = torch.from_numpy(arrays["input"])
    features = model.resnet(x)
    parts, assign = model.grouping(features)
    for mine, quantity in ((features.mean((2, 3)), "train/features_spatial_mean"), (parts, "train/part_features"),
                       (assign, "train/assign"), (model(x), "eval/logits"), (model(x), "train/logits")):  # fmt: skip
        torch.testing.assert_close(mine, torch.from_numpy(arrays[quantity]), **TOLERANCE)
    before = model.embed_parts(parts)
    for block in list(model.blocks)[:-1]:
        before = block(before)
    torch.testing.assert_close(before, torch.from_numpy(arrays["train/pre_states"]), **TOLERANCE)


@pytest.mark.kind("mixvit_hybrid")
def test_hybrid_says_that_dropping_saves_nothing(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model = wrap(converted(arrays, meta, tmp_path)[0])
    assert model.tokens == 6
    with pytest.raises(UnsupportedBackbone, match="dropping saves nothing; make it smaller by .* int8"):
        model.schedule = TokenSchedule((5,))
    model.schedule = model.dense_schedule


def branch_of(arrays: Any, meta: Any, prefix: str) -> tuple[MixBranch, dict[str, tuple[str, ...]]]:
    """The official training branch, and for each of its tensors the official names."""
    state, config, root = state_of(arrays), meta["config"], f"{prefix}transformer.encoder.mask_transformer."
    names: dict[str, tuple[str, ...]] = {}
    for ours, theirs in official_names(1).items():
        if ours.startswith("blocks.0."):
            parts = (name.removeprefix("transformer.encoder.layer.0.") for name in theirs)
            names[ours.replace("blocks.0.", "block.")] = tuple(f"{root}mask_transformer.{part}" for part in parts)
    for kind in ("weight", "bias"):
        names[f"norm.{kind}"] = (f"{root}mask_encoder_norm.{kind}",)
        for head in ("mask_head", "mask_cls_head"):
            if f"{prefix}{head}.{kind}" in state:
                names[f"{head}.{kind}"] = (f"{prefix}{head}.{kind}",)
    tensors = {ours: torch.cat([state[name] for name in theirs]) for ours, theirs in names.items()}
    classes = len(tensors["mask_cls_head.bias"]) if "mask_cls_head.bias" in tensors else None
    places = len(tensors["mask_head.bias"])
    branch = MixBranch(config["hidden_size"], config["num_heads"], config["mlp_dim"], places, classes)
    branch.load_state_dict(tensors)
    return branch, names


def stepped(model: AdaptiveViT, branch: MixBranch, loss: Objective, arrays: Any, meta: Any) -> Mapping[str, Tensor]:
    """One training step by the wired objective, with the official branch in the place of its own."""
    dtype = next(model.parameters()).dtype
    step, own = make_step(model, loss)
    assert own is not None and {k: v.shape for k, v in own.state_dict().items()} == {
        k: v.shape for k, v in branch.state_dict().items()
    }
    own.load_state_dict(branch.state_dict())
    x, labels = torch.from_numpy(arrays["input"]).to(dtype), torch.from_numpy(arrays["labels"])
    torch.manual_seed(meta["torch_seed_before_training_forward"])
    with attached(model, own):
        found = step(Batch(x, labels, None, np.arange(len(x))), np.random.default_rng(0), torch.autograd.backward)
    for mine, theirs in zip(branch.parameters(), own.parameters(), strict=True):
        mine.grad = theirs.grad
    assert not any("training_branch" in name for name in model.state_dict())
    return found


@pytest.mark.kind("mixvit_pure")
def test_pure_training_step(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, config = wrap(converted(arrays, meta, tmp_path)[0]), meta["config"]
    branch, names = branch_of(arrays, meta, "")
    loss = Objective(
        "mixvit_pure", {"mask": config["mask_weight"]}, mix_share=config["mask_topk"], compat="official"
    )  # fmt: skip
    found = stepped(model, branch, loss, arrays, meta)
    ours = {"ce": found["cross_entropy"], "bce": found["mask"], "total": found["loss"]}
    assert_losses(arrays, ours)
    assert_gradients(arrays, branch, names)
    assert_gradients(arrays, model, official_names(model.layers))
    assert_all_gradients_read(arrays)


@pytest.mark.kind("mixvit_pure")
@torch.no_grad()
def test_pure_rollouts_partners_and_substitution(name: str, reference: Path, tmp_path: Path) -> None:
    """The official code takes patch indices for places in the sequence with the class token; so does this test."""
    arrays, meta = load(reference, name)
    model, (branch, _) = wrap(converted(arrays, meta, tmp_path)[0]), branch_of(arrays, meta, "")
    x, calls = torch.from_numpy(arrays["input"]), AttentionCalls()
    state = before = model.start(x)
    for layer in range(model.layers):
        before, state = state, model.backbone.feed(layer, model.backbone.attend(layer, state, calls))
    scores, (row, column) = mutual_rollout(calls.calls), class_rollouts(calls.calls)
    index = scores.topk(int(meta["config"]["mask_topk"] * scores.shape[1]), dim=1).indices
    torch.manual_seed(meta["torch_seed_before_training_forward"])
    partners = draw_partners(len(x))
    mixed = substitute(before.tokens, index, partners)
    mask_logits, _ = branch(mixed)
    assert partners == arrays["train/partners"].tolist() == meta["partners"]
    np.testing.assert_array_equal(index, arrays["train/mask_idxs"])
    for mine, quantity in ((row, "attention_rollout_cls_row"), (column, "contribution_rollout_cls_col"),
                       (scores, "scores"), (before.tokens, "pre_states"), (mixed, "mixed_states"),
                       (model.finish(state), "logits"), (mask_logits, "mask_logits"),
                       (branch.norm(branch.block(mixed))[:, 0], "mask_encoded_cls"),
                       (torch.zeros_like(mask_logits).scatter(1, index, 1.0), "mask_labels")):  # fmt: skip
        torch.testing.assert_close(mine, torch.from_numpy(arrays[f"train/{quantity}"]), **TOLERANCE)


@pytest.mark.kind("mixvit_hybrid")
def test_hybrid_training_step(name: str, reference: Path, tmp_path: Path) -> None:
    """In doubles: in float32 the gradient through the ResNet's standardised filters is rounded by up to 5e-4."""
    arrays, meta = load(reference, name)
    model, weights = wrap(converted(arrays, meta, tmp_path)[0].double()), meta["config"]["loss_weights"]
    branch, names = branch_of(arrays, meta, "vit.")
    branch = branch.double()
    terms = {"shaping": weights["shape"], "mask_class": weights["mask_cls"], "mask": weights["mask"]}
    loss = Objective("mixvit_hybrid", terms, mix_share=meta["config"]["mask_topk"], compat="official")
    found = stepped(model, branch, loss, arrays, meta)
    theirs = {"ce": "cross_entropy", "mask_ce": "mask_class", "bce": "mask", "shaping": "shaping", "total": "loss"}
    assert_losses(arrays, {official: found[ours] for official, ours in theirs.items()})
    assert_gradients(arrays, branch, names)
    bare = model.bare
    assert_gradients(arrays, bare, hybrid_names(state_of(arrays), len(bare.blocks)))  # type: ignore[arg-type]
    assert_all_gradients_read(arrays)


@pytest.mark.kind("mixvit_hybrid")
@torch.no_grad()
def test_hybrid_scores_partners_and_substitution(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, (branch, _) = converted(arrays, meta, tmp_path)[0], branch_of(arrays, meta, "vit.")
    x, calls = torch.from_numpy(arrays["input"]), AttentionCalls()
    before = model.embed_parts(model.grouping(model.resnet(x))[0])
    for block in list(model.blocks)[:-1]:
        before = block(before)
    with inside_attention(calls, None):
        model.blocks[-1](before)
    call = calls.calls[-1]
    scores = cls_score(call.q, call.k, None, call.scale) / call.q.shape[1]  # the class token is one of the candidates
    index = scores.topk(int(meta["config"]["mask_topk"] * scores.shape[1]), dim=1).indices
    torch.manual_seed(meta["torch_seed_before_training_forward"])
    partners = draw_partners(len(x))
    mixed = substitute(before, index, partners)
    mask_logits, class_logits = branch(mixed)
    assert partners == arrays["train/partners"].tolist()
    np.testing.assert_array_equal(index, arrays["train/mask_idxs"])
    kernel = gaussian_kernel(x)[0, 0]
    for mine, quantity in ((scores, "scores"), (mixed, "mixed_states"), (mask_logits, "mask_logits"),
                       (class_logits, "mask_cls_logits"), (kernel, "gaussian_kernel")):  # fmt: skip
        torch.testing.assert_close(mine, torch.from_numpy(arrays[f"train/{quantity}"]), **TOLERANCE)


def assert_losses(arrays: Any, losses: dict[str, Tensor]) -> None:
    for name, mine in losses.items():
        torch.testing.assert_close(mine.detach().float(), torch.as_tensor(arrays[f"train/{name}"]), atol=0, rtol=1e-5)


def assert_all_gradients_read(arrays: Any) -> None:
    assert {key for key in arrays if "gradnorm/" in key} <= arrays.seen


def from_google(tensors: Mapping[str, Tensor], parts: int) -> dict[str, Tensor]:
    """The transformer of one of Google's files, in timm's names, as that of the hybrid model.

    The position grid is resized to (parts, 1), bilinear without aligned corners; the head starts at zero.
    """
    found = dict(tensors)
    side = math.isqrt(found["pos_embed"].shape[1] - 1)
    grid = found["pos_embed"][:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(parts, 1), mode="bilinear", align_corners=False)
    found["pos_embed"] = torch.cat([found["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    for kind in ("weight", "bias"):
        found[f"proj.{kind}"] = found.pop(f"patch_embed.proj.{kind}")
        found[f"head.{kind}"] = torch.zeros_like(found[f"head.{kind}"])
    found["proj.weight"] = found["proj.weight"].flatten(1)
    return found


@pytest.mark.kind("mixvit_hybrid_google")
@torch.no_grad()
def test_hybrid_from_googles_transformer(name: str, reference: Path) -> None:
    """The transformer's part of Google's hybrid files: positions without aligned corners, to (parts, 1)."""
    from tavt_kit.models.timm_import import timm

    arrays, meta = load(reference, name)
    config = meta["config"]
    google = {name.removeprefix("google/"): value for name, value in arrays.items() if name.startswith("google/")}
    tensors = from_google(google_to_timm(google), config["num_parts"])
    expected = torch.from_numpy(arrays["loaded/position_embeddings"])
    torch.testing.assert_close(tensors["pos_embed"], expected, atol=1e-6, rtol=0)
    # The recorded part alone: a transformer over part features of 32 channels, which no ResNet of ours gives.
    model = timm.create_model(
        "mixvit_hybrid_r50", num_classes=config["num_classes"], embed_dim=config["hidden_size"],
        mlp_dim=config["mlp_dim"], num_heads=config["num_heads"], depth=config["num_layers"],
    ).eval()  # fmt: skip
    model.proj = torch.nn.Linear(config["num_features"], config["hidden_size"])
    missing = model.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys and all(n.startswith(("resnet.", "grouping.")) for n in missing.missing_keys)
    encoded = model.norm(model.blocks(model.embed_parts(torch.from_numpy(arrays["input_part_features"]))))
    torch.testing.assert_close(encoded, torch.from_numpy(arrays["eval/encoded"]), **TOLERANCE)
    assert np.isfinite(encoded.numpy()).all()
