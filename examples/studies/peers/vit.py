"""A timm ViT run half by half, for methods that change the tokens between a block's halves."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.thin import is_thin
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import Selection


class PeerViT(nn.Module):
    """The weights of a class-token ViT, and a reduction of the tokens after each attention.

    As in our own lean path, the last block computes the class token alone, since the head reads nothing else: without
    that, what is compared would be this, and not the methods.

    Args:
        bare: timm's; its weights are shared.

    ``selection`` is as in ``drop.Pick``: ``"topk"`` for static ONNX.

    Raises:
        UnsupportedBackbone: Not a plain ViT whose head reads one leading class token.
    """

    def __init__(self, bare: nn.Module) -> None:
        super().__init__()
        self.bare: Any = bare
        self.selection: Selection = "argsort"
        blocks: list[Any] = list(self.bare.blocks)
        plain = all(type(b) is timm.models.vision_transformer.Block and is_thin(b.attn) for b in blocks)
        if not plain or self.bare.num_prefix_tokens != 1 or self.bare.global_pool != "token":
            raise UnsupportedBackbone(
                "the peers are written for timm's plain ViT with one class token that the head reads, not for "
                f"{type(bare).__name__} with {getattr(bare, 'num_prefix_tokens', 'other')} leading tokens"
            )

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.bare.blocks)

    @property
    def tokens(self) -> int:
        """Of an image, the class token with them."""
        return 1 + int(self.bare.patch_embed.num_patches)

    def after(self, layer: int, count: int) -> int:
        """How many tokens leave ``layer`` where ``count`` enter it."""
        raise NotImplementedError

    def reduce(
        self, layer: int, count: int, x: Tensor, q: Tensor, k: Tensor, sizes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, n, D) and their sizes (B, n, 1) after the attention of ``layer`` -> those that go on.

        Args:
            layer: Any but the last.
            count: n, a plain number in a traced graph too.
            x: After the attention's residual.
            q: (B, H, n, d) queries.
            k: (B, H, n, d) keys.
            sizes: How many patches each token stands for; ``None``: each for itself.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        bare, sizes, count = self.bare, None, self.tokens
        x = bare.norm_pre(bare._pos_embed(bare.patch_embed(images)))
        for layer, block in enumerate(bare.blocks):
            last = layer == self.depth - 1
            x, q, k = attend(block, x, sizes, rows=1 if last else None)
            if not last:
                x, sizes = self.reduce(layer, count, x, q, k, sizes)
                count = self.after(layer, count)
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        logits: Tensor = bare.forward_head(bare.norm(x))
        return logits

    def counts(self) -> tuple[int, ...]:
        """Tokens after each layer; the last layer reduces nothing."""
        found = [self.tokens]
        for layer in range(self.depth - 1):
            found.append(self.after(layer, found[-1]))
        return (*found[1:], found[-1])


def attend(block: Any, x: Tensor, sizes: Tensor | None, rows: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The attention half of a block; queries (B, H, m, d) and keys (B, H, n, d) with it.

    Args:
        block: timm's.
        x: (B, n, D).
        sizes: (B, n, 1) of merged tokens: a key that stands for s patches gets the attention of s equal ones, which
            is log(s) added to its logits (proportional attention; Bolya et al., ICLR 2023, eq. 1).
        rows: Attend from the first so many tokens only, and give only these.
    """
    attention = block.attn
    h = block.norm1(x)
    batch, count, _ = h.shape
    m = count if rows is None else rows
    width, bias = attention.attn_dim, attention.qkv.bias

    def heads(values: Tensor, first: int, last: int) -> Tensor:
        part = slice(first * width, last * width)
        packed = F.linear(values, attention.qkv.weight[part], None if bias is None else bias[part])
        shape = (batch, values.shape[1], last - first, attention.num_heads, attention.head_dim)
        return packed.reshape(shape).permute(2, 0, 3, 1, 4)

    if rows is None:
        q, k, v = heads(h, 0, 3).unbind(0)
    else:
        (q,), (k, v) = heads(h[:, :m], 0, 1).unbind(0), heads(h, 1, 3).unbind(0)
    q, k = attention.q_norm(q), attention.k_norm(k)
    mask = None if sizes is None else sizes.log().transpose(1, 2).unsqueeze(1).to(q.dtype)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = attention.proj_drop(attention.proj(attention.norm(mixed.transpose(1, 2).reshape(batch, m, width))))
    return x[:, :m] + block.drop_path1(block.ls1(y)), q, k
