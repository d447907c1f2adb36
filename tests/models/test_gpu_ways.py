"""The ways that a GPU takes, gone on the CPU: scores beside the fused kernel, sizes in queries and keys, no waits."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models import token_reduction
from tavt_kit.models.backbones import base, thin
from tavt_kit.models.backbones.base import Watch, add_size_bias
from tavt_kit.models.token_reduction import (
    attend_and_score,
    attention_map,
    column_score,
    column_score_alone,
    column_score_by_sums,
    fold_bias,
    tells_sums,
)
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tests.contracts.test_backbone_contract import TOLERANCE, dropping
from tests.contracts.zoo import ZOO, build, images
from tests.parameters import few
from tests.pretend_cuda import MASKED, pretend_cuda

KINDS = ("plain", "qk_norm", "differential", "parallel_things", "dinov2_registers", "siglip", "eva", "beit")


def reducing(kind: str, score: str, reduction: str) -> AdaptiveViT:
    try:
        adaptive = wrap(build(kind), score=score, reduction=reduction)
    except UnsupportedBackbone as error:
        pytest.skip(str(error))
    adaptive.schedule = dropping(adaptive)
    return adaptive


WAYS = [("drop", "column"), ("drop", "cls"), ("merge", "column"), ("merge", "cls")]
QUICK = [(*way, kind) for way in (("drop", "column"), ("merge", "cls")) for kind in KINDS[::4]]


@pytest.mark.parametrize(
    ("reduction", "score", "kind"),
    few([(*way, kind) for way in WAYS for kind in (*KINDS, *(one for one in ZOO if one not in KINDS))], *QUICK),
)
def test_a_gpu_keeps_the_same_tokens_and_waits_for_nobody(kind: str, reduction: str, score: str) -> None:
    adaptive = reducing(kind, score, reduction)
    x = images(adaptive.bare)
    with torch.no_grad():
        expected = adaptive(x), adaptive.forward_lean(x), *adaptive.forward_kept(x)[1]
    with pretend_cuda() as device:
        for dtype in (torch.float32, torch.bfloat16):
            there, inputs = copy.deepcopy(adaptive).to("cuda", dtype), x.to("cuda", dtype)
            with torch.inference_mode():
                found = there(inputs), there.forward_lean(inputs), *there.forward_kept(inputs)[1]
                there.schedule = there.dense_schedule
                there(inputs)
            assert not device.waits
            for one, other in zip(found, expected, strict=True) if dtype == torch.float32 else ():
                torch.testing.assert_close(one.cpu(), other, atol=TOLERANCE, rtol=TOLERANCE)
            device.waits.clear()
        there.schedule = adaptive.schedule
        logits = there.train()(inputs)
        torch.autograd.backward(sum(one.sum() for one in (logits if isinstance(logits, tuple) else (logits,))))
        assert not device.waits


def test_sizes_need_no_mask_but_for_the_one_row_of_a_last_layer() -> None:
    adaptive = reducing("plain", "column", "merge")
    with pretend_cuda() as device, torch.inference_mode():
        inputs = images(adaptive.bare).cuda()
        adaptive.cuda()(inputs)
        assert MASKED not in device.backends
        adaptive.forward_lean(inputs)
        assert device.backends.count(MASKED) == 1


def test_queries_that_autocast_left_in_float32_are_scored_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = torch.randn(3, 2, 3, 20, 16, generator=generator)
    expected = F.scaled_dot_product_attention(q, k, v), column_score(attention_map(q, k, None, None))
    with pretend_cuda(), torch.inference_mode():
        q, k, v = q.cuda(), k.cuda(), v.cuda()
        assert tells_sums(q, k, v, None) and not tells_sums(q, k, v.bfloat16(), None)
        monkeypatch.setattr(base, "keeps_no_map", lambda *given: True)
        torch.testing.assert_close(Watch("column")(q, k, v, None, None, 0.0).cpu(), expected[0])
        torch.testing.assert_close(column_score_alone(q, k, None, None).cpu(), expected[1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["drop", "merge"])
def test_cudas_ways_compile_in_one_piece(monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    def told(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
        return bias is None and q.dtype == k.dtype == v.dtype and q.shape[3] == k.shape[3] == v.shape[3]

    for module in (token_reduction, thin):
        monkeypatch.setattr(module, "tells_sums", told)
    for module in (base, thin):
        monkeypatch.setattr(module, "keeps_no_map", lambda q, k, v, bias: not told(q, k, v, bias))
    adaptive = reducing("plain", "column", reduction)
    lean, x = LeanViT(adaptive), images(adaptive.bare)
    with torch.inference_mode():
        call = torch.compile(lean, fullgraph=True, dynamic=False, backend="eager")
        torch.testing.assert_close(call(x), lean(x), atol=TOLERANCE, rtol=TOLERANCE)


def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    with pretend_cuda() as device:
        x, host = torch.rand(2, 4, device="cuda"), torch.rand(2, 4)
        for wait in (
            x.sum().item, x.nonzero, lambda: x[x > 0.5], lambda: x.new_tensor(2.0), lambda: bool(x.sum() > 1), x.cpu,
            lambda: torch.tensor(2.0, device="cuda"),
        ):  # fmt: skip
            device.waits.clear()
            wait()
            assert device.waits
            with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
                wait()
        with pytest.raises(RuntimeError, match="same device"):
            x + host
        with pytest.raises(TypeError, match=r"Tensor\.cpu"):
            x.numpy()
        assert (x + host.sum() + 1).is_cuda and not host.is_cuda and x[0].t().device.type == "cuda"


BIASES: Mapping[str, tuple[int, ...] | None] = {"none": None, "keys": (4, 1, 1, 5), "places": (1, 3, 5, 5)}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("numbers", [1, 25, 60, 75, 200])
def test_maps_made_a_few_at_a_time_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, bias: str, numbers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 4, 3, 5, 8, generator=generator)
    shape = BIASES[bias]
    added = None if shape is None else torch.randn(shape, generator=generator)
    weights = attention_map(q, k, added, 0.5)
    monkeypatch.setattr(token_reduction, "_IN_CACHE", numbers)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    output, scores = attend_and_score(q, k, v, added, 0.5)
    assert torch.equal(output, weights @ v)
    assert torch.equal(scores, column_score(weights))
    assert torch.equal(column_score_alone(q, k, added, 0.5), scores)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_folded_sizes_are_truer_than_a_bias_in_half_precision(scale: float | None) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (2 * torch.randn(3, 2, 4, 50, 24, generator=generator)).bfloat16()
    sizes = torch.randint(1, 500, (2, 50), generator=generator).float()
    exact = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=sizes.double().log()[:, None, None], scale=scale
    )
    longer_q, longer_k, own = fold_bias(q.float(), k.float(), sizes.log().unsqueeze(1), scale)
    longer_v = F.pad(v, (0, 8))
    assert longer_q.shape[-1] == longer_k.shape[-1] == longer_v.shape[-1] == 32
    in_float = F.scaled_dot_product_attention(longer_q, longer_k, longer_v.float(), scale=own)[..., :24]
    torch.testing.assert_close(in_float.double(), exact, atol=1e-5, rtol=1e-5)
    errors = list[float]()
    biased = (q, k, v, scale, add_size_bias(None, sizes, q.dtype))
    *folded, own = fold_bias(q, k, sizes.log().unsqueeze(1), scale)
    for a, b, c, by, mask in (
        biased,
        (*folded, longer_v, own, None),
    ):  # the products in float32, as CUDA's kernels have them
        mask = None if mask is None else mask.float()
        mixed = F.scaled_dot_product_attention(a.float(), b.float(), c.float(), attn_mask=mask, scale=by)
        errors.append(float((mixed[..., :24].double() - exact).abs().max()))
    assert errors[1] < errors[0] / 20


@pytest.mark.parametrize("scale", [None, 0.3])
def test_column_scores_by_sums_are_truer_than_by_maps_in_half_precision(scale: float | None) -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = (1.5 * torch.randn(2, 2, 4, 150, 24, generator=generator)).bfloat16()
    exact = column_score(attention_map(q.double(), k.double(), None, scale))
    in_float = column_score_by_sums(q.float(), k.float(), scale)
    torch.testing.assert_close(in_float.double(), exact, atol=1e-4, rtol=1e-5)
    by_map, by_sums = column_score_alone(q, k, None, scale), column_score_by_sums(q, k, scale)
    assert by_sums.dtype == torch.float32
    assert (by_sums - exact).abs().max() < (by_map - exact).abs().max() / 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_kernels_are_asked_as_their_shapes_say(dtype: torch.dtype) -> None:
    q = torch.empty(2, 3, 50, 24, dtype=dtype, device="meta")
    if dtype == torch.float32:
        found = torch.ops.aten._scaled_dot_product_efficient_attention(q, q, q, None, True, scale=0.3)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention(q, q, q, 0.0, False, False, scale=0.3)
    assert found[1].shape[:2] == (2, 3) and found[1].shape[2] >= 50 and found[1].dtype == torch.float32


@pytest.mark.gpu(pretended=True)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)])
def test_on_cuda_columns_are_scored_as_by_maps(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 2, 4, 300, 64, generator=generator).to(dtype)
    exact = column_score(attention_map(q.double(), k.double(), None, None))
    found = column_score_alone(q.cuda(), k.cuda(), None, None).cpu()
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=tolerance)
