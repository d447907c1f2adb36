"""What a bench found, for ``bench.json`` and for people: times, ratios, the share of the MAC gain, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tavt_kit.bench.protocol import Protocol
from tavt_kit.core.budget import Budget, Fact, facts_of
from tavt_kit.core.budget import judge as judge_limit
from tavt_kit.core.codec import encode
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import METHOD, Measurement, PairedRatio, bootstrap_ratio
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One candidate, measured; ``None`` where something is not known.

    Args:
        target: With the precision that was executed.
        macs: Multiply-adds of one image, rule ``executed``.
        compile_ms: Part of loading that compiled.
        memory: Record of a ``MemoryPeak``.
        busy_cores: Cores that worked for this process while it was timed.
    """

    name: str
    thing: str
    target: TargetDevice
    latency: Measurement
    schedule: TokenSchedule | None = None
    macs: int | None = None
    size_bytes: int | None = None
    compile_ms: float | None = None
    image_size: tuple[int, int] | None = None
    memory: Mapping[str, Any] | None = None
    verdicts: Sequence[Mapping[str, Any]] = field(default=())
    busy_cores: float | None = None
    doubts: Sequence[str] = field(default=())

    @property
    def throughput(self) -> float:
        """Images per second at the median."""
        return self.target.batch * 1e3 / self.latency.median

    @property
    def gflops(self) -> float | None:
        """Billions of operations a second at the median: a multiply-add is two."""
        return None if self.macs is None else 2e-9 * self.macs * self.throughput

    @property
    def memory_bytes(self) -> int | None:
        """Most memory in use by the whole process, its runtime included."""
        peak = (self.memory or {}).get("peak")
        return peak if isinstance(peak, int) else None


def gain_share(dense: BenchRow, tapered: BenchRow) -> PairedRatio | None:
    """How much of the saving in multiply-adds became a saving in time: (t_dense / t) / (MACs_dense / MACs).

    1 means that time fell as far as the multiply-adds did. ``None`` where either count is unknown, or the two ran on
    different targets.
    """
    if dense.macs is None or tapered.macs is None or dense.target != tapered.target:
        return None
    ratio, wanted = bootstrap_ratio(dense.latency, tapered.latency), dense.macs / tapered.macs
    return replace(ratio, value=ratio.value / wanted, low=ratio.low / wanted, high=ratio.high / wanted)


def bench_body(
    rows: Sequence[BenchRow],
    *,
    protocol: Protocol,
    inputs: str,
    seed: int,
    host: HostFacts,
    noise: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of ``bench.json``; ``inputs`` says which images, ``noise`` is the record of the watch."""
    return {
        "protocol": asdict(protocol),
        "pairing": {"pairs": "rounds", "interval": METHOD},
        "inputs": inputs,
        "seed": seed,
        "host": host.as_record(),
        **({} if noise is None else {"noise": noise}),
        "reference": rows[0].name,
        "candidates": [_row(row, rows) for row in rows],
    }


def _row(row: BenchRow, rows: Sequence[BenchRow]) -> Mapping[str, Any]:
    # The share of the MAC gain compares with the first candidate on the same target.
    first, reference = rows[0], next(other for other in rows if other.target == row.target)
    share = None if row is reference else gain_share(reference, row)
    ratio = bootstrap_ratio(first.latency, row.latency)
    return {
        **{name: encode(getattr(row, name)) for name in _COPIED},
        "latency_ms": row.latency.as_record(),
        "ratio": {**ratio.as_record(), "says": "reference" if row is first else ratio.word},
        "gain_reference": None if share is None else reference.name,
        "gain_share": encode(share),
        "budgets": encode(row.verdicts),
    }


_COPIED = (
    "name", "thing", "target", "image_size", "schedule", "macs", "size_bytes", "throughput", "gflops",
    "compile_ms", "memory", "busy_cores", "doubts",
)  # fmt: skip


# Why nothing is known, by quantity.
_UNKNOWN = {
    "flops": "its multiply-adds are not known",
    "size": "a live model has no file",
    "memory": "peak memory is measured of exported files, each alone",
}


def refuse_qualities(budget: Budget) -> None:
    """Raise BudgetError where a limit is on what only labelled images tell."""
    if budget.floors:
        raise BudgetError(
            f"a bench measures no accuracy, got {budget.floors[0]}; use fgvc-kit check or eval for that limit"
        )


def judge(row: BenchRow, budget: Budget, *, is_quiet: bool) -> list[dict[str, Any]]:
    """Every limit of the budget, answered for one candidate, with its bounds or why nothing is known, for the record.

    Where the machine was not quiet, every measurement counts as unsteady.
    """
    latency = row.latency if is_quiet else replace(row.latency, steady=False)
    facts = facts_of(macs=row.macs, latency=latency, batch=row.target.batch)
    counted = {"size": row.size_bytes, "memory": row.memory_bytes}
    facts |= {name: Fact(value, value) for name, value in counted.items() if value is not None}
    answers = []
    for limit in budget:
        fact = facts.get(limit.name)
        answers.append({
            "budget": str(limit),
            "verdict": str(judge_limit(limit, facts)),
            "low": None if fact is None else fact.low,
            "high": None if fact is None or fact.high == float("inf") else fact.high,
            "reason": "" if fact is not None else _UNKNOWN[limit.quantity],
        })  # fmt: skip
    return answers
