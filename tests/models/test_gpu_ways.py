"""The ways that a GPU takes, gone on the CPU: scores beside the fused kernel, sizes in queries and keys, no waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tavt_kit.models import token_reduction
from tavt_kit.models.backbones import base, thin
from tavt_kit.models.backbones.base import add_size_bias, fold_sizes
from tavt_kit.models.token_reduction import attend_and_score, attention_map, column_score, column_score_alone
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.contracts.test_backbone_contract import TOLERANCE, dropping
from tests.contracts.zoo import build, images

KINDS = ("plain", "qk_norm", "differential", "parallel_things", "dinov2_registers", "siglip", "eva", "beit")
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique", "lift_fresh")
"""What makes the host wait for a GPU, or hands it a number of its own; neither can be recorded as a CUDA graph."""


class Waits(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        if name.startswith(WAITS) or any(isinstance(one, Tensor) and one.dtype == torch.bool for one in _indices(args)):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _indices(args: Sequence[Any]) -> Sequence[Any]:
    return args[1] if len(args) > 1 and isinstance(args[1], list) else ()


def reducing(kind: str, score: str, reduction: str) -> AdaptiveViT:
    adaptive = wrap(build(kind), reduction=reduction)
    if score == "cls" and not adaptive.backbone.has_class_token:  # type: ignore[attr-defined]
        pytest.skip("no class token")
    adaptive.score = score
    adaptive.schedule = dropping(adaptive)
    return adaptive


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        for module in (base, thin):
            monkeypatch.setattr(module, "keeps_no_map", lambda q: True)
        monkeypatch.setattr(base, "folds_sizes", lambda q: True)

    return switch


every_way = pytest.mark.parametrize(
    ("reduction", "score"), [("drop", "column"), ("drop", "cls"), ("merge", "column"), ("merge", "cls")]
)


@pytest.mark.parametrize("kind", KINDS)
@every_way
@torch.no_grad()
def test_a_gpu_keeps_the_same_tokens_and_answers_alike(
    as_on_a_gpu: Callable[[], None], kind: str, reduction: str, score: str
) -> None:
    adaptive = reducing(kind, score, reduction)
    x = images(adaptive.bare)
    expected, lean, kept = adaptive(x), adaptive.forward_lean(x), adaptive.forward_kept(x)[1]
    as_on_a_gpu()
    torch.testing.assert_close(adaptive(x), expected, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(adaptive.forward_lean(x), lean, atol=TOLERANCE, rtol=TOLERANCE)
    assert all(torch.equal(a, b) for a, b in zip(adaptive.forward_kept(x)[1], kept, strict=True))


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("kind", ("plain", "dinov2_registers", "eva", "beit"))
@every_way
@torch.inference_mode()
def test_nothing_waits_inside_a_pass(
    as_on_a_gpu: Callable[[], None], kind: str, reduction: str, score: str, gpu: bool
) -> None:
    adaptive = reducing(kind, score, reduction)
    x = images(adaptive.bare)
    if gpu:
        as_on_a_gpu()
    with Waits() as waits:
        adaptive(x)
        adaptive.forward_lean(x)
        adaptive.schedule = adaptive.dense_schedule
        adaptive(x)
        adaptive.forward_lean(x)
    assert not waits.found


def test_waits_are_seen() -> None:
    x = torch.rand(4)
    for wait in (x.sum().item, x.nonzero, lambda: x[x > 0.5], lambda: x.new_tensor(2.0), lambda: bool(x.sum() > 1)):
        with Waits() as waits:
            wait()
        assert waits.found


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
    longer_q, longer_k, longer_v, own = fold_sizes(q.float(), k.float(), v.float(), sizes, scale)
    assert longer_q.shape[-1] == longer_k.shape[-1] == longer_v.shape[-1] == 32
    in_float = F.scaled_dot_product_attention(longer_q, longer_k, longer_v, scale=own)[..., :24]
    torch.testing.assert_close(in_float.double(), exact, atol=1e-5, rtol=1e-5)
    errors = list[float]()
    biased = (q, k, v, scale, add_size_bias(None, sizes, q.dtype))
    *folded, own = fold_sizes(q, k, v, sizes, scale)
    for a, b, c, by, mask in (biased, (*folded, own, None)):  # the products in float32, as CUDA's kernels have them
        mask = None if mask is None else mask.float()
        mixed = F.scaled_dot_product_attention(a.float(), b.float(), c.float(), attn_mask=mask, scale=by)
        errors.append(float((mixed[..., :24].double() - exact).abs().max()))
    assert errors[1] < errors[0] / 20
