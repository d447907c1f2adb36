"""Which tokens stay, by which score, and what becomes of the others: against plain loops."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tavt_kit.models.token_reduction import (
    Pick,
    TokenState,
    attention_map,
    choose,
    cls_score,
    column_score,
    drop,
    gather_rows,
    keep_best,
    merge,
    restore,
    similarity,
)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_keep_best_against_numpy(prefix: int) -> None:
    scores = torch.rand(4, 20, generator=torch.Generator().manual_seed(0))
    kept = keep_best(scores, 11, prefix).numpy()
    for row, expected in zip(kept, scores.numpy(), strict=True):
        best = np.argsort(-expected[prefix:], kind="stable")[: 11 - prefix] + prefix
        assert row.tolist() == list(range(prefix)) + sorted(best.tolist())


def test_ties_stay_at_the_lowest_index() -> None:
    scores = torch.tensor([[1.0, 3, 3, 3, 3, 2, 3, 3, 3, 2]])
    assert keep_best(scores, 6, 0).tolist() == [[1, 2, 3, 4, 6, 7]]
    assert keep_best(torch.zeros(1, 9), 4, 1).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("selection", ["argsort", "topk"])
def test_both_selections_agree_without_ties(selection: Literal["argsort", "topk"]) -> None:
    scores = torch.rand(3, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(keep_best(scores, 10, 1, selection), keep_best(scores, 10, 1))


def test_a_tensor_count_keeps_the_same() -> None:
    scores = torch.rand(3, 30, generator=torch.Generator().manual_seed(2))
    for selection in ("argsort", "topk"):
        assert torch.equal(keep_best(scores, torch.tensor(10), 1, selection), keep_best(scores, 10, 1))  # type: ignore[arg-type]


def test_gather_rows_against_torch_gather() -> None:
    values = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(3))
    index = torch.tensor([[0, 2], [1, 6], [3, 4]])
    assert torch.equal(gather_rows(values, index), values.gather(1, index[..., None].expand(-1, -1, 4)))
    assert torch.equal(gather_rows(values[..., 0], index), values[..., 0].gather(1, index))


def test_drop_and_restore_put_every_token_back() -> None:
    tokens = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(4))
    state = TokenState(tokens, prefix=1, along={"name": tokens[..., 0]})
    state = drop(drop(state, torch.tensor([[0, 2, 5, 8], [0, 1, 2, 3]])), torch.tensor([[0, 2], [0, 3]]))
    assert state.place is not None and state.place.tolist() == [[0, 5], [0, 3]]
    assert torch.equal(state.along["name"], state.tokens[..., 0])
    restored = restore(tokens, state.tokens + 1, state.place)
    changed = (restored != tokens).any(-1)
    assert changed.nonzero().tolist() == [[0, 0], [0, 5], [1, 0], [1, 3]]
    assert torch.equal(restored[0, 5], tokens[0, 5] + 1)


def call(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return q, k, torch.randn(1, 3, 5, 5, generator=generator, dtype=torch.float64).to(dtype)


def test_column_is_the_attention_received() -> None:
    q, k, bias = call()
    scores = column_score(attention_map(q, k, bias, None))
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                logits = (k[b, h] * q[b, h, i]).sum(-1) / 2 + bias[0, h, i]
                expected[b] += logits.exp() / logits.exp().sum()
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(scores.sum(1), torch.full((2,), 15.0, dtype=torch.float64))


def test_cls_is_the_first_row_summed_over_heads() -> None:
    q, k, bias = call()
    expected = attention_map(q, k, bias, 0.3)[:, :, 0].sum(1)
    torch.testing.assert_close(cls_score(q, k, bias, 0.3), expected)
    torch.testing.assert_close(cls_score(q[:, :, :1], k, bias, 0.3), expected)


def test_a_bool_mask_hides_keys() -> None:
    q, k, _ = call()
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    mask[..., 3] = False
    assert attention_map(q, k, mask, None)[..., 3].abs().max() == 0


def test_half_precision_is_scored_in_float32() -> None:
    q, k, _ = call(torch.bfloat16)
    assert attention_map(q, k, None, None).dtype == torch.float32


Rows = list[list[float]]


def merged_by_loops(
    tokens: Rows, scores: list[float], sizes: list[float], count: int, prefix: int
) -> tuple[list[int], list[int], Rows, list[float]]:
    """One image by the definition: kept rows, each row's owner (a row of the given tokens), values and sizes."""
    patches = range(prefix, len(tokens))

    def alike(i: int, j: int) -> float:
        lengths = [max(math.sqrt(sum(x * x for x in tokens[k])), 1e-6) for k in (i, j)]
        return sum(x * y for x, y in zip(tokens[i], tokens[j], strict=True)) / lengths[0] / lengths[1]

    cost = {}
    for i in patches:
        leaders = [alike(i, j) for j in patches if (scores[j], -j) > (scores[i], -i)]
        cost[i] = scores[i] * (1 - max([-1.0, *leaders]))
    best = sorted(patches, key=lambda i: (-cost[i], i))[: count - prefix]
    kept = [*range(prefix), *sorted(best)]
    owner = list(range(prefix))
    for i in patches:
        owner.append(i if i in best else max(sorted(best), key=lambda j: (alike(i, j), -j)))
    values, totals = [], []
    for j in kept:
        group = [i for i in range(len(tokens)) if owner[i] == j]
        totals.append(sum(sizes[i] for i in group))
        values.append([sum(sizes[i] * tokens[i][d] for i in group) / totals[-1] for d in range(len(tokens[0]))])
    return kept, owner, values, totals


