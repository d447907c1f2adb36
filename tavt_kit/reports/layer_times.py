"""Milliseconds by layer of the dense and of the chosen model: predicted by the table, measured by a profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.errors import TavtError
from tavt_kit.latency_table import LatencyTable
from tavt_kit.part_names import HEAD, OTHER, STEM
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.views import TimeView, mapping, number, sequence, whole
from tavt_kit.reports.words import target_words
from tavt_kit.schedule import TokenSchedule

__all__ = ["LayerView", "Profiled", "latency_table", "layer_views"]


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
        counts: Its schedule.
        predicted: Milliseconds by the names of the parts, as far as there is a table.
        profiled: As far as anybody measured.
        time: Of whole runs where the search measured them, on the same target.
        where: The target, in words.
    """

    name: str
    counts: tuple[int, ...]
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
        known = [STEM, *map(str, range(self.layers)), HEAD]
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
    here = {counts: one for where, counts, one in reversed(seen) if where == wanted}
    timed = bool(front) and target_words(mapping(front, "target")) == wanted
    found = []
    for name, counts, time in _models(view, table, list(here)):
        predicted, profiled = _predicted(table, counts), here.get(counts)
        if predicted or profiled:
            found.append(LayerView(name, counts, predicted, profiled, time if timed else None, wanted))
    return tuple(found)


def _models(
    view: FrontView | None, table: LatencyTable | None, seen: Sequence[tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...], TimeView | None]]:
    """Name, counts and whole time of what is shown; without a search only the dense model is known to be anything."""
    dense = None if view is None else view.dense
    counts = dense.counts if dense else ()
    if table is not None:
        counts = (table.tokens,) * table.layers
    elif not counts:
        counts = next((one for one in seen if len(set(one)) == 1), ())
    if counts:
        yield "dense", counts, dense.time if dense else None
    pick = None if view is None else view.pick
    if pick is not None and pick.counts != counts and len(pick.counts) == len(counts) and not pick.genes:
        yield "chosen", pick.counts, pick.time


def _predicted(table: LatencyTable | None, counts: tuple[int, ...]) -> dict[str, float] | None:
    """By the table; ``None`` where it is of another model."""
    if table is None:
        return None
    try:
        parts = table.parts(TokenSchedule(counts))
    except TavtError:
        return None
    return dict(zip((STEM, *map(str, range(table.layers)), HEAD), parts, strict=True)) if sum(parts) > 0 else None


def _profiled(records: Records, front: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], Profiled]]:
    """Target and counts of every model whose layers were measured: by the search, then by a bench."""
    rows: list[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = []
    for row in (*sequence(front, "baselines"), *sequence(front, "candidates")):
        rows.append((mapping(row), mapping(front, "target"), mapping(row, "layers")))
    for bench in records.all("bench"):
        for row in sequence(bench.body, "candidates"):
            rows.append((mapping(row), mapping(row, "target"), mapping(row, "layers")))
    for row, target, layers in rows:
        parts = {
            name: ms for name in mapping(layers, "parts_ms") if (ms := number(layers, "parts_ms", name)) is not None
        }
        counts = tuple(count for count in sequence(row, "schedule") if isinstance(count, int))
        if not counts or sum(parts.values()) <= 0:
            continue
        time = TimeView.of(mapping(row, "latency_ms"))
        placed = number(layers, "placed_ms") or 0.0
        run, runs = number(layers, "run_ms"), whole(layers, "runs")
        yield target_words(target), counts, Profiled(parts, run, runs, time, placed)
