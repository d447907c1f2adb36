"""Mix-ViT's official evaluation, pure and hybrid: every recorded quantity of it, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.adaptive import wrap
from tavt_kit.backbones.base import inside_attention
from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.google_npz import google_to_timm
from tavt_kit.checkpoints.official_mixvit import hybrid_names
from tavt_kit.checkpoints.official_vit import official_names
from tavt_kit.distill.mixing import (
    MixBranch,
    class_rollouts,
    draw_partners,
    gaussian_kernel,
    mutual_rollout,
    shaping_loss,
    substitute,
)
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.schedule import TokenSchedule
from tavt_kit.scores import attention_map
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


class Maps:
    """Keeps every call's map, over keys and over queries."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.columns: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: Any, dropout: float) -> Tensor:
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        self.rows.append(logits.softmax(3))
        self.columns.append(logits.softmax(2))
        return self.rows[-1] @ v


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


@pytest.mark.kind("mixvit_pure")
def test_pure_training_step(name: str, reference: Path, tmp_path: Path) -> None:
    """The official code takes patch indices for places in the sequence with the class token; so does this test."""
    arrays, meta = load(reference, name)
    model, _ = converted(arrays, meta, tmp_path)
    (branch, names), maps = branch_of(arrays, meta, ""), Maps()
    x, labels = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["labels"])
    before: list[Tensor] = []
    hook = model.blocks[-1].register_forward_pre_hook(lambda _, given: before.append(given[0]))
    with inside_attention(maps, None):  # type: ignore[arg-type]
        logits = model(x)
    hook.remove()
    both = [m.detach() for m in maps.rows], [m.detach() for m in maps.columns]
    scores, (row, column) = mutual_rollout(*both), class_rollouts(*both)
    index = scores.topk(int(meta["config"]["mask_topk"] * scores.shape[1]), dim=1).indices
    torch.manual_seed(meta["torch_seed_before_training_forward"])
    partners = draw_partners(len(x))
    mixed = substitute(before[0], index, partners)
    mask_logits, _ = branch(mixed)
    ce, bce = F.cross_entropy(logits, labels), branch.mask_loss(mask_logits, index)
    total = ce + meta["config"]["mask_weight"] * bce
    assert partners == arrays["train/partners"].tolist() == meta["partners"]
    np.testing.assert_array_equal(index, arrays["train/mask_idxs"])
    for mine, quantity in ((row, "attention_rollout_cls_row"), (column, "contribution_rollout_cls_col"),
                       (scores, "scores"), (before[0], "pre_states"), (mixed, "mixed_states"), (logits, "logits"),
                       (mask_logits, "mask_logits"), (branch.norm(branch.block(mixed))[:, 0], "mask_encoded_cls"),
                       (torch.zeros_like(mask_logits).scatter(1, index, 1.0), "mask_labels")):  # fmt: skip
        torch.testing.assert_close(mine.detach(), torch.from_numpy(arrays[f"train/{quantity}"]), **TOLERANCE)
    assert_losses(arrays, {"ce": ce, "bce": bce, "total": total})
    total.backward()
    assert_gradients(arrays, branch, names)
    assert_gradients(arrays, model, official_names(len(model.blocks)))
    assert_all_gradients_read(arrays)


@pytest.mark.kind("mixvit_hybrid")
def test_hybrid_training_step(name: str, reference: Path, tmp_path: Path) -> None:
    """In doubles: in float32 the gradient through the ResNet's standardised filters is rounded by up to 5e-4."""
    arrays, meta = load(reference, name)
    model, _ = converted(arrays, meta, tmp_path)
    model = model.double()
    (branch, names), maps, weights = branch_of(arrays, meta, "vit."), Maps(), meta["config"]["loss_weights"]
    branch = branch.double()
    x, labels = torch.from_numpy(arrays["input"]).double(), torch.from_numpy(arrays["labels"])
    before: list[Tensor] = []
    hook = model.blocks[-1].register_forward_pre_hook(lambda _, given: before.append(given[0]))
    parts, assign = model.grouping(model.resnet(x))
    with inside_attention(maps, None):  # type: ignore[arg-type]
        logits = model.forward_head(model.norm(model.blocks(model.embed_parts(parts))))
    hook.remove()
    scores = maps.rows[-1].detach()[:, :, 0].mean(1)  # the class token is one of the candidates
    index = scores.topk(int(meta["config"]["mask_topk"] * scores.shape[1]), dim=1).indices
    torch.manual_seed(meta["torch_seed_before_training_forward"])
    partners = draw_partners(len(x))
    mixed = substitute(before[0], index, partners)
    mask_logits, class_logits = branch(mixed)
    losses = {"ce": F.cross_entropy(logits, labels), "mask_ce": F.cross_entropy(class_logits, labels),
              "bce": branch.mask_loss(mask_logits, index), "shaping": shaping_loss(assign)}  # fmt: skip
    total = losses["ce"] + weights["shape"] * losses["shaping"]
    total = total + weights["mask_cls"] * losses["mask_ce"] + weights["mask"] * losses["bce"]
    assert partners == arrays["train/partners"].tolist()
    np.testing.assert_array_equal(index, arrays["train/mask_idxs"])
    kernel = gaussian_kernel(x)[0, 0]
    for mine, quantity in ((scores, "scores"), (mixed, "mixed_states"), (mask_logits, "mask_logits"),
                       (class_logits, "mask_cls_logits"), (kernel, "gaussian_kernel")):  # fmt: skip
        torch.testing.assert_close(mine.detach().float(), torch.from_numpy(arrays[f"train/{quantity}"]), **TOLERANCE)
    assert_losses(arrays, {**losses, "total": total})
    total.backward()
    assert_gradients(arrays, branch, names)
    assert_gradients(arrays, model, hybrid_names(state_of(arrays), len(model.blocks)))
    assert_all_gradients_read(arrays)


def assert_losses(arrays: Any, losses: dict[str, Tensor]) -> None:
    for name, mine in losses.items():
        torch.testing.assert_close(mine.detach().float(), torch.as_tensor(arrays[f"train/{name}"]), atol=0, rtol=1e-5)


def assert_all_gradients_read(arrays: Any) -> None:
    assert {key for key in arrays if "gradnorm/" in key} <= arrays.seen


@pytest.mark.kind("mixvit_hybrid_google")
@torch.no_grad()
def test_hybrid_from_googles_transformer(name: str, reference: Path) -> None:
    """The transformer's part of Google's hybrid files: positions without aligned corners, to (parts, 1)."""
    from tavt_kit.checkpoints.official_mixvit import from_google
    from tavt_kit.timm_import import timm

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
