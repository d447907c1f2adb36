from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from tavt_kit.models.drop import drop, gather_rows, keep_best, restore
from tavt_kit.models.tokens import TokenState


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
