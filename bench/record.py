"""What a bench found, for ``bench.json`` and for people: times, ratios, and the share of the MAC gain realised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tavt_kit.bench.protocol import Protocol
from tavt_kit.core.block_bootstrap import DRAWS, LEAST_FOR_BLOCKS, LEAST_ROUNDS, median_interval
from tavt_kit.core.codec import Record, encode, recorded_as
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import Measurement, PairedRatio, paired_ratio, round_ratios
from tavt_kit.core.schedule import TokenSchedule

if TYPE_CHECKING:
    from tavt_kit.runtimes.executed import ExecutedGraph  # not carried by a pack, which looks at no graph


@dataclass(frozen=True, slots=True)
class EndToEndTime(Record):
    """The way from image files to logits.

    Args:
        measurement: Its times (ms a batch).
        parts: Medians of what it is made of (ms).
    """

    measurement: Measurement = field(metadata=recorded_as("latency_ms"))
    parts: Mapping[str, float] = field(metadata=recorded_as("parts_ms"))
    files: int = field(metadata=recorded_as("pictures"))


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One candidate, measured.

    Args:
        target: Target with the precision that was executed.
        measurement: Times of an inference; of many in flight the wall clock's share of each.
        schedule: Token counts, or ``None`` where the file does not say.
        macs: Multiply-adds of one image, rule ``executed``, or ``None``.
        size_bytes: Size of an artifact's files, or ``None`` for a live model.
        requests: Times of each inference by itself, where many are in flight.
        streams: Requests that OpenVINO computes side by side.
        compile_ms: Part of loading that compiled, where it is told apart.
        image_size: (H, W).
        peak_gflops: Best of this machine in this precision, with these threads.
        memory: Record of a ``MemoryPeak``.
        energy: Record of an ``Energy``.
        busy_cores: Cores that worked for this process while it was timed; ``None`` where nobody looked.
    """

    name: str
    thing: str
    target: TargetDevice
    measurement: Measurement
    schedule: TokenSchedule | None = None
    macs: int | None = None
    size_bytes: int | None = None
    requests: Measurement | None = None
    in_flight: int = 1
    streams: int = 1
    compile_ms: float | None = None
    image_size: tuple[int, int] | None = None
    peak_gflops: float | None = None
    end_to_end: EndToEndTime | None = None
    memory: Mapping[str, Any] | None = None
    energy: Mapping[str, Any] | None = None
    verdicts: Sequence[Mapping[str, Any]] = field(default=())
    busy_cores: float | None = None
    doubts: Sequence[str] = field(default=())
    executed: ExecutedGraph | None = None

    @property
    def latency(self) -> Measurement:
        """How long someone waits for one inference."""
        return self.measurement if self.requests is None else self.requests

    @property
    def throughput(self) -> float:
        """Images per second at the median."""
        return self.target.batch * 1e3 / self.measurement.median

    @property
    def gflops(self) -> float | None:
        """Billions of operations a second at the median: a multiply-add is two."""
        return None if self.macs is None else 2e-9 * self.macs * self.throughput

    @property
    def peak_share(self) -> float | None:
        """``gflops`` as a share of what this machine reaches at best."""
        return None if self.gflops is None or not self.peak_gflops else self.gflops / self.peak_gflops

    @property
    def memory_bytes(self) -> int | None:
        """Most memory in use: on a CUDA device, else of the whole process, its runtime included."""
        known = self.memory or {}
        found = known.get("device_peak") or known.get("peak")
        return found if isinstance(found, int) else None


def gain_share(dense: BenchRow, tapered: BenchRow) -> PairedRatio | None:
    """How much of the saving in multiply-adds became a saving in time: (t_dense / t) / (MACs_dense / MACs).

    1 means that time fell as far as the multiply-adds did. ``None`` where either count is unknown, or the two ran on
    different targets.
    """
    if dense.macs is None or tapered.macs is None or dense.target != tapered.target:
        return None
    ratio, wanted = bootstrap_ratio(dense.measurement, tapered.measurement), dense.macs / tapered.macs
    return replace(ratio, value=ratio.value / wanted, low=ratio.low / wanted, high=ratio.high / wanted)


def reference_of(one: BenchRow, rows: Sequence[BenchRow]) -> BenchRow:
    """The first candidate on the same target: what the share of the MAC gain compares with."""
    return next(other for other in rows if other.target == one.target)


def bench_body(
    rows: Sequence[BenchRow],
    *,
    protocol: Protocol,
    inputs: str,
    seed: int,
    host: HostFacts,
    meters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of ``bench.json``.

    Args:
        inputs: ``random``, or the data and split the images came from.
        meters: Records of the machine itself, such as ``peaks`` and ``noise``.
    """
    return {
        "protocol": asdict(protocol),
        "pairing": {"pairs": "rounds", "interval": METHOD},
        "inputs": inputs,
        "seed": seed,
        "host": host.as_record(),
        **(meters or {}),
        "reference": rows[0].name,
        "candidates": [_row(row, rows) for row in rows],
    }


def _row(one: BenchRow, rows: Sequence[BenchRow]) -> Mapping[str, Any]:
    first, reference = rows[0], reference_of(one, rows)
    share = None if one is reference else gain_share(reference, one)
    ratio = bootstrap_ratio(first.measurement, one.measurement)
    return {
        **{name: encode(getattr(one, name)) for name in _COPIED},
        "latency_ms": one.latency.as_record(),
        "share_ms": None if one.requests is None else one.measurement.as_record(),
        "ratio": {**ratio.as_record(), "says": "reference" if one is first else ratio.word},
        "gain_reference": None if share is None else reference.name,
        "gain_share": encode(share),
        "budgets": encode(one.verdicts),
        **({} if one.executed is None else {"executed": one.executed.as_record()}),
    }


_COPIED = (
    "name", "thing", "target", "image_size", "schedule", "macs", "size_bytes", "throughput", "gflops", "peak_share",
    "compile_ms", "in_flight", "streams", "end_to_end", "memory", "energy", "busy_cores", "doubts",
)  # fmt: skip


METHOD = (
    f"percentile bootstrap over rounds, from {LEAST_FOR_BLOCKS} rounds on over blocks of neighbouring ones; median of "
    f"{DRAWS} resamples"
)


def bootstrap_ratio(slow: Measurement, fast: Measurement, *, seed: int = 0) -> PairedRatio:
    """``slow`` over ``fast``: the median over the rounds of the ratio within each, as ``paired_ratio``.

    Rounds are resampled, not inferences, because noise outlasts an inference. Of fewer than ``LEAST_ROUNDS`` rounds
    the whole range is given.
    """
    found = paired_ratio(slow, fast)
    ratios = round_ratios(slow, fast)
    if len(ratios) < LEAST_ROUNDS:
        low, high, method = min(ratios), max(ratios), "range of the rounds, too few for an interval"
    else:
        _, low, high = median_interval([ratios], lambda medians: medians[0], seed=seed)
        method = METHOD
    return replace(found, low=low, high=high, method=method)
