"""Merging over every kind of model whose tokens drop: by a pass over duplicated tokens, and by laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models import wrap as adaptive_module
from tavt_kit.models.backbones import base, timm_vit
from tavt_kit.models.costs import count_pass
from tavt_kit.models.flops import count_macs
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.token_reduction import Owners, Pick, TokenState, gather_rows
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, SwitchableViT, wrap
from tests.contracts.test_backbone_contract import TOLERANCE, dropping, reached
from tests.contracts.zoo import QUICK, VITAE, ZOO, build, images, made_once
from tests.models.test_token_reduction import merged_by_loops
from tests.parameters import few

REFUSED = (*VITAE, "ffvt", "transfg", "pim", "pim_sum")
MERGING = tuple(kind for kind in ZOO if kind not in REFUSED)
every_kind = pytest.mark.parametrize("kind", few(MERGING, *QUICK))
every_score = pytest.mark.parametrize("score", ["column", "cls"])


def merging(
    kind: str, score: str = "column", pool: str = "kept", make: Callable[[str], nn.Module] = made_once
) -> AdaptiveViT:
    adaptive = wrap(make(kind), pool=pool, reduction="merge")
    if score == "cls" and not adaptive.backbone.has_class_token:  # type: ignore[attr-defined]
        pytest.skip("no class token")
    adaptive.score = score
    adaptive.schedule = dropping(adaptive)
    return adaptive


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_merged_is_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises(UnsupportedBackbone, match="cannot be merged") as caught:
        wrap(build(kind), reduction="merge")
    assert "reduction 'drop'" in str(caught.value) and "\n" not in str(caught.value)


@every_kind
@torch.no_grad()
def test_dense_is_the_model_itself(kind: str) -> None:
    model = made_once(kind)
    assert torch.equal(wrap(model, reduction="merge")(images(model)), model(images(model)))


def duplicated(adaptive: AdaptiveViT, x: Tensor, owners: list[Tensor]) -> Tensor:
    """All N tokens to the end: those of one owner share its place and, from each merging on, their mean value."""
    backbone, state = adaptive.backbone, adaptive.backbone.embed(x)
    before = torch.arange(adaptive.tokens).expand(len(x), -1)
    for layer, owner in enumerate(owners):
        state = backbone.attend(layer, state, None)
        if not torch.equal(owner, before):
            together = (owner.unsqueeze(1) == owner.unsqueeze(2)).float()  # (B, N, N)
            means = together @ state.tokens / together.sum(2, keepdim=True)
            state = replace(state, tokens=means, place=owner)
        state = backbone.feed(layer, state)
        before = owner
    return backbone.outputs(state).logits  # type: ignore[no-any-return]


def difference_to_duplicates(adaptive: AdaptiveViT) -> float:
    x = images(adaptive.bare)
    logits, owners = adaptive.forward_owned(x)
    expected = duplicated(adaptive, x, owners)
    return float((logits - expected).abs().max() / expected.abs().max())


@every_kind
@every_score
@pytest.mark.parametrize("pool", ["kept", "restored"])
@torch.no_grad()
def test_merging_equals_duplicated_tokens(kind: str, score: str, pool: str) -> None:
    assert difference_to_duplicates(merging(kind, score, pool)) < TOLERANCE


@every_kind
@torch.no_grad()
def test_without_log_sizes_the_duplicates_catch_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, timm_vit):
        monkeypatch.setattr(module, "add_size_bias", lambda bias, sizes, dtype: bias)
    assert difference_to_duplicates(merging(kind)) > 100 * TOLERANCE


@every_kind
@every_score
@torch.no_grad()
def test_every_merging_of_a_pass_equals_the_loops(kind: str, score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0

    def compared(state: TokenState, scores: Tensor, pick: Pick, owners: Owners) -> TokenState:
        nonlocal seen
        after = merge(state, scores, pick, owners)
        sizes = torch.ones_like(scores) if state.sizes is None else state.sizes
        assert after.sizes is not None and after.place is not None and isinstance(pick.count, int)
        for image in range(len(scores)):
            kept, _, values, totals = merged_by_loops(
                state.tokens[image].double().tolist(),
                scores[image].double().tolist(),
                sizes[image].tolist(),
                pick.count,
                pick.prefix,
            )
            place = torch.arange(state.count) if state.place is None else state.place[image]
            assert after.place[image].tolist() == place[kept].tolist()
            assert after.sizes[image].tolist() == totals
            torch.testing.assert_close(after.tokens[image], torch.tensor(values), atol=1e-5, rtol=1e-5)
        seen += 1
        return after

    merge = adaptive_module.merge
    adaptive = merging(kind, score)
    monkeypatch.setattr(adaptive_module, "merge", compared)
    adaptive(images(adaptive.bare))
    assert seen == 3


@every_kind
@every_score
@torch.no_grad()
def test_the_lean_path_shared_passes_and_a_batch_of_one_agree(kind: str, score: str) -> None:
    adaptive = merging(kind, score)
    x = images(adaptive.bare)
    milder = TokenSchedule((adaptive.tokens - 1, *adaptive.schedule.counts[1:]))
    for schedule, shared in shared_logits(adaptive, x, [adaptive.schedule, adaptive.dense_schedule, milder]):
        adaptive.schedule = schedule
        plain, kept = adaptive.forward_kept(x)
        torch.testing.assert_close(adaptive.forward_lean(x), plain, atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(shared, plain, atol=TOLERANCE, rtol=TOLERANCE)
        assert [place.shape[1] for place in kept] == list(schedule.counts)
        for i in range(len(x)):
            alone, kept_alone = adaptive.forward_kept(x[i : i + 1])
            torch.testing.assert_close(alone, plain[i : i + 1], atol=TOLERANCE, rtol=TOLERANCE)
            assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(kept_alone, kept, strict=True))


@every_kind
@torch.no_grad()
def test_counts_as_an_input_give_the_same(kind: str) -> None:
    adaptive = merging(kind)
    x = images(adaptive.bare)
    expected = adaptive.forward_lean(x)
    counts = torch.tensor(adaptive.schedule.counts)
    for selection in ("argsort", "topk"):
        for sites in (None, (0, 2, 3)):
            switchable = SwitchableViT(adaptive, selection, sites=sites)  # type: ignore[arg-type]
            torch.testing.assert_close(switchable(x, counts), expected, atol=TOLERANCE, rtol=TOLERANCE)
    dense = torch.full((adaptive.layers,), adaptive.tokens)
    adaptive.schedule = adaptive.dense_schedule
    found = SwitchableViT(adaptive, sites=(1,))(x, dense)
    torch.testing.assert_close(found, adaptive.forward_lean(x), atol=TOLERANCE, rtol=TOLERANCE)


@every_kind
@torch.no_grad()
def test_a_permutation_of_patches_changes_nothing_but_the_order(kind: str) -> None:
    adaptive = merging(kind)
    x = images(adaptive.bare)
    generator = torch.Generator().manual_seed(5)
    order = torch.cat(
        [
            torch.arange(adaptive.prefix),
            adaptive.prefix + torch.randperm(adaptive.tokens - adaptive.prefix, generator=generator),
        ]
    )
    whole = torch.arange(adaptive.tokens).expand(len(x), -1)
    start = replace(adaptive.start(x, track=True), place=whole)
    moved = replace(start, tokens=start.tokens[:, order], place=whole[:, order])
    ends = [adaptive.advance(state, range(adaptive.layers), adaptive.schedule.counts) for state in (start, moved)]
    torch.testing.assert_close(adaptive.finish(ends[1]), adaptive.finish(ends[0]), atol=TOLERANCE, rtol=TOLERANCE)
    places: Any = [end.place for end in ends]
    owners: Any = [place.gather(1, end.owner) for place, end in zip(places, ends, strict=True)]
    assert torch.equal(places[0], places[1].sort(dim=1).values)
    assert torch.equal(owners[0][:, order], owners[1])


@every_kind
def test_gradient_reaches_every_weight(kind: str) -> None:
    adaptive = merging(kind, make=build).train()
    x = images(adaptive.bare)
    assert reached(adaptive, x) == reached(adaptive.bare, x)


@every_kind
@every_score
@torch.no_grad()
def test_multiply_adds_in_closed_form_are_those_counted(kind: str, score: str) -> None:
    adaptive = merging(kind, score)
    counted = count_pass(LeanViT(adaptive), images(adaptive.bare, batch=1))
    assert counted == count_macs(adaptive)


@torch.no_grad()
def test_each_token_is_restored_as_its_owner() -> None:
    adaptive = merging("plain")
    x = images(adaptive.bare)
    logits, owners = adaptive.forward_owned(x)
    schedule = adaptive.schedule
    state = adaptive.advance(adaptive.start(x, track=True), schedule.running, schedule.counts)
    assert torch.equal(logits, adaptive.finish(state)) and state.owner is not None
    restored = gather_rows(state.tokens, state.owner)
    own = owners[-1].unsqueeze(2).expand_as(restored)
    assert torch.equal(restored, restored.gather(1, own))
    assert len(restored[0].unique(dim=0)) == adaptive.schedule.counts[-1]


def test_owners_are_for_merging_only() -> None:
    with pytest.raises(UnsupportedBackbone, match="reduction"):
        wrap(build("plain")).forward_owned(torch.zeros(1, 3, 64, 64))
