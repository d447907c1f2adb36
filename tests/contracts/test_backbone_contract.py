"""The law of the wrap, for every kind of timm ViT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones import base, timm_vit, vitae_adapter
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import restore
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.contracts.zoo import BIASED, QUICK, ROPE, VITAE, ZOO, build, images, made_once
from tests.parameters import few

TOLERANCE = 1e-5
every_kind = pytest.mark.parametrize("kind", few(ZOO, *QUICK))
every_score = pytest.mark.parametrize("score", ["column", "cls"])


def dropping(adaptive: AdaptiveViT) -> TokenSchedule:
    """Drops in layers 0 and 2, not in 1, and in the last one: every path of the loop."""
    prefix, patches = adaptive.prefix, adaptive.tokens - adaptive.prefix
    shares = (0.8, 0.8, 0.5, 0.3)
    return TokenSchedule(tuple(prefix + max(2, round(patches * share)) for share in shares))


def wrapped(kind: str, score: str = "column", make: Callable[[str], nn.Module] = made_once) -> AdaptiveViT:
    adaptive = wrap(make(kind))
    if score == "cls" and not adaptive.backbone.has_class_token:
        with pytest.raises(UnsupportedBackbone, match="needs a class token"):
            adaptive.score = "cls"
        pytest.skip("no class token, and refused")
    adaptive.score = score
    adaptive.schedule = dropping(adaptive)
    return adaptive


@every_kind
@torch.no_grad()
def test_dense_schedule_is_the_model_itself(kind: str) -> None:
    model = build(kind)
    bare = model(images(model))
    adaptive = wrap(model)
    assert torch.equal(adaptive(images(model)), bare)
    assert list(adaptive.state_dict()) == list(model.state_dict())
    assert [(name, id(p)) for name, p in adaptive.named_parameters()] == [
        (name, id(p)) for name, p in model.named_parameters()
    ]
    assert adaptive.unwrap() is model
    assert torch.equal(model(images(model)), bare)


@every_kind
@every_score
@torch.no_grad()
def test_positions_do_not_depend_on_the_batch(kind: str, score: str) -> None:
    adaptive = wrapped(kind, score)
    x = images(adaptive.bare)
    logits, kept = adaptive.forward_kept(x)
    for i in range(len(x)):
        alone, kept_alone = adaptive.forward_kept(x[i : i + 1])
        torch.testing.assert_close(alone, logits[i : i + 1], atol=TOLERANCE, rtol=TOLERANCE)
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(kept_alone, kept, strict=True))


@every_kind
@every_score
@torch.no_grad()
def test_kept_positions_are_nested_ascending_and_hold_the_prefix(kind: str, score: str) -> None:
    adaptive = wrapped(kind, score)
    _, kept = adaptive.forward_kept(images(adaptive.bare))
    counts = list(adaptive.schedule.counts)
    if not adaptive.backbone.droppable[-1]:
        counts[-1] = counts[-2]
    assert [place.shape[1] for place in kept] == counts
    before = set(range(adaptive.tokens))
    for place in kept:
        assert (place[:, 1:] > place[:, :-1]).all()
        assert (place[:, : adaptive.prefix] == torch.arange(adaptive.prefix)).all()
        assert set(place[0].tolist()) <= before
        before = set(place[0].tolist())


@every_kind
@every_score
@torch.no_grad()
def test_lean_path_agrees_with_the_plain_one(kind: str, score: str) -> None:
    adaptive = wrapped(kind, score)
    x = images(adaptive.bare)
    for schedule in (adaptive.schedule, adaptive.dense_schedule):
        adaptive.schedule = schedule
        torch.testing.assert_close(adaptive.forward_lean(x), adaptive(x), atol=TOLERANCE, rtol=TOLERANCE)


def reached(model: nn.Module, x: Tensor) -> set[str]:
    model.zero_grad()
    model(x).square().sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()}


@every_kind
def test_gradient_reaches_every_weight(kind: str) -> None:
    # Batch norm while training: a bias before it has no gradient but rounding.
    adaptive = wrapped(kind, make=build).train(kind not in VITAE)
    x = images(adaptive.bare)
    # A class token's row of a padded relative bias is zero, so that table of the last layer trains in neither.
    trainable = reached(adaptive.bare, x)
    # The combiner's logits alone train no classifier: which tokens are the surest has no gradient.
    every = {n for n, _ in adaptive.bare.named_parameters() if kind != "pim" or not n.startswith("classifiers.")}
    assert trainable == every or kind == "relative_class_token"
    assert reached(adaptive, x) == trainable


class KeysMasked(TorchFunctionMode):
    """Runs the bare model on all tokens, but from each layer on hides the keys that the wrap has dropped."""

    def __init__(self, kept: list[Tensor], tokens: int, calls_per_layer: int) -> None:
        super().__init__()
        self.masks = [None]
        for place in kept[:-1]:
            hidden = torch.ones(len(place), tokens, dtype=torch.bool).scatter(1, place, False)
            self.masks.append(hidden[:, None, None, :])  # (B, 1, 1, N)
        self.calls_per_layer = calls_per_layer
        self.call = 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            mask = self.masks[self.call // self.calls_per_layer]
            self.call += 1
            if mask is not None:
                q = args[0]
                bias = kwargs.get("attn_mask")
                bias = torch.zeros(1, 1, q.shape[2], q.shape[2]) if bias is None else bias
                kwargs["attn_mask"] = bias.expand(len(q), -1, -1, -1).masked_fill(mask, float("-inf"))
        return func(*args, **kwargs)


def oracle(model: Any, x: Tensor, kept: list[Tensor], calls_per_layer: int) -> Tensor:
    """The bare model on all tokens with dropped keys at -inf, pooled over the tokens that are left."""
    tokens = wrap(model).tokens
    with KeysMasked(kept, tokens, calls_per_layer):
        features = model.forward_features(x)
    last = kept[-1].unsqueeze(-1).expand(-1, -1, features.shape[-1])
    return model.forward_head(features.gather(1, last))  # type: ignore[no-any-return]


def fusion_oracle(kind: str, model: Any, x: Tensor, kept: list[Tensor]) -> Tensor:
    """FFVT and TransFG by their papers' equations on all tokens, with full maps; what was dropped is masked."""
    tokens = wrap(model).start(x).tokens
    here = torch.ones(tokens.shape[:2], dtype=torch.bool)
    taken, product = [], torch.eye(tokens.shape[1])
    for block, place in zip(model.blocks[:-1], kept, strict=False):
        normed = block.norm1(tokens)
        q, k, v = block.attn.qkv(normed).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(2, 3) * block.attn.scale  # (B, H, N, N)
        rows = logits.masked_fill(~here[:, None, None], float("-inf")).softmax(3)
        columns = logits.masked_fill(~here[:, None, :, None], float("-inf")).softmax(2)
        maws = rows[:, :, 0].mean(1) * columns[..., 0].mean(1)
        tokens = tokens + block.attn.proj((rows @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
        here = torch.zeros_like(here).scatter(1, place, True)
        product = rows @ product
        if kind == "ffvt":
            best = maws.masked_fill(~here, -1.0).argsort(1, descending=True)[:, : min(model.num_token, place.shape[1])]
            taken.append(tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[2])))
    if kind == "transfg":
        best = 1 + product[:, :, 0, 1:].masked_fill(~here[:, None, 1:], -1.0).argmax(2)
        taken.append(tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[2])))
    fused = model.blocks[-1](torch.cat([tokens[:, :1], *taken], dim=1))
    return model.head(model.norm(fused)[:, 0])  # type: ignore[no-any-return]


