"""Joules of an inference, where the machine can tell.

The sequence, after the times were measured (a candidate runs alone, so that the joules are its own)::

    meter = energy_meter(target)
    energy = measure_energy(session.timer(images), meter, batch=target.batch)      # about 2 s; at once where not told
    row["energy"] = energy.as_record()

Whatever else the machine does meanwhile is in the joules too, and so is what it draws when idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tavt_kit.bench.energy_counters import EnergyMeter
from tavt_kit.bench.energy_counters import energy_meter as energy_meter
from tavt_kit.core.codec import Record

__all__ = ["Energy", "energy_meter", "measure_energy"]

_LEAST_RUNS = 5
"""Inferences whose joules are divided: RAPL counts in steps of a millisecond, NVML of tens."""

_RAMP = 0.25
"""Share of the time that is run before counting: power rises over tenths of a second."""


@dataclass(frozen=True, slots=True)
class Energy(Record):
    """What inferences drew.

    Args:
        joules: Of one image; ``None`` where the machine cannot tell.
        watts: Mean power while they ran.
        source: Which counters.
        reason: Why there is no number; empty where there is one.
        images: How many it was divided by.
    """

    joules: float | None
    watts: float | None = None
    source: str = ""
    reason: str = ""
    images: int = 0


def measure_energy(run: Callable[[], object], meter: EnergyMeter, *, batch: int = 1, seconds: float = 2.0) -> Energy:
    """Joules of one image, from inferences one after another.

    Args:
        run: One inference, warm.
        meter: Of the processor it runs on.
        batch: Images in it.
        seconds: Least time to run.
    """
    if meter.reason:
        return Energy(None, reason=meter.reason)
    begin = time.perf_counter()
    while time.perf_counter() - begin < _RAMP * seconds:
        run()
    runs, before, begin = 0, meter.joules(), time.perf_counter()
    while runs < _LEAST_RUNS or time.perf_counter() - begin < seconds:
        run()
        runs += 1
    joules, took = meter.joules() - before, time.perf_counter() - begin
    if joules <= 0:
        return Energy(None, source=meter.source, reason=f"{meter.source} did not move in {took:.1f} s")
    return Energy(joules / (runs * batch), joules / took, meter.source, images=runs * batch)
