"""Token counts that take longer than their neighbours: found through noise, left out of curves, told where they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tavt_kit.bench import timing
from tavt_kit.bench.timing import Cell, CellPlan, TablePlan, collect, find_shape_penalty
from tavt_kit.core.codec import decode, encode
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LayerCells, ShapePenalty, TimedModel
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule

TOKENS = 197
BAD = {count: 20 / count for count in range(65, 198) if all(count % small for small in range(2, 14))}
"""Primes above 64, as on OpenVINO in bf16 -> what they take more, relatively."""

PLAN = TablePlan(
    target=TargetDevice("openvino", "cpu", threads=1), width=384,
    model=TimedModel("toy", TokenLayout(TOKENS, 12), pool="kept", macs=1, image_size=(224, 224)),
    cells=tuple(
        CellPlan(kind, kind, count, 0, layers, ("tokens",))
        for kind, layers in (("attend", 2), ("feed", 4)) for count in (2, 40, TOKENS)
    ),
    wholes=(TokenSchedule((TOKENS,) * 12),),
)  # fmt: skip


def smooth(kind: str, count: int) -> float:
    """Milliseconds of a layer's half."""
    return 0.05 + 4e-3 * count if kind == "feed" else 0.04 + 2e-3 * count + 4e-6 * count**2


class Machine:
    """Takes what is said above, with noise upwards, and by a speed that changes all the time."""

    def __init__(self, noise: float, bad: dict[int, float], share: float = 0.5) -> None:
        self.bad, self.share, self.noise, self.ran = bad, share, noise, 0
        self.rng = np.random.default_rng(0)

    def __call__(self, cell: CellPlan) -> Callable[[], float]:
        more = self.bad.get(cell.count, 0.0) * smooth("feed", cell.count)
        ms = smooth(cell.kind, cell.count) + more * (1.0 if cell.kind == "feed" else self.share)

        def run() -> float:
            self.ran += 1
            speed = 1 + 0.2 * math.sin(self.ran / 200)
            return float(cell.layers * ms * speed * (1 + self.rng.exponential(self.noise)))

        return run


def test_uneven_counts_are_found_with_what_they_take_more() -> None:
    found = find_shape_penalty(PLAN, Machine(0.01, BAD), np.random.default_rng(0), math.inf)
    assert found is not None and set(found.counts) == set(BAD)
    for count, more in BAD.items():
        assert found.more("feed", count) == pytest.approx(more * smooth("feed", count), rel=0.25)
    assert found.share == pytest.approx(0.5, abs=0.1) and found.more("feed", 68) == found.more("feed", 2) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_an_even_target_is_looked_at_briefly_and_left(seed: int) -> None:
    machine = Machine(0.01, {})
    assert find_shape_penalty(PLAN, machine, np.random.default_rng(seed), math.inf) is None
    assert machine.ran <= 31 * 16  # a sample, not every count


def test_without_time_for_every_count_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the counts would make the others look better than they are. A run takes a second here."""
    machine = Machine(0.01, BAD)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(machine.ran)))
    assert find_shape_penalty(PLAN, machine, np.random.default_rng(0), 3000.0) is None and machine.ran < 500
    assert find_shape_penalty(PLAN, machine, np.random.default_rng(0), 0.0) is None and machine.ran < 1000
    assert find_shape_penalty(PLAN, machine, np.random.default_rng(0), 9000.0) is not None


def test_a_time_that_is_too_short_pulls_no_others_up() -> None:
    """A clock beside it that was disturbed makes a count look quick, once."""
    machine, once = Machine(0.01, BAD), {90: 2, 150: 1}

    def clock(cell: CellPlan) -> Callable[[], float]:
        run = machine(cell)
        if once.get(cell.count, 0) and cell.kind == "feed" and machine.ran > 31 * 16:
            once[cell.count] -= 1
            return lambda: 0.7 * run() if once[cell.count] else run()
        return run

    found = find_shape_penalty(PLAN, clock, np.random.default_rng(0), math.inf)
    assert found is not None and set(found.counts) <= set(BAD) and len(found.counts) >= len(BAD) - 2


def test_short_models_have_none_and_what_does_not_grow_is_not_looked_at() -> None:
    machine = Machine(0.01, BAD)
    short = replace(PLAN, model=replace(PLAN.model, layout=TokenLayout(17, 12)))
    assert find_shape_penalty(short, machine, np.random.default_rng(0), math.inf) is None
    assert machine.ran == 0

    def same(cell: CellPlan) -> Callable[[], float]:  # the feed-forward half of a parallel block is no product
        return lambda: 1e-3 * float(machine.rng.exponential())

    assert find_shape_penalty(PLAN, same, np.random.default_rng(0), math.inf) is None


def test_attention_is_not_asked_about_more_tokens_than_there_are() -> None:
    machine, asked = Machine(0.01, BAD), set[int]()

    def clock(cell: CellPlan) -> Callable[[], float]:
        if cell.kind == "attend":
            asked.add(cell.count)
        return machine(cell)

    assert find_shape_penalty(PLAN, clock, np.random.default_rng(0), math.inf) is not None
    assert asked and max(asked) <= TOKENS  # 197 is uneven itself, so its neighbour above has no place


def test_what_thin_attention_spares_is_told() -> None:
    thin = replace(PLAN, all_rows=(0.5, 0.4))
    found = find_shape_penalty(thin, Machine(0.01, BAD), np.random.default_rng(0), math.inf)
    assert found is not None and (found.dropping, found.reading) == (0.5, 0.4)


def test_curves_are_without_and_predictions_with_the_excess() -> None:
    more = ShapePenalty((67, 197), (0.2, 0.3), 0.5)
    assert more.more("attend", 67) == 0.1 and more.more("last", 197) == 0.075
    assert more.more("drop", 197, 67) == pytest.approx(0.75 * 0.15 + 0.25 * 0.1) and more.more("drop", 196, 100) == 0.0
    cells = [_timed("empty", 1, 0, 1, 0.01), _timed("stem", 197, 0, 1, 0.5), _timed("head", 1, 0, 1, 0.1)]
    for count in (40, 197):
        cells += [
            _timed("attend", count, 0, 2, 2 * (smooth("attend", count) + more.more("attend", count)) + 0.01),
            _timed("feed", count, 0, 4, 4 * (smooth("feed", count) + more.more("feed", count)) + 0.01),
            _timed("drop", count, count // 2, 1, 1 + more.more("drop", count, count // 2) + 0.01),
        ]
    found = collect(cells, 1.0, 384, more)
    assert found.feed.at(197) == pytest.approx(smooth("feed", 197))
    assert found.ms("feed", 197) == pytest.approx(smooth("feed", 197) + 0.3)
    assert found.ms("feed", 196) == pytest.approx(smooth("feed", 196))
    assert found.ms("feed", 67) == pytest.approx(smooth("feed", 67) + 0.2)
    assert found.ms("attend", 197) == pytest.approx(smooth("attend", 197) + 0.15)
    assert found.ms("drop", 197, 98) == pytest.approx(1 + more.more("drop", 197, 98))
    assert found.ms("drop", 196, 98) == pytest.approx(1.0)
    again = decode(LayerCells, json.loads(json.dumps(encode(found))))
    assert again == found


def _timed(kind: str, count: int, kept: int, layers: int, ms: float) -> Cell:
    cell = Cell(kind, count, kept, layers, lambda: ms)
    cell.time()
    return cell
