"""The parts of a model that the latency table times: chains of half-blocks, made of its own layers, and their graphs.

Every part calls the backbone's adapter exactly as ``AdaptiveViT.advance(..., lean=True)`` does. A chain runs
several layers, because a single layer's weights would stay in the caches, which those of a whole model do not.
Int8 is calibrated on random data: good for times, which do not hang on values, but not for answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from tavt_kit.bench.timing import Array, CellPlan, TablePlan
from tavt_kit.core.device import TargetDevice, read_text
from tavt_kit.core.latency_table import TimedModel
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.flops import MacsFormula, count_macs
from tavt_kit.models.token_reduction import SCORES, Pick, TokenState
from tavt_kit.models.wrap import AdaptiveViT, LeanViT
from tavt_kit.runtimes import runtime_of, to_graph
from tavt_kit.runtimes.torch_session import placed


class Part(nn.Module):
    """Common to all parts: the model, the layers of the chain, and the state a layer receives.

    Args:
        notes: What ``embed`` gave the layers (rotary tables, position biases).
        placed: Whether tokens have left before, so that position terms must follow those that stay, and the sizes of
            merged ones join the attention.
    """

    def __init__(self, model: AdaptiveViT, layers: Sequence[int], notes: Any, placed: bool) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        self.notes = notes
        self.placed = placed
        self.eval()  # the model is already; converters look at the outermost module

    def _state(self, layer: int, tokens: Tensor, positions: Tensor | None) -> TokenState:
        """What ``layer`` receives."""
        if positions is None and self.placed:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
        sizes = None
        if self.placed and self.model.merges:
            # Of any values above 0, but hanging on the tokens: a compiler would leave out the logarithm of ones.
            sizes = 1 + tokens[:, :, 0].float().square()
        state = TokenState(tokens, self.model.prefix, place=positions, notes=self.notes, sizes=sizes)
        return self.model.backbone.alone(layer, state)

    def _states(self, inputs: Sequence[Tensor]) -> Iterator[tuple[int, TokenState]]:
        """Every layer with tokens of its own; the positions of all may follow them."""
        positions = inputs[-1] if len(inputs) > len(self.layers) else None
        for layer, tokens in zip(self.layers, inputs, strict=False):
            yield layer, self._state(layer, tokens, positions)


class StemPart(Part):
    """Images (B, 3, H, W) -> the tokens before layer 0."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, D)."""
        return self.model.backbone.embed(images).tokens


class AttendPart(Part):
    """The attention half-blocks that keep every token, one after another."""

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, n, D) -> (B, n, D), and what goes along with the tokens, so that no compiler leaves it out."""
        along = list[Tensor]()
        for layer in self.layers:
            state = self.model.backbone.attend(layer, self._state(layer, tokens, positions), None)
            tokens, along = state.tokens, [*along, *state.along.values()]
        return tokens, *along


class FeedPart(Part):
    """The feed-forward half-blocks, one after another."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        for layer in self.layers:
            tokens = self.model.backbone.feed(layer, self._state(layer, tokens, None)).tokens
        return tokens


