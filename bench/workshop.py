"""Workshop: takes a model apart into the parts that a latency table times, and plans at which token counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tavt_kit.bench.parts import AttendPart, DropPart, FeedPart, HeadPart, LastPart, Part, StemPart
from tavt_kit.bench.table_plan import CellPlan, TablePlan
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import TimedModel
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.flops import MacsFormula, count_macs
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes.on_torch import placed

__all__ = ["Workshop", "timed_model", "token_grid"]

_OWN_BYTES = 40 * 2**20
"""Attention weights that one clock may hold a copy of; about 40 clocks do."""

_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}


class Workshop:
    """The parts of one model for one target.

    Args:
        model: Wrapped; its score and pool are those of the schedules to come.
        target: Where the parts are to run.
        points: Token counts at which each half is timed.
    """

    def __init__(self, model: AdaptiveViT, target: TargetDevice, points: int) -> None:
        self.target, self.model = target, _ready(model, target)
        with torch.inference_mode():
            parameter = next(self.model.parameters())
            images = torch.zeros((1, 3, *self.model.backbone.image_size), dtype=parameter.dtype)
            state = self.model.start(images.to(parameter.device))
        self.notes: Mapping[str, Any] = state.notes
        self.width = state.tokens.shape[-1]
        # On OpenVINO each clock is compiled for its length and has its own copy of the weights.
        self.own_weights = target.runtime == "openvino"
        self.layers = self._chain(4 * self.width**2 * _BYTES[target.precision])
        self.grid = token_grid(self.model.tokens, self.model.layout.least, points)
        if self.notes:  # position terms cost something only once tokens were dropped
            self.grid = tuple(sorted({*self.grid, self.model.tokens - 1}))
        self.drop_grid = tuple(count for count in self.grid if count in {*self.grid[-2:], *self.grid[::-2]})
        # Where no position term follows the tokens, converters take their places out of the graph.
        self.has_places = bool(self.notes) or target.runtime == "torch" or model.reduction == "merge"
        self.parts = self._parts()

    def _chain(self, attention_bytes: int) -> tuple[int, ...]:
        """Enough layers, evenly spaced, that their weights cannot stay in the caches from one run to the next.

        Where every clock has its own copy the many clocks see to that, and fewer layers of a wide model save memory.
        """
        everything = self.model.backbone.alike
        if self.own_weights:
            wanted = min(4, max(2, _OWN_BYTES // attention_bytes))
        else:
            wanted = max(4, math.ceil(_cache_bytes() / attention_bytes))
        count = min(wanted, everything)
        return tuple(step * everything // count for step in range(count))

    def _parts(self) -> dict[str, Part]:
        """By the names that the plan has for them; ``.placed``: after tokens were dropped."""
        alike, last = self.model.backbone.alike, self.model.layers - 1
        last_layers = self.layers if last < alike else (last,)
        parts: dict[str, Part] = {
            "stem": StemPart(self.model, (), self.notes, False),
            "empty": _EmptyPart(self.model, (), self.notes, False),
            "feed": FeedPart(self.model, self.layers, self.notes, False),
            "head": HeadPart(self.model, (), self.notes, False),
        }
        for suffix, after_drop in (("", False), (".placed", True))[: 1 + self.has_places]:
            parts[f"attend{suffix}"] = AttendPart(self.model, self.layers, self.notes, after_drop)
            parts[f"drop{suffix}"] = DropPart(self.model, self.layers, self.notes, after_drop)
            parts[f"last{suffix}"] = LastPart(self.model, last_layers, self.notes, after_drop)
        return parts

    def plan(self, name: str, wholes: tuple[TokenSchedule, ...], calibration: str | None = None) -> TablePlan:
        """What is to be timed.

        Args:
            name: Of the model.
            wholes: Schedules of whole passes, dense first.
            calibration: As in ``TablePlan``.
        """
        return TablePlan(
            target=self.target,
            model=timed_model(self.model, name),
            width=self.width,
            cells=tuple(self._cells()),
            wholes=wholes,
            calibration=calibration,
            all_rows=self._all_rows(),
        )

    def _all_rows(self) -> tuple[float, float]:
        """See ``TablePlan``: what thin attention spares."""
        cost, model = MacsFormula.of(self.model).layers[0], self.model
        if not cost.rows:
            return 1.0, 1.0
        keys, chosen = cost.key_value / cost.rows, (cost.query + cost.key_value) / cost.rows
        dropping = 1.0 if model.reduction == "merge" else keys if model.score == "cls" else chosen
        return (dropping if model.backbone.thin[0] else 1.0), (keys if model.backbone.thin[-1] else 1.0)

    def _cells(self) -> Iterator[CellPlan]:
        tokens, rows = self.model.tokens, self.model.backbone.head_rows
        yield self._cell("stem", tokens)
        yield self._cell("empty", 1)
        for count in self.grid:
            yield self._cell("attend", count)
            yield self._cell("feed", count)
            if count in self.drop_grid:
                for kept in self._kept(count):
                    yield self._cell("drop", count, kept)
        for count in self.grid[::-1][::3]:
            yield self._cell("head" if rows is None else "last", count)
        if rows is not None:
            yield self._cell("head", rows)

    def _cell(self, kind: str, count: int, kept: int = 0) -> CellPlan:
        after_drop = self.has_places and count < self.model.tokens and kind in ("attend", "drop", "last")
        name = f"{kind}.placed" if after_drop else kind
        layers = len(self.parts[name].layers)
        inputs = ["tokens"] * (layers if kind in ("drop", "last") else 1)
        if self.notes and after_drop:
            inputs.append("places")
        return CellPlan(kind, name, count, kept, max(1, layers), ("images",) if kind == "stem" else tuple(inputs))

    def _kept(self, count: int) -> tuple[int, ...]:
        """Half and nine tenths of the tokens, as far as such drops exist."""
        choices = {max(round(count * share), self.model.layout.least) for share in (0.5, 0.9)}
        return tuple(sorted(kept for kept in choices if kept < count))


def timed_model(model: AdaptiveViT, name: str) -> TimedModel:
    """What a latency table of a model says of it."""
    return TimedModel(
        name,
        model.layout,
        model.score,
        model.pool,
        model.backbone.taps,
        count_macs(model, model.dense_schedule),
        model.backbone.image_size,
        model.reduction,
    )


class _EmptyPart(Part):
    """Next to nothing: what remains is the cost of starting an inference."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 1


def token_grid(tokens: int, least: int, points: int) -> tuple[int, ...]:
    """Token counts from ``least`` to ``tokens``, in equal ratios, ascending."""
    if tokens <= least:
        return (tokens,)
    ratio = (tokens / least) ** (1 / (points - 1))
    return tuple(sorted({tokens, *(round(least * ratio**step) for step in range(points - 1))}))


def _ready(model: AdaptiveViT, target: TargetDevice) -> AdaptiveViT:
    """The model as its parts are made of it: on torch's device, or on the CPU in f32 to be converted."""
    module = placed(model, target if target.runtime == "torch" else TargetDevice("torch", "cpu"))
    assert isinstance(module, AdaptiveViT)
    own = module.again()
    own.selection = "topk" if target.runtime == "onnxruntime" else "argsort"
    return own.eval()


def _cache_bytes() -> int:
    """The last-level cache of CPU 0; 32 MiB where the machine does not say."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii").strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 32 * 2**20