def random_state(prefix: int, seed: int, *, sizes: bool) -> tuple[TokenState, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(4, 14, 6, generator=generator)
    weights = torch.randint(1, 5, (4, 14), generator=generator).float()
    weights[:, :prefix] = 1
    rows = torch.arange(14).expand(4, -1)
    return TokenState(tokens, prefix, sizes=weights if sizes else None, owner=rows), torch.rand(
        4, 14, generator=generator
    )


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("count", [7, 10, 14])
def test_merging_equals_the_loops(prefix: int, sizes: bool, count: int) -> None:
    state, scores = random_state(prefix, seed=prefix, sizes=sizes)
    after = merge(state, scores, Pick(count, prefix, "column"))
    assert after.place is not None and after.sizes is not None and after.owner is not None
    for image in range(4):
        given = [1.0] * 14 if state.sizes is None else state.sizes[image].tolist()
        kept, owner, values, totals = merged_by_loops(
            state.tokens[image].tolist(), scores[image].tolist(), given, count, prefix
        )
        assert after.place[image].tolist() == kept
        assert after.place[image][after.owner[image]].tolist() == owner
        assert after.sizes[image].tolist() == totals
        torch.testing.assert_close(after.tokens[image], torch.tensor(values))


def test_of_equal_importance_the_lower_index_leads_and_ties_go_to_the_lowest() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]])
    after = merge(TokenState(tokens, 0, owner=torch.arange(5)[None]), torch.ones(1, 5), Pick(2, 0, "column"))
    # 0 leads all; 2 is led by 0 alone, which it does not resemble; 4 resembles both equally and goes into the lower.
    assert after.place is not None and after.place.tolist() == [[0, 2]]
    assert after.owner is not None and after.owner.tolist() == [[0, 0, 1, 1, 0]]
    assert after.sizes is not None and after.sizes.tolist() == [[3.0, 2.0]]


def test_the_most_important_patch_always_stays() -> None:
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(2, 9, 3, generator=generator)
        tokens[:, 1:] = torch.where(torch.rand(2, 8, 1, generator=generator) < 0.5, -tokens[:, :1], tokens[:, :1])
        scores = torch.rand(2, 9, generator=generator)
        kept, own = choose(similarity(tokens), scores, Pick(1, 0, "column"))
        assert torch.equal(kept[:, 0], scores.argmax(dim=1))
        assert not own.any()


def test_opposite_and_blank_tokens_are_finite() -> None:
    tokens = torch.zeros(1, 6, 4)
    tokens[0, 1] = 1e-30
    after = merge(TokenState(tokens, 1), torch.zeros(1, 6), Pick(3, 1, "column"))
    assert torch.isfinite(after.tokens).all()
    assert after.place is not None and after.place.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_chooses_in_float32(dtype: torch.dtype) -> None:
    """Lengths above 256 overflow when squared in float16, and ``1 - near`` would be a tie in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    tokens = (300 * (1 + 0.01 * torch.randn(2, 40, 16, generator=generator))).to(dtype)
    scores = torch.rand(2, 40, generator=generator)
    half = merge(TokenState(tokens, 1), scores, Pick(12, 1, "column"))
    full = merge(TokenState(tokens.float(), 1), scores, Pick(12, 1, "column"))
    assert half.tokens.dtype == dtype
    assert half.place is not None and full.place is not None and torch.equal(half.place, full.place)
    with torch.autocast("cpu", torch.bfloat16):
        cast = merge(TokenState(tokens, 1), scores, Pick(12, 1, "column"))
    assert torch.equal(cast.tokens, half.tokens)


def test_gradients_flow_through_the_means_and_not_through_the_choice() -> None:
    tokens = torch.randn(1, 5, 3, requires_grad=True)
    scores = torch.rand(1, 5, requires_grad=True)
    state = TokenState(tokens, 0, owner=torch.arange(5)[None])
    after = merge(state, scores, Pick(2, 0, "column"))
    assert after.owner is not None and after.sizes is not None
    after.tokens[0, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is None and tokens.grad is not None
    expected = (after.owner[0] == 0).float() / after.sizes[0, 0]
    torch.testing.assert_close(tokens.grad[0], expected[:, None].expand(-1, 3))


@pytest.mark.parametrize("selection", ["argsort", "topk"])
def test_a_count_as_a_tensor_merges_the_same(selection: str) -> None:
    state, scores = random_state(1, seed=9, sizes=True)
    fixed = merge(state, scores, Pick(6, 1, "column"))
    given = merge(state, scores, Pick(torch.tensor(6), 1, "column", selection))  # type: ignore[arg-type]
    assert torch.equal(fixed.tokens, given.tokens)
    assert fixed.sizes is not None and given.sizes is not None and torch.equal(fixed.sizes, given.sizes)


def test_keeping_all_changes_values_by_rounding_at_most() -> None:
    state, scores = random_state(1, seed=3, sizes=True)
    after = merge(state, scores, Pick(14, 1, "column"))
    torch.testing.assert_close(after.tokens, state.tokens, atol=1e-6, rtol=1e-6)
    assert after.sizes is not None and state.sizes is not None and torch.equal(after.sizes, state.sizes)
