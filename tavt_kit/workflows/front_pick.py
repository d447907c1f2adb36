"""Picking from a recorded front: the best within limits, or the knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tavt_kit.core.budget import Limit

__all__ = ["best_within", "knee_of"]


def knee_of(body: Mapping[str, Any]) -> int:
    """The candidate after which spending more buys little, on the front of the first cost and the metric.

    Args:
        body: A ``front.json``.
    """
    from tavt_kit.core.front import dominates, knee

    points = [(_cost(body, one), float(one[body["metric"]])) for one in body["candidates"]]
    # With three objectives some are on the front for the third one's sake.
    free = [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
    return free[knee([points[i] for i in free])] if free else knee([])


def best_within(body: Mapping[str, Any], texts: Sequence[str]) -> int | None:
    """The most accurate candidate within the limits, with a floor the cheapest; ``None`` where none keeps to them.

    Args:
        body: A ``front.json``.
        texts: Limits such as ``latency=8ms``, held against the recorded values.

    Raises:
        BudgetError: A limit that cannot be read, or on what is not recorded.
    """
    from tavt_kit.core.budget import Budget

    budget = Budget.parse(texts)
    fitting = [
        (index, record)
        for index, record in enumerate(body["candidates"])
        if all(limit.admits(_value(body, record, limit)) for limit in budget)
    ]
    if budget.floors:
        return min(fitting, key=lambda pair: _cost(body, pair[1]), default=(None, None))[0]
    return max(fitting, key=lambda pair: (pair[1][body["metric"]], -pair[0]), default=(None, None))[0]


def _cost(body: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """What the front is sorted by: its first objective."""
    value: Any = record
    for key in body.get("objectives", ["macs"])[0].split("."):
        value = value[key]
    return float(value)


def _value(body: Mapping[str, Any], record: Mapping[str, Any], limit: Limit) -> float:
    """What is recorded of the limited quantity.

    Raises:
        BudgetError: Nothing is.
    """
    from tavt_kit.core.candidate import dense_of
    from tavt_kit.errors import BudgetError

    found = None
    if limit.quantity == "flops":
        found = record["macs"]
    elif limit.quantity == "latency":
        found = _ms(record, limit.statistic)
    elif limit.quantity == "throughput":
        milliseconds = _ms(record, "p50")
        found = None if milliseconds is None else 1e3 * body["target"]["batch"] / milliseconds
    elif limit.quantity == "memory":
        known = record.get("memory_bytes") or {}
        found = known.get("most", known.get("predicted"))
    elif limit.quantity == "drop":
        dense = dense_of(body)
        before, after = None if dense is None else _metric(body, dense, "top1"), _metric(body, record, "top1")
        # A fraction of images is exact to far less than this, a difference of fractions is not.
        found = None if before is None or after is None else round(before - after, 9)
    else:
        found = _metric(body, record, limit.name)
    if found is None:
        raise BudgetError(
            f"this front does not record what {limit} limits; pick by flops, latency, throughput, drop or what it was "
            "searched by"
        )
    return float(found)


def _ms(record: Mapping[str, Any], statistic: str | None) -> float | None:
    """The measured latency; the predicted one where none is."""
    times = record["latency_ms"] or {}
    found = times.get({"p50": "median"}.get(statistic or "", statistic), times.get("predicted"))
    return None if found is None else float(found)


def _metric(body: Mapping[str, Any], record: Mapping[str, Any], name: str) -> float | None:
    if name == body["metric"]:
        return float(record[name])
    other = record.get("others", {}).get(name)
    return None if other is None else float(other["value"])
