from __future__ import annotations

import torch

from tavt_kit.models.scores import attention_map, cls_score, column_score


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
