"""The parts of FGVC-PIM (Chou et al., arXiv 2202.03822) that are plugged into a backbone.

Feature pyramid, classifiers of every token, weakly supervised selector and graph combiner. Everything is batched:
there is no loop over images, so an exported graph takes any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.pim_levels import Level

_JOINED = 32
"""Selected tokens for each node of the combiner's graph."""


class Pyramid(nn.Module):
    """Every level to one width, then from deep to shallow each level adds what the one below it holds (section 3.2).

    P_l = W2 ReLU(W1 f_l); h_4 = P_4; h_(l-1) = P_(l-1) + up(h_l). Tokens are moved between levels by a learned
    matrix over places, which freezes their numbers; convolutional maps are resized, bilinear.

    Args:
        levels: The shapes, from shallow to deep.
        width: F, of what comes out.
    """

    def __init__(self, levels: Sequence[Level], width: int) -> None:
        super().__init__()
        self.width = width
        self.grids = tuple(level.grid for level in levels)
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(level.width, level.width), nn.ReLU(), nn.Linear(level.width, width))
            for level in levels
        )
        self.up = nn.ModuleList(_up(deep, shallow) for shallow, deep in pairwise(levels))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four of (B, S, C) -> four of (B, S, F)."""
        found = [project(level) for project, level in zip(self.project, levels, strict=True)]
        for deep in range(len(found) - 1, 0, -1):
            found[deep - 1] = found[deep - 1] + self._raised(found[deep], deep)
        return found

    def macs(self, levels: Sequence[Level]) -> int:
        """Multiply-adds of one image."""
        moved = sum(linear_macs(each) for each in self.up) * self.width
        return moved + sum(x.places * linear_macs(each) for x, each in zip(levels, self.project, strict=True))

    def _raised(self, x: Tensor, level: int) -> Tensor:
        """A level at the places of the one above."""
        grid, target = self.grids[level], self.grids[level - 1]
        if grid is None or target is None or grid == target:
            return self.up[level - 1](x)  # type: ignore[no-any-return]
        maps = x.transpose(1, 2).reshape(-1, x.shape[2], *grid)
        return F.interpolate(maps, size=target, mode="bilinear").flatten(2).transpose(1, 2)


def _up(deep: Level, shallow: Level) -> nn.Module:
    if deep.grid is not None or deep.places == shallow.places:
        return nn.Identity()
    return nn.Conv1d(deep.places, shallow.places, 1)


def classifier(width: int, classes: int) -> nn.Sequential:
    """(B, C, S) -> logits (B, K, S) of every place."""
    return nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, classes, 1))


def linear_macs(module: nn.Module) -> int:
    """Multiply-adds at one place, of all linear layers and convolutions of size 1 below ``module``."""
    return sum(int(m.weight.numel()) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv1d))


def by_confidence(logits: Tensor, count: int) -> Tensor:
    """The ``count`` most confident places, the surest first; a place's confidence is its largest probability.

    The order is an input of the combiner. Of equal confidences (of 1 where a softmax saturates) the lowest place comes
    first, on every route: ONNX defines its TopK so and has no stable sort, elsewhere a stable sort does it.

    Args:
        logits: (B, S, K).
        count: At most S.

    Returns:
        (B, count) int64.
    """
    confidence = logits.softmax(dim=2).amax(dim=2)
    if torch.onnx.is_in_onnx_export():
        return confidence.topk(count, dim=1).indices
    return confidence.argsort(dim=1, descending=True, stable=True)[:, :count]


def closest_ranks(logits: Tensor, count: int) -> Tensor:
    """(B, S, K) -> (B,): the smallest gap between two neighbours of the order that ``by_confidence`` goes by, relative.

    Of those that are taken, and the surest that is not.
    """
    confidence = logits.double().softmax(dim=2).amax(dim=2)
    ordered = confidence.sort(dim=1, descending=True).values[:, : count + 1]
    return ((ordered[:, :-1] - ordered[:, 1:]) / ordered[:, :-1]).amin(dim=1)


class Combiner(nn.Module):
    """A graph convolution over what was selected, in its order (section 3.4).

    The tokens X (F x S) become J = S // 32 nodes by a linear layer over places; adjacency
    A = A0 + alpha * tanh(q_i - k_j), with q and k channel means of two convolutions; X = BN(conv(X) A); a linear
    layer joins the nodes, another gives the logits.

    Args:
        selected: S, of all levels together.
        width: F.
        classes: K.
        drop: Dropout before the last layer, while training.
        widths: Of the levels, where no pyramid has made them one; each then gets a projection.

    Raises:
        UnsupportedBackbone: Too few selected tokens for one node.
    """

    def __init__(self, selected: int, width: int, classes: int, drop: float, widths: Sequence[int] = ()) -> None:
        super().__init__()
        nodes = selected // _JOINED
        if nodes < 1:
            raise UnsupportedBackbone(
                f"PIM's combiner makes one node of every {_JOINED} selected tokens, so select at least so many, "
                f"got {selected}"
            )
        self.inward = nn.ModuleList(nn.Linear(own, width) for own in widths)
        self.gather = nn.Linear(selected, nodes)
        self.adjacency = nn.Parameter(torch.eye(nodes) / 100 + 1 / 100)
        self.strength = nn.Parameter(torch.zeros(1))
        self.mix = nn.Conv1d(width, width, 1)
        self.query = nn.Conv1d(width, width // 4, 1)
        self.key = nn.Conv1d(width, width // 4, 1)
        self.norm = nn.BatchNorm1d(width)
        self.join = nn.Linear(nodes, 1)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(width, classes)

    def pooled(self, selected: Sequence[Tensor]) -> Tensor:
        """Of each level (B, n, C), the surest token first -> (B, F)."""
        if len(self.inward):
            selected = [project(x) for project, x in zip(self.inward, selected, strict=True)]
        x = self.gather(torch.cat(list(selected), dim=1).transpose(1, 2))  # (B, F, J)
        q, k = self.query(x).mean(1), self.key(x).mean(1)
        adjacency = self.adjacency + self.strength * (q.unsqueeze(2) - k.unsqueeze(1)).tanh()
        return self.join(self.norm(self.mix(x) @ adjacency)).flatten(1)  # type: ignore[no-any-return]

    def forward(self, selected: Sequence[Tensor]) -> Tensor:
        """Of each level (B, n, C) -> logits (B, K)."""
        return self.head(self.drop(self.pooled(selected)))  # type: ignore[no-any-return]

    def macs(self, counts: Sequence[int]) -> int:
        """Multiply-adds of one image with ``counts`` selected tokens of each level."""
        width, nodes = self.head.in_features, self.join.in_features
        brought = sum(count * linear_macs(each) for count, each in zip(counts, self.inward, strict=False))
        convolved = sum(nodes * linear_macs(each) for each in (self.mix, self.query, self.key))
        joined = width * (linear_macs(self.gather) + nodes * nodes + linear_macs(self.join))
        return brought + convolved + joined + linear_macs(self.head)
