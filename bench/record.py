"""What a bench found, for ``bench.json`` and for people: times, ratios, and the share of the MAC gain realised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tavt_kit.bench.protocol import Protocol
from tavt_kit.device import TargetDevice
from tavt_kit.host import HostFacts
from tavt_kit.measurement import Measurement, PairedRatio, paired_ratio
from tavt_kit.runtimes.executed import ExecutedGraph
from tavt_kit.schedule import TokenSchedule

__all__ = ["SCHEMA", "VERSION", "Benched", "bench_body", "gain_share"]

SCHEMA, VERSION = "fgvc-kit/bench", 1


@dataclass(frozen=True, slots=True)
class Benched:
    """One candidate, measured.

    Args:
        name: Unique in the bench.
        thing: What the user named: a run folder, a model's name, a file.
        target: Where it ran, in the precision that was executed.
        measurement: Its times.
        schedule: Token counts, or ``None`` where the file does not say.
        macs: Multiply-adds of one image, rule ``executed``, or ``None``.
        size_bytes: Of the files of an artifact, or ``None`` for a live model.
        executed: The kernels that ran, where they were looked at.
    """

    name: str
    thing: str
    target: TargetDevice
    measurement: Measurement
    schedule: TokenSchedule | None = None
    macs: int | None = None
    size_bytes: int | None = None
    executed: ExecutedGraph | None = None

    @property
    def throughput(self) -> float:
        """Images per second at the median."""
        return self.target.batch * 1e3 / self.measurement.median


def gain_share(dense: Benched, tapered: Benched) -> PairedRatio | None:
    """How much of the saving in multiply-adds became a saving in time: (t_dense / t) / (MACs_dense / MACs).

    1 means that time fell as far as the multiply-adds did. ``None`` where either count is unknown, or the two ran on
    different targets.
    """
    if dense.macs is None or tapered.macs is None or dense.target != tapered.target:
        return None
    ratio, wanted = paired_ratio(dense.measurement, tapered.measurement), dense.macs / tapered.macs
    return PairedRatio(ratio.value / wanted, ratio.low / wanted, ratio.high / wanted, ratio.n)


def reference_of(one: Benched, rows: Sequence[Benched]) -> Benched:
    """The first candidate on the same target: what the share of the MAC gain compares with."""
    return next(other for other in rows if other.target == one.target)


def bench_body(
    rows: Sequence[Benched], *, protocol: Protocol, inputs: str, seed: int, host: HostFacts
) -> dict[str, Any]:
    """The body of ``bench.json``.

    Args:
        rows: In the order named.
        protocol: As measured.
        inputs: ``random``, or the data and split the images came from.
        seed: Of the order of the turns and of random images.
        host: Gathered just before.
    """
    return {
        "protocol": asdict(protocol),
        "inputs": inputs,
        "seed": seed,
        "host": host.as_record(),
        "reference": rows[0].name,
        "candidates": [_row(one, rows) for one in rows],
    }


def _row(one: Benched, rows: Sequence[Benched]) -> Mapping[str, Any]:
    first, reference = rows[0], reference_of(one, rows)
    share = None if one is reference else gain_share(reference, one)
    return {
        "name": one.name,
        "thing": one.thing,
        "target": one.target.as_record(),
        "schedule": None if one.schedule is None else list(one.schedule.counts),
        "macs": one.macs,
        "size_bytes": one.size_bytes,
        "throughput": one.throughput,
        "latency_ms": one.measurement.as_record(),
        "ratio": paired_ratio(first.measurement, one.measurement).as_record(),
        "gain_reference": None if share is None else reference.name,
        "gain_share": None if share is None else share.as_record(),
        **({} if one.executed is None else {"executed": one.executed.as_record()}),
    }
