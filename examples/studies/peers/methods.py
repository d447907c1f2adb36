"""The peers that change tokens: EViT, Top-K, random drop and ToMe, each from its paper's formulas.

* EViT (Liang et al., ICLR 2022, section 3): at three layers the patches that the class token looks at least are fused
  into one token, their sum weighted by that attention; of n patches ceil(keep * n) stay, with the fused one behind.
* Top-K: the same without the fused token.
* Random drop: as Top-K, with patches drawn at random.
* ToMe (Bolya et al., ICLR 2023, section 3): in every layer r tokens are merged by bipartite soft matching on the keys,
  averaged by size, and attention is proportional to size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from peers.vit import PeerViT
from tavt_kit.errors import ScheduleError
from tavt_kit.models.token_reduction import Selection, cls_score, gather_rows, keep_best


def stages(depth: int) -> tuple[int, ...]:
    """The layers, counted from 0, after whose attention tokens leave: the 4th, 7th and 10th of 12 (EViT, section 4)."""
    return tuple(sorted({depth // 4, depth // 2, 3 * depth // 4} & set(range(depth - 1))))


class TopK(PeerViT):
    """Keeps the patches that the class token looks at most.

    Args:
        bare: timm's ViT.
        keep: Share of the patches that stays at each stage.

    Raises:
        ScheduleError: The share is not in (0, 1].
    """

    def __init__(self, bare: nn.Module, keep: float) -> None:
        super().__init__(bare)
        if not 0 < keep <= 1:
            raise ScheduleError(f"the share of patches that stays at a stage is above 0 and at most 1, got {keep}")
        self.keep, self.stages = keep, stages(self.depth)

    def kept(self, count: int) -> int:
        """Of ``count`` tokens, the class token and ceil(keep * patches)."""
        return 1 + math.ceil(self.keep * (count - 1) - 1e-9)  # 0.55 * 20 is 11.000000000000002

    def after(self, layer: int, count: int) -> int:
        """See ``PeerViT``."""
        return self.kept(count) if layer in self.stages else count

    def scores(self, q: Tensor, k: Tensor, count: int) -> Tensor:
        """(B, n): the class token's attention, mean over heads."""
        return cls_score(q, k, None, None) / q.shape[1]

    def reduce(
        self, layer: int, count: int, x: Tensor, q: Tensor, k: Tensor, sizes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``PeerViT``."""
        if layer not in self.stages or self.kept(count) == count:
            return x, None
        scores = self.scores(q, k, count)
        index = keep_best(scores.detach(), self.kept(count), 1, self.selection)
        return self.gathered(x, index, scores), None

    def gathered(self, x: Tensor, index: Tensor, scores: Tensor) -> Tensor:
        """The kept rows (B, k) of ``x`` (B, n, D)."""
        return gather_rows(x, index)


class Evit(TopK):
    """Top-K, with one more token: the rest, added up with the class token's attention to them as weights."""

    def after(self, layer: int, count: int) -> int:
        """See ``PeerViT``; nothing is fused where all stay."""
        found = super().after(layer, count)
        return found + 1 if found < count else count

    def gathered(self, x: Tensor, index: Tensor, scores: Tensor) -> Tensor:
        """See ``TopK``; the fused token comes last."""
        weights = scores.scatter(1, index, 0.0).unsqueeze(1).to(x.dtype)  # (B, 1, n), zero for what stays
        return torch.cat([super().gathered(x, index, scores), weights @ x], dim=1)


class RandomDrop(TopK):
    """Drops patches at random, drawn anew for each image from torch's generator.

    A graph that is traced has no generator: it drops by one fixed draw, which costs the same.
    """

    def __init__(self, bare: nn.Module, keep: float) -> None:
        super().__init__(bare, keep)
        fixed = torch.rand(self.tokens, generator=torch.Generator().manual_seed(0))
        self.register_buffer("fixed", fixed, persistent=False)

    def scores(self, q: Tensor, k: Tensor, count: int) -> Tensor:
        """(B, n), no attention looked at."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing:
            return self.get_buffer("fixed")[:count].expand(k.shape[0], -1)
        return torch.rand(k.shape[0], count, device=k.device)


class ToMe(PeerViT):
    """Merges ``r`` tokens in every layer.

    Args:
        bare: timm's ViT.
        r: Tokens that are merged away in a layer; at most half of the others than the class token, rounded down.

    Raises:
        ScheduleError: Fewer than 0.
    """

    def __init__(self, bare: nn.Module, r: int) -> None:
        super().__init__(bare)
        if r < 0:
            raise ScheduleError(f"0 tokens or more are merged in a layer, got {r}")
        self.r = r

    def after(self, layer: int, count: int) -> int:
        """See ``PeerViT``."""
        return count - min(self.r, (count - 1) // 2)

    def reduce(
        self, layer: int, count: int, x: Tensor, q: Tensor, k: Tensor, sizes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ``PeerViT``."""
        r = count - self.after(layer, count)
        if not r:
            return x, sizes
        with torch.no_grad():
            matched = match(k.mean(dim=1), r, self.selection)
        return merge(x, torch.ones_like(x[..., :1]) if sizes is None else sizes, *matched)


def match(keys: Tensor, r: int, selection: Selection = "argsort") -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching: tokens at even places each choose the most alike at an odd place; the r best go there.

    Args:
        keys: (B, n, d); alike is the cosine between them. The first token, the class token, is never merged away.
        r: At most (n - 1) // 2.
        selection: See ``drop.Pick``.

    Returns:
        Among the even places those that stay (B, a - r), ascending, and those that go (B, r), and where these go to
        among the odd places (B, r).
    """
    unit = keys.float()
    unit = unit * (unit * unit).sum(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()
    even, odd = unit[:, ::2], unit[:, 1::2]
    best, choice = (even @ odd.transpose(1, 2)).max(dim=-1)
    others = best[:, 1:]
    if selection == "topk":
        order = others.topk(others.shape[1], dim=1).indices + 1
    else:
        order = others.argsort(dim=1, descending=True, stable=True) + 1
    go = order[:, :r]
    stay = torch.cat([torch.zeros_like(order[:, :1]), order[:, r:].sort(dim=1).values], dim=1)
    return stay, go, choice.gather(1, go)


def merge(x: Tensor, sizes: Tensor, stay: Tensor, go: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, n, D) and sizes (B, n, 1) after those at ``go`` became part of those at ``into``.

    Returns:
        The (B, n - r, D) means weighted by size, even places first, and the sums of the sizes.
    """
    packed = torch.cat([x * sizes, sizes], dim=2)
    even, odd = packed[:, ::2], packed[:, 1::2]
    moved = gather_rows(even, go)
    odd = odd.scatter_add(1, into.unsqueeze(-1).expand_as(moved), moved)
    joined = torch.cat([gather_rows(even, stay), odd], dim=1)
    sizes = joined[..., -1:]
    return joined[..., :-1] / sizes, sizes
