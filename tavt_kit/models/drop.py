"""Dropping tokens as pure functions: which to keep, gather them, put them back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tavt_kit.models.tokens import TokenState

__all__ = ["REDUCTIONS", "Pick", "Reduction", "drop", "first_rows", "gather_rows", "keep_best", "restore"]

Selection = Literal["argsort", "topk"]
Reduction = Literal["drop", "merge"]
REDUCTIONS: tuple[Reduction, ...] = ("drop", "merge")
"""What becomes of the tokens that a layer does not keep: they leave, or they go into those that stay."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Which rows of a layer go on.

    Args:
        count: How many, prefix included; an int, or a 0-d int64 tensor where the count is a runtime input.
        prefix: Leading tokens that always stay.
        score: ``"column"`` or ``"cls"``; ``None`` keeps the first ``count`` rows (a head that reads only these).
        selection: ``"argsort"`` (stable; eager and OpenVINO) or ``"topk"`` (static ONNX). Both keep ties at the
            lowest index on their route; neither does on the other's.
    """

    count: int | Tensor
    prefix: int
    score: str | None
    selection: Selection = "argsort"

    def index(self, scores: Tensor) -> Tensor:
        """(B, n) scores -> (B, count) rows, ascending."""
        return keep_best(scores, self.count, self.prefix, self.selection)


def keep_best(scores: Tensor, count: int | Tensor, prefix: int, selection: Selection = "argsort") -> Tensor:
    """The prefix and the best-scored patches, in ascending order; of equals the lowest index stays.

    Args:
        scores: (B, n), higher is better; the prefix's own scores are ignored.
        count: Rows to keep, prefix included.
        prefix: Leading rows that always stay.
        selection: See ``Pick``.

    Returns:
        (B, count) int64 rows, ascending.

    Example:
        >>> keep_best(torch.tensor([[0., 3., 1., 3., 3.]]), count=3, prefix=1)
        tensor([[0, 1, 3]])
    """
    patches = scores[:, prefix:]
    wanted = count - prefix
    if selection == "topk":
        best = patches.topk(wanted, dim=1).indices if isinstance(wanted, int) else _topk_all(patches)[:, :wanted]
    else:
        best = patches.argsort(dim=1, descending=True, stable=True)[:, :wanted]
    best = best.sort(dim=1).values + prefix
    if not prefix:
        return best
    first = torch.arange(prefix, device=scores.device).expand(scores.shape[0], -1)
    return torch.cat([first, best], dim=1)


def _topk_all(patches: Tensor) -> Tensor:
    return patches.topk(patches.shape[1], dim=1).indices


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, n, ...) values at (B, k) rows -> (B, k, ...).

    One flat row gather: ``torch.gather`` would export as Expand + GatherElements, which costs 3-8 % of a model
    whose every layer drops. ONNX has GatherND for it, which onnxruntime runs in 0.6 of the flat gather's time.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if torch.onnx.is_in_onnx_export() and (tracing or hasattr(torch.onnx, "ops")):  # which came with torch 2.8
        return _rows_in_onnx(values, index, tracing)
    batch, n = values.shape[:2]
    offset = torch.arange(batch, device=index.device).unsqueeze(1) * n
    flat = (index + offset).reshape(-1)
    return values.flatten(0, 1).index_select(0, flat).reshape(batch, index.shape[1], *values.shape[2:])


def _rows_in_onnx(values: Tensor, index: Tensor, tracing: bool) -> Tensor:
    """``gather_rows`` for either of torch's ONNX exporters: the tracing one, or that by ``torch.export``."""
    if tracing:
        rows: Tensor = _RowsInOnnx.apply(values, index)  # type: ignore[no-untyped-call]
        return rows
    shape = (*index.shape, *values.shape[2:])
    given = (values, index.unsqueeze(-1))
    gathered: Tensor = torch.onnx.ops.symbolic("GatherND", given, {"batch_dims": 1}, dtype=values.dtype, shape=shape)
    return gathered


class _RowsInOnnx(torch.autograd.Function):
    """``gather_rows`` for the tracing exporter."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        at = index.reshape(*index.shape, *(1,) * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
        return values.gather(1, at)

    @staticmethod
    def symbolic(g: Any, values: Any, index: Any) -> Any:
        last = g.op("Constant", value_t=torch.tensor([2]))
        rows = g.op("GatherND", values, g.op("Unsqueeze", index, last), batch_dims_i=1)
        sizes = values.type().sizes()
        return rows if sizes is None else rows.setType(values.type().with_sizes([None, None, *sizes[2:]]))


def drop(state: TokenState, index: Tensor, *, passed: bool = False) -> TokenState:
    """Keep the rows ``index`` (B, k), ascending, of a state, with all that goes along.

    Args:
        state: The tokens to choose from.
        index: The rows that stay.
        passed: Whether the tokens have passed the whole layer (one without a joint), so that the value that they have
            now is the last one of those that leave.
    """
    if passed and state.last is not None:
        state = replace(state, last=restore(state.last, state.tokens, state.place))
    place = index if state.place is None else gather_rows(state.place, index)
    along = {name: gather_rows(values, index) for name, values in state.along.items()}
    return replace(state, tokens=gather_rows(state.tokens, index), place=place, along=along)


def first_rows(state: TokenState, count: int | Tensor) -> TokenState:
    """Keep the first ``count`` rows: the last layer of a head that reads only leading tokens."""
    place = None if state.place is None else state.place[:, :count]
    along = {name: values[:, :count] for name, values in state.along.items()}
    sizes = None if state.sizes is None else state.sizes[:, :count]
    return replace(state, tokens=state.tokens[:, :count], place=place, along=along, sizes=sizes, owner=None)


def restore(last: Tensor, tokens: Tensor, place: Tensor | None) -> Tensor:
    """``last`` (B, N, D) with ``tokens`` (B, n, D) written at ``place`` (B, n); a new tensor."""
    if place is None:
        return tokens
    return last.scatter(1, place.unsqueeze(-1).expand_as(tokens), tokens)
