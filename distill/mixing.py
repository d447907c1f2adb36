"""Mix-ViT's training objectives (Yu et al., Pattern Recognition 2023): predict what was mixed, and shape the parts.

In training, the tokens that matter most are replaced by those of another image; one more block and a head say which
places were replaced. Its evaluation runs none of this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.distill.losses import at_least_f32
from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.timm_import import timm

__all__ = [
    "AttentionCall",
    "AttentionCalls",
    "MixBranch",
    "class_rollouts",
    "draw_partners",
    "gaussian_kernel",
    "mutual_rollout",
    "shaping_loss",
    "substitute",
]

_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """What an attention map is made of.

    Args:
        q: (B, H, N, d).
        k: (B, H, N, d).
        scale: Of their products.
    """

    q: Tensor
    k: Tensor
    scale: float

    def logits(self, queries: slice = slice(None), keys: slice = slice(None)) -> Tensor:
        """(B, H, queries, keys), at least in float32 so that half precision makes no false ties."""
        with torch.autocast(self.q.device.type, enabled=False):
            q, k = at_least_f32(self.q[:, :, queries]), at_least_f32(self.k[:, :, keys])
            return (q * self.scale) @ k.transpose(-2, -1)


class AttentionCalls(Watch):
    """Notes the queries and keys of each attention call, which stays fused."""

    def __init__(self) -> None:
        super().__init__("calls")
        self.calls: list[AttentionCall] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        self.calls.append(AttentionCall(q.detach(), k.detach(), q.shape[-1] ** -0.5 if scale is None else scale))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


@torch.no_grad()
def class_rollouts(calls: Sequence[AttentionCall]) -> tuple[Tensor, Tensor]:
    """What each patch gives to the class token over all layers, and what it takes from it (without identity, 3.2).

    The class token's row of the product of attention maps, and its column of the product of the same scores under a
    softmax over queries; means over heads. Vector by vector: the same numbers as by products of whole maps, of which
    one at a time is made again from its queries and keys, so that none is kept.

    Args:
        calls: Of each layer, first to last.

    Returns:
        Two of (B, N - 1), one entry for each patch.
    """
    row = calls[-1].logits(queries=slice(0, 1)).softmax(-1)  # (B, H, 1, N)
    for call in reversed(calls[:-1]):
        row = row @ call.logits().softmax(-1)
    column = calls[0].logits(keys=slice(0, 1)).softmax(-2)  # (B, H, N, 1)
    for call in calls[1:]:
        column = call.logits().softmax(-2) @ column
    return row[:, :, 0, 1:].mean(1), column[:, :, 1:, 0].mean(1)


def mutual_rollout(calls: Sequence[AttentionCall]) -> Tensor:
    """(B, N - 1): the product of both of ``class_rollouts``, by which the pure model's patches are ranked."""
    row, column = class_rollouts(calls)
    return row * column


def draw_partners(batch: int) -> list[int]:
    """For each image another one, by torch's random state, as the official code draws them.

    Raises:
        TrainingError: A batch of one has no other image.
    """
    if batch < 2:
        raise TrainingError(f"mixing needs at least two images in a batch, got {batch}; use a larger `batch`")
    partners = []
    for image in range(batch):
        other = image
        while other == image:
            other = int(torch.randint(0, batch, (1, 1)))
        partners.append(other)
    return partners


def substitute(states: Tensor, index: Tensor, partners: Sequence[int]) -> Tensor:
    """Replace each image's tokens by its partner's, rank by rank, one image after another.

    A later image may so receive tokens that were mixed before, as in the official code.

    Args:
        states: (B, N, D).
        index: (B, k) places, the most important first.
        partners: For each image where its new tokens come from.
    """
    mixed = list(states.unbind(0))
    for image, partner in enumerate(partners):
        mixed[image] = mixed[image].index_copy(0, index[image], mixed[partner][index[partner]])
    return torch.stack(mixed)


class MixBranch(nn.Module):
    """One more block over mixed tokens, and its heads.

    Args:
        width: D.
        heads: Attention heads.
        mlp_dim: Width of the feed-forward half.
        places: Outputs of the head that says which places were replaced.
        classes: Outputs of a second head (hybrid model), or ``None``.
    """

    def __init__(self, width: int, heads: int, mlp_dim: int, places: int, classes: int | None = None) -> None:
        super().__init__()
        block = timm.models.vision_transformer.Block
        heads = math.gcd(width, heads)  # of a pruned model they may not divide its width
        self.block = block(width, heads, mlp_dim / width, qkv_bias=True, norm_layer=timm.layers.LayerNorm)
        self.norm = timm.layers.LayerNorm(width)
        self.mask_head = nn.Linear(width, places)
        self.mask_cls_head = None if classes is None else nn.Linear(width, classes)

    def forward(self, mixed: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> which places were replaced (B, places) as logits, and the class logits (B, K)."""
        token = self.norm(self.block(mixed))[:, 0]
        return self.mask_head(token), None if self.mask_cls_head is None else self.mask_cls_head(token)

    def mask_loss(self, logits: Tensor, index: Tensor) -> Tensor:
        """Binary cross-entropy of (B, places) logits with 1 at ``index`` (B, k), over all places."""
        return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits).scatter(1, index, 1.0))


def shaping_loss(assign: Tensor) -> Tensor:
    """How far the parts' presence over the batch is from Beta(1, 0.001), in logarithms (Huang and Li, CVPR 2020).

    Args:
        assign: (B, P, h, w), the grouping unit's.

    Raises:
        TrainingError: The map is smaller than the Gaussian filter that runs over it.
    """
    (batch, parts), sides = assign.shape[:2], assign.shape[2:]
    kernel = gaussian_kernel(assign).expand(parts, 1, -1, -1)
    least = len(kernel[0, 0])
    if min(sides) < least:
        raise TrainingError(
            f"parts are shaped on feature maps of at least {least} places a side, got {sides[0]}x{sides[1]}; "
            "give a larger `image_size`, or `loss_weight` shaping=0"
        )
    presence = F.conv2d(assign, kernel, groups=parts).amax(dim=(2, 3)).sort(dim=0).values  # (B, P)
    quantiles = (2 * torch.arange(batch, device=assign.device) + 1) / (2 * batch)
    prior = 1 - (1 - quantiles) ** (1 / 0.001)  # the inverse of 1 - (1 - x) ** 0.001
    return ((presence + _EPSILON).log() - (prior + _EPSILON).log()[:, None]).abs().mean()


def gaussian_kernel(like: Tensor, radius: int = 2, deviation: float = 0.4) -> Tensor:
    """(1, 1, 2 * radius + 1, 2 * radius + 1), summing to 1, of the type of ``like``."""
    offsets = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = (-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * deviation**2)).exp()
    return (kernel / kernel.sum())[None, None]