class DropPart(Part):
    """The attention half-blocks that drop or merge tokens, side by side, each on tokens of its own.

    A chain would shorten the sequence; the same tensor for all would let a compiler share their first norm.
    """

    def forward(self, kept: int | Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``kept``, (B, n, D) for each layer and, where positions follow the tokens, places (B, n)."""
        pick = Pick(kept, self.model.prefix, self.model.score, self.model.selection)
        reduce = self.model.attend_and_reduce
        return tuple(reduce(layer, state, pick, lean=True).tokens for layer, state in self._states(inputs))


class LastPart(Part):
    """Layers run as the last one before a head that reads leading tokens only, side by side."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, n, D) for each layer (and places) -> the head's tokens (B, rows, D) of each."""
        backbone = self.model.backbone
        pick = Pick(backbone.head_rows or 1, self.model.prefix, None)
        return tuple(
            backbone.feed(layer, backbone.attend_rows(layer, state, pick)).tokens
            for layer, state in self._states(inputs)
        )


class HeadPart(Part):
    """Final norm, pooling and classifier."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, D) -> logits (B, classes)."""
        return self.model.finish(TokenState(tokens, self.model.prefix, notes=self.notes))


class _EmptyPart(Part):
    """Next to nothing: what remains is the cost of starting an inference."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 1


_OWN_BYTES = 40 * 2**20  # Attention weights that one clock may hold a copy of; about 40 clocks do
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}


class LayerParts:
    """The parts of one model for one target, by the names that a plan has for them (``.placed``: after a drop).

    They are made of a copy of the model where the target's device or precision is another.
    """

    def __init__(self, model: AdaptiveViT, target: TargetDevice, points: int) -> None:
        self.runtime = runtime_of(target.runtime)
        in_torch = self.runtime.takes == "modules"
        module = placed(model, target if in_torch else TargetDevice("torch", "cpu"))
        assert isinstance(module, AdaptiveViT)
        self.target, self.model = target, module.again().eval()
        self.model.selection = "topk" if self.runtime.takes == "onnx" else "argsort"
        with torch.inference_mode():
            parameter = next(self.model.parameters())
            images = torch.zeros((1, 3, *self.model.backbone.image_size), dtype=parameter.dtype)
            state = self.model.start(images.to(parameter.device))
        self.notes: Mapping[str, Any] = state.notes
        self.width = state.tokens.shape[-1]
        self.grid = token_grid(self.model.tokens, self.model.layout.least, points)
        if self.notes:  # position terms cost something only once tokens were dropped
            self.grid = tuple(sorted({*self.grid, self.model.tokens - 1}))
        # Where no position term follows the tokens, converters take their places out of the graph.
        self.has_places = bool(self.notes) or in_torch or model.merges
        layers, last = self._chain(), self.model.layers - 1
        last_layers = layers if last < self.model.backbone.alike else (last,)
        self.parts: dict[str, Part] = {
            "stem": StemPart(self.model, (), self.notes, False),
            "empty": _EmptyPart(self.model, (), self.notes, False),
            "feed": FeedPart(self.model, layers, self.notes, False),
            "head": HeadPart(self.model, (), self.notes, False),
        }
        for suffix, after_drop in (("", False), (".placed", True))[: 1 + self.has_places]:
            self.parts[f"attend{suffix}"] = AttendPart(self.model, layers, self.notes, after_drop)
            self.parts[f"drop{suffix}"] = DropPart(self.model, layers, self.notes, after_drop)
            self.parts[f"last{suffix}"] = LastPart(self.model, last_layers, self.notes, after_drop)

    def _chain(self) -> tuple[int, ...]:
        """Enough layers, evenly spaced, that their weights cannot stay in the caches from one run to the next."""
        everything, attention_bytes = self.model.backbone.alike, 4 * self.width**2 * _BYTES[self.target.precision]
        if self.runtime.compiles_by_length:
            # Each clock has its own copy of the weights: the many clocks see to the caches, and fewer layers of a wide
            # model save memory.
            wanted = min(4, max(2, _OWN_BYTES // attention_bytes))
        else:
            size = read_text(Path("/sys/devices/system/cpu/cpu0/cache/index3/size")).removesuffix("K")
            cache_bytes = int(size) * 1024 if size.isdecimal() else 32 * 2**20
            wanted = max(4, math.ceil(cache_bytes / attention_bytes))
        count = min(wanted, everything)
        return tuple(step * everything // count for step in range(count))

    def plan(self, name: str) -> TablePlan:
        """What is to be timed, and four whole passes: dense, a mild and a steep taper, and three big steps."""
        kept, counts, layers = self.model.tokens, list[int](), self.model.layers
        for layer in range(layers):
            stepping = layer in {round(layers * share) for share in (0.25, 0.5, 0.75)}
            kept = max(math.ceil(0.7 * kept), self.model.layout.least) if stepping else kept
            counts.append(kept)
        mild, steep = (TokenSchedule.taper(self.model.layout, ratio) for ratio in (0.15, 0.4))
        cost, model, all_rows = MacsFormula.of(self.model).layers[0], self.model, (1.0, 1.0)
        if cost.rows:  # what thin attention spares
            keys, chosen = cost.key_value / cost.rows, (cost.query + cost.key_value) / cost.rows
            dropping = 1.0 if model.merges else keys if SCORES[model.score].rows else chosen
            all_rows = (dropping if model.backbone.thin[0] else 1.0), (keys if model.backbone.thin[-1] else 1.0)
        return TablePlan(
            target=self.target,
            model=timed_model(model, name),
            width=self.width,
            cells=tuple(self._cells()),
            wholes=(model.dense_schedule, mild, TokenSchedule(tuple(counts)), steep),
            calibration=CALIBRATION if self.target.precision == "int8" else None,
            all_rows=all_rows,
        )

    def _cells(self) -> Iterator[CellPlan]:
        tokens, rows, least = self.model.tokens, self.model.backbone.head_rows, self.model.layout.least
        yield self._cell("stem", tokens)
        yield self._cell("empty", 1)
        for count in self.grid:
            yield self._cell("attend", count)
            yield self._cell("feed", count)
            if count in {*self.grid[-2:], *self.grid[::-2]}:
                # Half and nine tenths of the tokens, as far as such drops exist.
                for kept in sorted({max(round(count * share), least) for share in (0.5, 0.9)}):
                    if kept < count:
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


def timed_model(model: AdaptiveViT, name: str) -> TimedModel:
    """What a latency table of a model says of it."""
    macs, size = count_macs(model, model.dense_schedule), model.backbone.image_size
    return TimedModel(name, model.layout, model.score, model.pool, model.backbone.taps, macs, size, model.reduction)


def token_grid(tokens: int, least: int, points: int) -> tuple[int, ...]:
    """Token counts from ``least`` to ``tokens``, in equal ratios, ascending."""
    if tokens <= least:
        return (tokens,)
    ratio = (tokens / least) ** (1 / (points - 1))
    return tuple(sorted({tokens, *(round(least * ratio**step) for step in range(points - 1))}))


CALIBRATION = "random data: good for times, not for answers"
"""What records say of int8 in a latency table."""


def part_graphs(parts: Mapping[str, Part], plan: TablePlan) -> Callable[[str], Any]:
    """A function that gives each part of a plan as ``openvino.Model`` or ``.onnx`` bytes, converted once.

    They are open in batch and length; a DropPart's number of kept tokens is its first input.
    """

    form = runtime_of(plan.target.runtime).takes

    @cache
    def graph(name: str) -> Any:
        cell, arrays = plan.example(name)
        kept = cell.kept if isinstance(parts[name], DropPart) else None
        return _in_precision(to_graph(parts[name], arrays, kept, form), arrays, kept, plan.target)

    return graph


WholeGraphs: TypeAlias = dict[tuple[int, TokenSchedule], Any]
"""Graphs of whole passes in f32, by the model's ``id`` and the schedule: other precisions are made of them."""


def whole_graph(
    model: AdaptiveViT, schedule: TokenSchedule, target: TargetDevice, known: WholeGraphs | None = None
) -> Any:
    """The model under one schedule by the lean path, as ``openvino.Model`` or ``.onnx`` bytes with an open batch.

    What was converted for another precision of the same runtime is in ``known``, to which this is added.
    """
    form = runtime_of(target.runtime).takes
    selection: Any = "topk" if form == "onnx" else "argsort"
    known, key, shape = {} if known is None else known, (id(model), schedule), (1, 3, *model.backbone.image_size)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    if key not in known:
        known[key] = to_graph(LeanViT(model, schedule, selection=selection).eval(), [image], None, form)
    return _in_precision(known[key], [image], None, target)


def _in_precision(graph: Any, arrays: Sequence[Array], kept: int | None, target: TargetDevice) -> Any:
    """The graph as it is, or in int8 by the settings of shipped files."""
    if target.precision != "int8":
        return graph
    feeds = [*([] if kept is None else [np.array(kept, dtype=np.int64)]), *(array[:1] for array in arrays)]
    if not isinstance(graph, bytes):
        from tavt_kit.exporters.quantize import quantize

        return quantize(graph, [dict(enumerate(feeds))], smooth=True)
    import onnx

    from tavt_kit.exporters.quantize import quantize_statically

    model = onnx.load_from_string(graph)
    names = [node.name for node in model.graph.input]
    made: bytes = quantize_statically(model, [dict(zip(names, feeds, strict=True))]).SerializeToString()
    return made
