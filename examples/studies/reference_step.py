"""A distillation step as TAVT's official loop makes it, written anew from its description, to be compared with.

Every network of the sandwich is a forward pass of its own from the images on, and a backward pass of its own. Attention
is a product, a softmax and a product, whose whole maps (B, H, n, n) stay until the backward pass; tokens are kept in
descending order of their scores; and all tokens are restored to their places after each layer that dropped, so that the
last norm runs over all of them. Cross-entropies of the sub-networks are computed and not used. Dropout is off, so that
the losses can be compared with ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.core.schedule import TokenSchedule


class ReferenceLayer(nn.Module):
    """One block: attention with separate projections, its whole map, the drop, and the feed-forward half."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        width = block.norm1.weight.shape[0]
        self.heads = int(block.attn.num_heads)
        self.attention_norm = nn.LayerNorm(width, eps=block.norm1.eps)
        self.ffn_norm = nn.LayerNorm(width, eps=block.norm2.eps)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1 = nn.Linear(width, block.mlp.fc1.out_features)
        self.fc2 = nn.Linear(block.mlp.fc1.out_features, width)
        _copy(self.attention_norm, block.norm1)
        _copy(self.ffn_norm, block.norm2)
        _copy(self.out, block.attn.proj)
        _copy(self.fc1, block.mlp.fc1)
        _copy(self.fc2, block.mlp.fc2)
        with torch.no_grad():
            weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
            for linear, weight, bias in zip((self.query, self.key, self.value), weights, biases, strict=True):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)

    def forward(self, x: Tensor, count: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, n, D) -> (B, count, D), the attention map (B, H, n, n), and the rows that were kept (None: all)."""
        batch, tokens, width = x.shape
        h = self.attention_norm(x)
        q, k, v = (
            each(h).view(batch, tokens, self.heads, -1).permute(0, 2, 1, 3)
            for each in (self.query, self.key, self.value)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(width // self.heads)
        probabilities = scores.softmax(dim=-1)
        mixed = torch.matmul(probabilities, v).permute(0, 2, 1, 3).contiguous().view(batch, tokens, width)
        x = x + self.out(mixed)
        kept = None
        if count is not None:
            significance = probabilities.sum(2).sum(1)
            best = significance[:, 1:].topk(count - 1, 1).indices + 1
            kept = torch.cat([torch.zeros_like(best[:, :1]), best], dim=1)
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, width))
        return x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x)))), probabilities, kept


class ReferenceViT(nn.Module):
    """A ViT with the weights of a timm one (class token, learned positions, no LayerScale)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, model.embed_dim, model.patch_embed.patch_size, model.patch_embed.patch_size)
        self.layers = nn.ModuleList(ReferenceLayer(block) for block in model.blocks)
        self.norm = nn.LayerNorm(model.embed_dim, eps=model.norm.eps)
        self.head = nn.Linear(model.embed_dim, model.num_classes)
        for ours, theirs in ((self.patch, model.patch_embed.proj), (self.norm, model.norm), (self.head, model.head)):
            _copy(ours, theirs)
        self.cls_token = nn.Parameter(model.cls_token.detach().clone())
        self.pos_embed = nn.Parameter(model.pos_embed.detach().clone())

    def forward(self, images: Tensor, counts: Sequence[int] | None) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> logits (B, K), and the attention maps of all layers."""
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        restored, place = x, None
        maps: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x, attention, kept = layer(x, None if counts is None else counts[number])
            maps.append(attention)
            if kept is not None:
                place = kept if place is None else place.gather(1, kept)
                restored = restored.scatter(1, place.unsqueeze(-1).expand_as(x), x)
            else:
                restored = x
        return self.head(self.norm(restored)[:, 0]), maps


def reference_step(
    model: ReferenceViT,
    images: Tensor,
    labels: Tensor,
    subs: Sequence[TokenSchedule],
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> tuple[Tensor, ...]:
    """Gradients of one step; returns the cross-entropy of the full network and the divergences of ``subs``."""
    share = 1 / (len(subs) + 1)
    logits, _maps = model(images, None)
    loss = F.cross_entropy(logits, labels)
    nothing = sum((parameter.sum() for parameter in model.parameters()), start=torch.zeros_like(loss)) * 0
    backward(loss * share + nothing)
    teacher = logits.detach()
    losses = [loss.detach()]
    for sub in subs:
        student, _maps = model(images, sub.counts)
        F.cross_entropy(student, labels)
        apart = F.kl_div(F.log_softmax(teacher, -1), F.softmax(student, -1), reduction="batchmean")
        backward(apart * share)
        losses.append(apart.detach())
    return tuple(losses)


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())
