"""The measurement protocol: warm up until stable, then interleave the candidates until sure."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from tavt_kit.core.measurement import LEAST_ROUNDS, Measurement
from tavt_kit.errors import MeasurementError
from tavt_kit.runtimes.session import Images, Session

if TYPE_CHECKING:
    from tavt_kit.bench.validity import ValidityMonitor

_log = logging.getLogger(__name__)
_WINDOW = 5  # Runs whose median is compared with that of the runs before them, to see whether warm-up is over
_STABLE = 0.03  # Largest relative difference of two such medians that counts as stable


@dataclass(frozen=True, slots=True)
class Protocol:
    """How long and how surely to measure.

    Args:
        min_seconds: Least time spent in timed runs of a candidate.
        max_seconds: Most; a candidate not sure by then is unsteady.
        half_width: Half of the median's 95 % interval, relative, at which a candidate is sure.
        warmup_seconds: Most time of warm-up; it ends earlier when the times are stable.
        visit_seconds: Time a candidate runs before the next one's turn.
        visit_runs: Least timed runs in a turn.

    Raises:
        MeasurementError: A number out of range.
    """

    min_seconds: float = 3.0
    max_seconds: float = 60.0
    min_runs: int = 30
    half_width: float = 0.01
    warmup_seconds: float = 5.0
    visit_seconds: float = 0.3
    visit_runs: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise MeasurementError(
                f"measuring needs 0 <= min_seconds <= max_seconds, got {self.min_seconds}, {self.max_seconds}"
            )
        if self.min_runs < 2 or self.visit_runs < 1 or self.half_width <= 0:
            raise MeasurementError(
                "measuring needs at least 2 runs, 1 run a visit and a half width above 0, got "
                f"{self.min_runs}, {self.visit_runs} and {self.half_width}"
            )


BRIEF = Protocol(min_seconds=1.0, max_seconds=4.0, min_runs=15, warmup_seconds=1.0, visit_seconds=0.1)
"""For calibration: sure to about 1 % on a quiet machine, and short."""


def bench(
    sessions: Mapping[str, Session],
    images: Images | Mapping[str, Images],
    protocol: Protocol | None = None,
    *,
    rng: np.random.Generator | None = None,
    on_round: Callable[[float, Sequence[str]], None] | None = None,
    monitor: ValidityMonitor | None = None,
) -> dict[str, Measurement]:
    """Time several sessions against one another.

    In each round every session gets one turn, in random order: one untimed run, which takes the cost of the
    switch (another model's weights in the caches, another runtime's threads still spinning), then timed runs.
    Rounds are the pairs of ``paired_ratio``, so noise that outlasts a round cancels.

    Args:
        images: (B, 3, H, W), B being the target's batch: real or random; or one array for each name.
        protocol: Defaults to the full protocol of the documentation; smaller numbers for a quick look.
        on_round: Told the seconds spent and the names not yet sure, after every round.

    Returns:
        Name -> measurement, in the order given. ``steady`` is False where the time ran out.

    Raises:
        MeasurementError: Constant images, or a batch that differs from a target's.
    """
    protocol = Protocol() if protocol is None else protocol
    rng = np.random.default_rng(0) if rng is None else rng
    given = images if isinstance(images, Mapping) else dict.fromkeys(sessions, images)
    runners = {name: _runner(name, session, given[name]) for name, session in sessions.items()}
    with _no_collection():
        for runner in runners.values():
            runner.warm_up(protocol.warmup_seconds)
        _rounds(list(runners.values()), protocol, rng, on_round, monitor)
    return {name: runner.measurement(steady=runner.is_sure(protocol)) for name, runner in runners.items()}


def random_images(shape: tuple[int, int, int, int], rng: np.random.Generator) -> Images:
    """Standard normal images (B, 3, H, W), as normalised photographs roughly are."""
    return rng.standard_normal(shape, dtype=np.float32)


@dataclass(slots=True)
class _Runner:
    """One candidate while it is measured."""

    name: str
    load_ms: float
    run: Callable[[], float]
    first_ms: float = 0.0
    warmup: int = 0
    samples: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def warm_up(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        self.first_ms = self.run()
        times = list[float]()
        while time.perf_counter() < end and not _is_stable(times):
            times.append(self.run())
        self.warmup = 1 + len(times)
        _log.debug("%s: first %.2f ms, warm after %d runs", self.name, self.first_ms, self.warmup)

    def visit(self, protocol: Protocol, monitor: ValidityMonitor | None) -> None:
        self.run()
        if monitor is not None:
            monitor.begin(self.name)
        times = list[float]()
        while len(times) < protocol.visit_runs or sum(times) < protocol.visit_seconds * 1e3:
            times.append(self.run())
        if monitor is not None:
            monitor.end(self.name)
        self.samples += times
        self.rounds.append(len(times))

    def is_sure(self, protocol: Protocol) -> bool:
        if len(self.samples) < protocol.min_runs or sum(self.samples) < protocol.min_seconds * 1e3:
            return False
        if len(self.rounds) < LEAST_ROUNDS:
            return False
        return self.measurement(steady=True).relative_half_width <= protocol.half_width

    def measurement(self, *, steady: bool) -> Measurement:
        return Measurement(tuple(self.samples), steady, tuple(self.rounds), self.load_ms, self.first_ms, self.warmup)


def _rounds(
    runners: list[_Runner],
    protocol: Protocol,
    rng: np.random.Generator,
    on_round: Callable[[float, Sequence[str]], None] | None,
    monitor: ValidityMonitor | None,
) -> None:
    """Turns until every candidate is sure or out of time. Sure ones go on, so that all stay paired."""
    begin = time.perf_counter()
    while True:
        waiting = [runner for runner in runners if sum(runner.samples) < protocol.max_seconds * 1e3]
        unsure = [runner.name for runner in waiting if not runner.is_sure(protocol)]
        if on_round is not None:
            on_round(time.perf_counter() - begin, unsure)
        if not unsure:
            return
        for index in rng.permutation(len(waiting)):
            waiting[index].visit(protocol, monitor)


def _runner(name: str, session: Session, images: Images) -> _Runner:
    if images.shape[0] != session.target.batch:
        raise MeasurementError(
            f"{name} is to run batches of {session.target.batch}, but got a batch of {images.shape[0]}"
        )
    if not images.size or float(images.reshape(len(images), -1).std(axis=1).min()) == 0.0:  # of any image
        raise MeasurementError(f"times on constant images say little; measure {name} on real or random ones")
    if not np.isfinite(images).all():
        raise MeasurementError(f"the images of {name} hold values that are no numbers; measure others")
    return _Runner(name, session.load_ms, session.timer(images))


def _is_stable(times: list[float]) -> bool:
    if len(times) < 2 * _WINDOW:
        return False
    now, before = median(times[-_WINDOW:]), median(times[-2 * _WINDOW : -_WINDOW])
    return abs(now / before - 1) <= _STABLE


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector off: its pauses belong to nobody's inference."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
