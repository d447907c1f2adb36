"""What the official evaluation of FGVC-PIM counts beside the model's own answer, of every head, in one pass.

The official code sorts the heads by confidence ascending and so adds the least sure first; both orders are counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.evaluation.metrics import is_among_first
from tavt_kit.models.backbones.pim import COMPATS, Pim, fuse_heads, head_scores
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import Images, Session

_TOPS = (1, 3)


class PimHeads(nn.Module):
    """A PIM under a schedule that gives what its evaluation counts instead of its logits."""

    def __init__(self, adaptive: AdaptiveViT, schedule: TokenSchedule) -> None:
        super().__init__()
        self.adaptive = adaptive.again()
        self.adaptive.schedule = schedule
        self.train(adaptive.training)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, rows, K): the logits, the probabilities of each head, and of each group of tokens the
        share that is said to be of each class; the selected tokens of each level first."""
        adaptive = self.adaptive
        pim: Any = adaptive.bare
        schedule = adaptive.schedule
        state = adaptive.advance(adaptive.start(images), schedule.running, schedule.counts, lean=True)
        backbone: Any = adaptive.backbone
        outputs = pim.compute_outputs(backbone.levels(state))
        heads = head_scores(outputs).float()
        said = (outputs[name].argmax(dim=2) for name in _groups(pim))
        tokens = [F.one_hot(each, heads.shape[2]).float().mean(dim=1, keepdim=True) for each in said]
        return torch.cat([pim.logits_among(outputs).float()[:, None], heads, *tokens], dim=1)


def _heads(pim: Pim) -> list[str]:
    return [*(f"layer{level}" for level in range(1, len(pim.plan) + 1)), "combiner"]


def _groups(pim: Pim) -> list[str]:
    """The groups of tokens by their names among the outputs; what has no token is left out."""
    selected = [f"select_layer{level}" for level, _ in enumerate(pim.num_selects, 1)]
    places = [level.places for level in pim.plan]
    dropped = [f"drop_layer{i}" for i, count in enumerate(pim.num_selects, 1) if count < places[i - 1]]
    return selected + dropped


class HeadCounts:
    """A session of the logits alone, which counts the rest once it is told the labels."""

    def __init__(self, session: Session, pim: Pim) -> None:
        self.input_shape, self.target = session.input_shape, session.target
        self._session, self._heads, self._groups = session, _heads(pim), _groups(pim)
        self._last: NDArray[np.float32] | None = None
        self._n = 0
        self._hits: Counter[tuple[str, str, int]] = Counter()
        self._tokens: defaultdict[str, float] = defaultdict(float)

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """(B, 3, H, W) -> logits (B, K)."""
        self._last = self._session(images)
        return self._last[:, 0]

    def count(self, labels: NDArray[np.int64]) -> None:
        """Count the batch that was run last, of these labels (B,)."""
        assert self._last is not None
        rows = self._last[: len(labels)]
        self._n += len(labels)
        scores = torch.from_numpy(rows[:, 1 : 1 + len(self._heads)])
        named = {("heads", name): scores[:, index] for index, name in enumerate(self._heads)}
        for compat, count in product(COMPATS, range(1, len(self._heads) + 1)):
            named[compat, f"highest-{count}"] = fuse_heads(scores, count, compat)
        for (kind, name), values in named.items():
            for top in _TOPS:
                self._hits[kind, name, top] += int(is_among_first(values.numpy(), labels, top).sum())
        for index, name in enumerate(self._groups, 1 + len(self._heads)):
            self._tokens[name] += float(rows[np.arange(len(labels)), index, labels].sum())

    def as_record(self, split: str) -> dict[str, Any]:
        """What was counted, JSON-ready: top-1 and top-3 of ``heads`` and, by ``fused`` order, of "highest-k".

        Of ``tokens`` the share that is classified rightly (those of one image are not independent, so there is no
        interval). ``official``: the best top-1 of all names in the official order, which the official code reports.
        """

        def tops(kind: str) -> dict[str, Any]:
            names = dict.fromkeys(name for of, name, _ in self._hits if of == kind)
            return {name: {f"top{top}": share(kind, name, top) for top in _TOPS} for name in names}

        def share(kind: str, name: str, top: int) -> dict[str, Any]:
            hits = self._hits[kind, name, top]
            return Accuracy.of_counts(hits, self._n, split=split, metric=f"top{top}").as_record()

        heads, fused, official = (tops(kind) for kind in ("heads", *COMPATS))
        best = max({**heads, **official}.items(), key=lambda item: float(item[1]["top1"]["value"]))
        tokens = {name: share / self._n for name, share in self._tokens.items()}
        named = {"name": best[0], "top1": best[1]["top1"]}
        return {"heads": heads, "fused": fused, "fused_official": official, "tokens": tokens, "official": named}
