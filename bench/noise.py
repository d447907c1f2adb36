"""Watch: whether the machine was left in peace while something was measured; a plain word with its reasons.

The sequence, around an interleaved measurement::

    watch = Watch()
    with watch:                                             # reads the counters, here and at the end
        found = bench(sessions, images, on_round=watch.turn)     # between turns: the clock, at most 4 times a second
    noise = watch.verdict()                                 # Noise("unsteady", ("other processes used ...",), ...)
    body["noise"] = noise.as_record()

No thread runs beside the measurement: what a turn costs (about a millisecond) is spent between turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tavt_kit.bench.counters import Counters, megahertz, thermal_events
from tavt_kit.bench.disturbances import disturbances, unseen
from tavt_kit.core.codec import Record
from tavt_kit.core.device import allowed_cpus
from tavt_kit.errors import MeasurementError

__all__ = ["Noise", "Watch"]

_STRETCHES = 5
"""Parts of the run whose median clocks are compared: a moment's dip cancels, a change that lasts does not."""

_LEAST = 3
"""Readings in such a part."""

_GAP = 0.25
"""Least seconds between two readings of the clock."""


@dataclass(frozen=True, slots=True)
class Noise(Record):
    """How quiet the machine was.

    Args:
        word: ``steady`` or ``unsteady``.
        reasons: A sentence for each thing that disturbed; empty where steady.
        unseen: What this machine does not tell, so that nobody takes silence for quiet.
        facts: The numbers behind, by name; ``None`` where not told. ``seconds`` watched; ``cpus`` allowed; ``others``
            and ``elsewhere``: CPUs' worth of time used by other processes on ours and on the other CPUs; ``load1``;
            ``stolen``: share; ``preempted``: forced switches a second of own CPU time; ``throttled``: share of the
            run; ``quota``: CPUs; ``thermal``: events; ``mhz_low``, ``mhz_high``: of the stretches; ``pace``:
            slowest stretch over fastest, of a fixed chain of additions.
    """

    word: str
    reasons: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    facts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def is_steady(self) -> bool:
        """Nothing that was seen disturbed."""
        return self.word == "steady"

    def __str__(self) -> str:
        """For people, in one line."""
        return self.word if self.is_steady else f"{self.word}: {'; '.join(self.reasons)}"


class Watch:
    """See the module. A watch serves once.

    Args:
        root: Of the file system; another one in tests.
        cpus: Those this process may use; its affinity by default.
        now: A clock in seconds.
        pace: Seconds that a fixed piece of work takes.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        cpus: Collection[int] | None = None,
        now: Callable[[], float] = time.perf_counter,
        pace: Callable[[], float] | None = None,
    ) -> None:
        self._root, self._now, self._pace = root, now, pace or _pace
        self._cpus = frozenset(allowed_cpus() if cpus is None else cpus)
        self._begin: tuple[float, Counters] | None = None
        self._end: tuple[float, Counters] | None = None
        self._last = float("-inf")
        self._clocks, self._paces, self._heat = list[float](), list[float](), list[int]()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin; just before warm-up."""
        self._begin = (self._now(), Counters.read(self._cpus, self._root))
        self.turn()

    def turn(self, *told: object) -> None:
        """Read the clock, unless that was done just before; to be called between turns.

        Args:
            *told: Whatever a protocol tells its ``on_round``; not used.
        """
        if self._now() - self._last < _GAP:
            return
        clock, thermal = megahertz(self._cpus, self._root), thermal_events(self._root)
        if clock is not None:
            self._clocks.append(clock)
        if thermal is not None:
            self._heat.append(thermal)
        self._paces.append(self._pace())
        self._last = self._now()

    def stop(self) -> None:
        """End; just after the last turn."""
        self._last = float("-inf")
        self.turn()
        self._end = (self._now(), Counters.read(self._cpus, self._root))

    def verdict(self) -> Noise:
        """What was seen between start and stop.

        Raises:
            MeasurementError: The watch was not started and stopped.
        """
        if self._begin is None or self._end is None:
            raise MeasurementError("a watch gives its verdict after start and stop; call both around the measurement")
        found = self._facts(self._end[0] - self._begin[0], self._begin[1], self._end[1])
        facts = {name: None if value is None else round(value, 6) for name, value in found.items()}
        reasons = tuple(disturbances(facts))
        return Noise("unsteady" if reasons else "steady", reasons, tuple(unseen(facts)), facts)

    def _facts(self, seconds: float, begin: Counters, end: Counters) -> dict[str, float | None]:
        seconds = max(seconds, 1e-9)
        own, busy = _grown(begin.own, end.own), _grown(begin.busy, end.busy)
        others = None if own is None or busy is None else max(0.0, busy - own)
        elsewhere, stolen = _grown(begin.elsewhere, end.elsewhere), _grown(begin.stolen, end.stolen)
        preempted = _grown(begin.preempted, end.preempted)
        throttled = _grown(begin.group.throttled_seconds, end.group.throttled_seconds)
        clocks, paces = _stretches(self._clocks), _stretches(self._paces)
        return {
            "seconds": seconds,
            "cpus": float(len(self._cpus)),
            "others": None if others is None else others / seconds,
            "elsewhere": None if elsewhere is None else elsewhere / seconds,
            "load1": end.load,
            "stolen": None if stolen is None else stolen / seconds / len(self._cpus),
            "preempted": None if preempted is None or not own else preempted / own,
            "throttled": None if throttled is None else throttled / seconds,
            "quota": end.group.cpus,
            "thermal": float(max(self._heat) - self._heat[0]) if self._heat else None,
            "mhz_low": min(clocks, default=None),
            "mhz_high": max(clocks, default=None),
            "pace": max(paces) / min(paces) if paces else None,
        }


def _stretches(readings: Sequence[float]) -> list[float]:
    """The medians of up to five consecutive parts of the run; none where there are too few readings for two."""
    parts = min(_STRETCHES, len(readings) // _LEAST)
    if parts < 2:
        return []
    edges = [round(len(readings) * part / parts) for part in range(parts + 1)]
    return [median(readings[start:end]) for start, end in zip(edges, edges[1:], strict=False)]


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, float(after) - float(before))


def _pace() -> float:
    """Of a chain of additions that nothing but the clock makes faster; the best of three, half a millisecond in all."""
    best = float("inf")
    for _ in range(3):
        begin, total = time.perf_counter(), 0
        for step in range(4000):
            total += step
        best = min(best, time.perf_counter() - begin)
    return best