def pim_oracle(kind: str, model: Any, x: Tensor, kept: list[Tensor]) -> Tensor:
    """PIM over a ViT by the paper's equations, image by image: dropped tokens are no keys and keep their last value."""
    vit, tokens = model.backbone, wrap(model).start(x).tokens
    here = torch.ones(tokens.shape[:2], dtype=torch.bool)
    levels = []
    for block, place in zip(vit.blocks, kept, strict=True):
        q, k, v = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rows = (q @ k.transpose(2, 3) * block.attn.scale).masked_fill(~here[:, None, None], float("-inf")).softmax(3)
        new = tokens + block.attn.proj((rows @ v).transpose(1, 2).flatten(2))
        new = new + block.mlp(block.norm2(new))
        here = torch.zeros_like(here).scatter(1, place, True)
        tokens = torch.where(here[..., None], new, tokens)
        levels.append(tokens)
    return torch.stack([pim_heads_oracle(kind, model, [level[i] for level in levels[-4:]]) for i in range(len(x))])


def pim_heads_oracle(kind: str, model: Any, levels: list[Tensor]) -> Tensor:
    """Levels (N, C) of one image -> its logits (K,), with the norms' running statistics written out."""
    state = {
        name: tensor.squeeze(-1) if name.endswith("weight") else tensor for name, tensor in model.state_dict().items()
    }

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].reshape(-1, x.shape[-1]).T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        scaled = (x - state[f"{name}.running_mean"]) / (state[f"{name}.running_var"] + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"].flatten() + state[f"{name}.bias"]

    projected = [
        linear(f"pyramid.project.{i}.2", linear(f"pyramid.project.{i}.0", f).relu()) for i, f in enumerate(levels)
    ]
    features = [sum(projected[i:], torch.zeros(())) for i in range(4)]
    heads, chosen = [], []
    for i, (feature, count) in enumerate(zip(features, model.num_selects, strict=True)):
        logits = linear(f"classifiers.{i}.3", norm(f"classifiers.{i}.1", linear(f"classifiers.{i}.0", feature)).relu())
        sure = sorted(range(len(feature)), key=lambda token: -float(logits[token].softmax(0).max()))
        chosen += [feature[token] for token in sure[:count]]
        heads.append(logits.mean(0))
    nodes = linear("combiner.gather", torch.stack(chosen, dim=1)).T  # (J, F)
    q, k = linear("combiner.query", nodes).mean(1), linear("combiner.key", nodes).mean(1)
    edges = state["combiner.adjacency"] + state["combiner.strength"] * (q[:, None] - k[None, :]).tanh()
    mixed = norm("combiner.norm", edges.T @ linear("combiner.mix", nodes))
    combined = linear("combiner.head", linear("combiner.join", mixed.T).flatten())
    if kind == "pim":
        return combined
    return torch.stack([head.softmax(0) for head in (*heads, combined)]).mean(0).log()


def vitae_oracle(model: Any, x: Tensor, kept: list[Tensor], pool: str) -> Tensor:
    """ViTAE on all tokens: keys that were dropped are masked, convolutions see every token's latest value."""
    stage = next(i for i, layer in enumerate(model.layers) if len(layer.NC) == 4)
    values = x
    for layer in model.layers[:stage]:
        values = layer(values)
    values = model.layers[stage].RC(values)
    prefix = int(model.class_token)
    here = torch.ones(values.shape[:2], dtype=torch.bool)
    for cell, place in zip(model.layers[stage].NC, kept, strict=True):
        batch, count, width = values.shape
        packed = cell.attn.qkv(cell.norm1(values)).reshape(batch, count, 3, cell.attn.num_heads, -1)
        q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
        logits = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        mixed = logits.masked_fill(~here[:, None, None], float("-inf")).softmax(3) @ v
        side = round((count - prefix) ** 0.5)
        grid = values[:, prefix:].reshape(batch, side, side, width).permute(0, 3, 1, 2).contiguous()
        local = cell.PCM(grid).permute(0, 2, 3, 1).reshape(batch, -1, width)
        after = values + cell.attn.proj(mixed.transpose(1, 2).flatten(2))
        after[:, prefix:] += local
        after = after + cell.mlp(cell.norm2(after))
        here = torch.zeros_like(here).scatter(1, place, True)
        values = torch.where(here[..., None], after, values)
    for layer in model.layers[stage + 1 :]:
        values, pool = layer(values), "restored"
    left = torch.ones_like(here) if pool == "restored" else here
    weights = left[:, prefix:, None].float()
    patches = values[:, prefix:]
    features = patches.mean(1) if pool == "restored" else (patches * weights).sum(1) / weights.sum(1)
    return model.head(model.fc_norm(features))  # type: ignore[no-any-return]


def calls_of(kind: str) -> int:
    return 2 if kind in ("differential", "parallel_things") else 1


def difference_to_oracle(kind: str, score: str, pool: str = "kept") -> float:
    adaptive = wrapped(kind, score)
    adaptive.pool = pool
    x = images(adaptive.bare)
    logits, kept = adaptive.forward_kept(x)
    if kind in ("ffvt", "transfg"):
        expected = fusion_oracle(kind, adaptive.bare, x, kept)
    elif kind in ("pim", "pim_sum"):
        expected = pim_oracle(kind, adaptive.bare, x, kept)
    elif kind in VITAE:
        expected = vitae_oracle(adaptive.bare, x, kept, adaptive.pool)
    else:
        expected = oracle(adaptive.bare, x, kept, calls_of(kind))
    return float((logits - expected).abs().max() / expected.abs().max())


@every_kind
@every_score
@torch.no_grad()
def test_dropping_equals_the_masked_oracle(kind: str, score: str) -> None:
    assert difference_to_oracle(kind, score) < TOLERANCE


@pytest.mark.parametrize("kind", VITAE)
@torch.no_grad()
def test_restored_pooling_of_a_grid_equals_the_masked_oracle(kind: str) -> None:
    assert difference_to_oracle(kind, "column", "restored") < TOLERANCE


@pytest.mark.parametrize("kind", VITAE)
@torch.no_grad()
def test_the_oracle_catches_convolutions_that_miss_the_latest_values(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blank(state: Any) -> Tensor:
        if state.place is None:
            return state.tokens  # type: ignore[no-any-return]
        return restore(torch.zeros_like(state.last), state.tokens, state.place)

    monkeypatch.setattr(vitae_adapter, "_whole", blank)
    assert difference_to_oracle(kind, "column") > 100 * TOLERANCE


@pytest.mark.parametrize("kind", ROPE)
@torch.no_grad()
def test_the_oracle_catches_ungathered_rope(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_vit, "_gather_rope", lambda rope, patches: rope[..., : patches.shape[1], :])
    assert difference_to_oracle(kind, "column") > 100 * TOLERANCE


@pytest.mark.parametrize("kind", BIASED)
@torch.no_grad()
def test_the_oracle_catches_a_wrong_bias_gather(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "gather_bias", lambda bias, place: bias[..., : place.shape[1], : place.shape[1]])
    assert difference_to_oracle(kind, "column") > 100 * TOLERANCE


@pytest.mark.parametrize("kind", BIASED)
@torch.no_grad()
def test_the_oracle_catches_a_bias_gathered_on_one_axis(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys_only(bias: Tensor, place: Tensor) -> Tensor:
        n = place.shape[1]
        return torch.stack([bias.reshape(-1, *bias.shape[-2:])[:, :n, rows] for rows in place])

    monkeypatch.setattr(base, "gather_bias", keys_only)
    assert difference_to_oracle(kind, "column") > 100 * TOLERANCE


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "naflexvit": lambda: timm.create_model("naflexvit_base_patch16_gap"),
    "sam": lambda: timm.create_model("samvit_base_patch16", img_size=256),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224"),
    "resnet": lambda: timm.create_model("resnet18"),
    "convnext": lambda: timm.create_model("convnext_atto"),
    "cait": lambda: timm.create_model("cait_xxs24_224"),
    "patch_drop": lambda: timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.1),
    "no_pooling": lambda: timm.create_model("vit_tiny_patch16_224", global_pool=""),
    "no_timm_model": lambda: nn.Linear(3, 3),
}


@pytest.mark.parametrize("kind", few(REFUSED, "resnet", "patch_drop", "no_pooling", "no_timm_model"))
def test_what_cannot_be_dropped_is_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises(UnsupportedBackbone) as caught:
        wrap(REFUSED[kind]())
    assert len(str(caught.value)) > 40 and "\n" not in str(caught.value)


def test_a_subclass_with_its_own_forward_is_refused() -> None:
    class Other(timm.models.vision_transformer.VisionTransformer):  # type: ignore[misc, name-defined]
        def forward_features(self, x: Tensor) -> Tensor:
            return 2 * super().forward_features(x)

    with pytest.raises(UnsupportedBackbone, match="Other"):
        wrap(Other(img_size=32, embed_dim=12, depth=1, num_heads=2))


def test_a_subclass_that_only_adds_is_what_it_is_made_of() -> None:
    class Mine(timm.models.vision_transformer.VisionTransformer):  # type: ignore[misc, name-defined]
        def birds(self) -> int:
            return self.num_classes

    assert wrap(Mine(img_size=32, embed_dim=12, depth=1, num_heads=2).eval()).bare.birds() == 1000


def test_a_model_without_fused_attention_is_refused() -> None:
    model = build("plain")
    model.blocks[1].attn.fused_attn = False  # type: ignore[index, union-attr]
    with pytest.raises(UnsupportedBackbone, match="fused"):
        wrap(model)
