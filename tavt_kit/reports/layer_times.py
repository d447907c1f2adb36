"""Milliseconds by layer of the dense and of the chosen model: predicted by the table, measured by a profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.part_names import OTHER, part_names
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TavtError
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.views import CandidateView, TimeView, mapping, number, sequence, whole
from tavt_kit.reports.words import target_words

__all__ = ["LayerView", "Profiled", "latency_table", "layer_views"]

_MACS = 0.01
"""By how much, relatively, the multiply-adds of one model may differ between two heads."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """What a profile said.

    Args:
        parts: Milliseconds by the names of the parts.
        run_ms: A whole profiled run by the clock.
        runs: How many.
        time: Of the same model without a profile.
        placed_ms: What nodes took that name no layer, and were placed with what they read from.
    """

    parts: Mapping[str, float]
    run_ms: float | None
    runs: int | None
    time: TimeView | None
    placed_ms: float

    @property
    def sum_ms(self) -> float:
        """All parts together, ``other`` included."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class LayerView:
    """One model of the section.

    Args:
        name: ``dense`` or ``chosen``.
        counts: Tokens kept after each layer.
        schedule: The same as text, with what a joint search chose beside them.
        predicted: Milliseconds by the names of the parts, as far as there is a table.
        profiled: As far as anybody measured.
        time: Of whole runs where the search measured them, on the same target.
        where: The target, in words.
    """

    name: str
    counts: tuple[int, ...]
    schedule: str
    predicted: Mapping[str, float] | None
    profiled: Profiled | None
    time: TimeView | None
    where: str

    @property
    def layers(self) -> int:
        """How many the model has."""
        return len(self.counts)

    def names(self) -> list[str]:
        """Of the parts in order; ``other`` only where it took any time."""
        known = [*part_names(self.layers)]
        return known + [OTHER] if self.profiled and self.profiled.parts.get(OTHER) else known


def latency_table(records: Records) -> LatencyTable | None:
    """The table of ``profile.json``, if there is one.

    Raises:
        TavtError: It cannot be read.
    """
    profile = records.first("profile")
    if not profile:
        return None
    return LatencyTable.from_record({name: profile[name] for name in profile if name not in ("schema", "version")})


def layer_views(records: Records, table: LatencyTable | None) -> tuple[LayerView, ...]:
    """The dense model and the chosen one, as far as anything is known of their layers.

    Args:
        records: Of one run.
        table: Of ``latency_table``.
    """
    front = records.first("front")
    view = FrontView.of(front) if front else None
    seen = list(_profiled(records, front))
    wanted = target_words(table.target.as_record()) if table else next((where for where, _, _ in seen), "")
    here = [(one, profiled) for where, one, profiled in seen if where == wanted]
    timed = bool(front) and target_words(mapping(front, "target")) == wanted
    views = []
    for name, one in _models(view, table, [one for one, _ in here]):
        predicted = None if one.genes else _predicted(table, one.counts)
        profiled = next((found for other, found in here if _same(one, other)), None)
        if predicted or profiled:
            time = one.time if timed else None
            views.append(LayerView(name, one.counts, one.schedule, predicted, profiled, time, wanted))
    return tuple(views)


def _models(
    view: FrontView | None, table: LatencyTable | None, seen: Sequence[CandidateView]
) -> Iterator[tuple[str, CandidateView]]:
    """What is shown; without a search only the dense model is known to be anything."""
    dense = None if view is None else view.dense
    if table is not None:
        counts = (table.model.layout.tokens,) * table.model.layout.layers
        if dense is None or dense.counts != counts:
            dense = CandidateView.of({"schedule": counts, "macs": table.model.macs}, "")
    elif dense is None:
        dense = next((one for one in seen if len(set(one.counts)) == 1), None)
    if dense is None or not dense.counts:
        return
    yield "dense", dense
    pick = None if view is None else view.pick
    if pick is not None and pick.schedule != dense.schedule and len(pick.counts) == len(dense.counts):
        yield "chosen", pick


def _same(one: CandidateView, other: CandidateView) -> bool:
    """Whether it is the same schedule of the same model: another one differs in its multiply-adds."""
    if one.macs is not None and other.macs is not None and abs(one.macs - other.macs) > _MACS * one.macs:
        return False
    return one.schedule == other.schedule


def _predicted(table: LatencyTable | None, counts: tuple[int, ...]) -> dict[str, float] | None:
    """By the table; ``None`` where it is of another model."""
    if table is None:
        return None
    try:
        parts = table.parts(TokenSchedule(counts))
    except TavtError:
        return None
    return dict(zip(part_names(table.model.layout.layers), parts, strict=True)) if sum(parts) > 0 else None


def _profiled(records: Records, front: Mapping[str, Any]) -> Iterator[tuple[str, CandidateView, Profiled]]:
    """Target and schedule of every model whose layers were measured: by the search, then by a bench."""
    rows = []
    for row in map(mapping, (*sequence(front, "baselines"), *sequence(front, "candidates"))):
        one = CandidateView.of(row, "")
        rows.append((mapping(front, "target"), one, mapping(front, "layers", one.schedule)))
    for bench in records.all("bench"):
        for row in map(mapping, sequence(bench.body, "candidates")):
            # A bench names the size of every model; in a front it is said of models of another size than the dense.
            one = CandidateView.of({**row, "image_size": None}, "")
            rows.append((mapping(row, "target"), one, mapping(row, "layers")))
    for target, one, layers in rows:
        known = {name: number(layers, "parts_ms", name) for name in mapping(layers, "parts_ms")}
        parts = {name: ms for name, ms in known.items() if ms is not None}
        if not one.counts or sum(parts.values()) <= 0:
            continue
        run, runs, placed = number(layers, "run_ms"), whole(layers, "runs"), number(layers, "placed_ms")
        yield target_words(target), one, Profiled(parts, run, runs, one.time, placed or 0.0)
