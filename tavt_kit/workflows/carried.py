"""To the device and back: the front's schedules in a pack, and the bench.json measured there as the front's verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate, dense_of, schedule_of
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.front import ParetoFront
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import JointSchedule, TokenSchedule
from tavt_kit.errors import RecordError
from tavt_kit.reports import write_report
from tavt_kit.search.final import confirm
from tavt_kit.search.record import FRONT_FILE, FRONT_SCHEMA, settled_body, update_candidates, write_front
from tavt_kit.search.result import SearchResult

__all__ = ["front_schedules", "read_front", "settle"]

MOST = 6
"""Candidates of the front in a pack, beside the baselines: each is a whole model in the device's memory."""


def read_front(run: Path) -> dict[str, Any]:
    """The front of a search.

    Raises:
        RecordError: The folder holds none, or one without a target or candidates.
    """
    body = read_record(run / FRONT_FILE, FRONT_SCHEMA, 1)
    if body.get("target") is None or not body.get("candidates"):
        raise RecordError(
            f"{run / FRONT_FILE} has no candidates for a target, so nothing of it can be measured on one; search with "
            "`profile` or `target` first"
        )
    if any(isinstance(schedule_of(one), JointSchedule) for one in body["candidates"]):
        raise RecordError(
            f"{run / FRONT_FILE} is of a joint search, and a pack holds one model at one size; export what it chose "
            "and measure the file there (fgvc-kit bench FILE)"
        )
    return body


def front_schedules(body: Mapping[str, Any]) -> list[tuple[str, TokenSchedule]]:
    """What a pack holds of a front: dense, the chosen schedule, those nearest to it, and the baselines; named."""
    record = dense_of(body)
    if record is None:
        raise RecordError("the front records no dense model to compare with; search again")
    dense = schedule_of(record)
    chosen, found = body.get("chosen"), [schedule_of(one) for one in body["candidates"]]
    nearest = sorted(range(len(found)), key=lambda place: abs(place - (chosen or 0)))
    baselines = [schedule_of(one) for one in body.get("baselines", ())]
    kept = [one for one in dict.fromkeys([found[place] for place in nearest[:MOST]] + baselines) if one != dense]
    return [("dense", dense), *((str(one), one) for one in kept)]


def settle(run: Path, file: Path) -> dict[str, Any]:
    """Judge a front by what was measured on its device, and write it anew; the front's new body.

    Args:
        run: The run folder of the search.
        file: ``bench.json`` of the device, or its folder.

    Raises:
        RecordError: The file is of another model, target or machine, or lacks the dense or the chosen schedule.
    """
    body = read_front(run)
    bench = read_record(file / "bench.json" if file.is_dir() else file, "fgvc-kit/bench", 1)
    target, measured, host = _measured(bench, file)
    _check_same(body, bench, target, host, file)
    known = [_candidate(one, body, target) for one in (*body["candidates"], *body.get("baselines", ()))]
    known = [one for one in {one.schedule: one for one in known}.values() if one.schedule in measured]
    dense = next((one for one in known if one.origin == "dense"), None)
    if dense is None or len(known) < 2:
        raise RecordError(
            f"{file} measures none of the schedules of {run}, or not the dense one beside them; run the pack of this "
            "search (fgvc-kit bench RUN `pack` ZIP)"
        )
    differences = {one.schedule: one.difference for one in known}
    budget = Budget.parse(body["budgets"])
    result = _result(known, dense, body)
    final = confirm(
        result,
        budget,
        measure=lambda schedules: [measured[one] for one in schedules],
        compare=lambda schedule: _recorded(differences[schedule]),
        number=len(known),
        rounds=1,
    )
    settled = settled_body(body, final, budget, target=target, host=host)
    write_front(run, settled)
    update_candidates(run, final)
    write_report([run], run)
    return settled


def _measured(bench: Mapping[str, Any], file: Path) -> tuple[TargetDevice, dict[TokenSchedule, Measurement], HostFacts]:
    try:
        rows = bench["candidates"]
        targets = {TargetDevice.from_record(row["target"]) for row in rows}
        found = {
            TokenSchedule(tuple(row["schedule"])): Measurement.from_record(row["latency_ms"])
            for row in rows
            if row["schedule"] is not None
        }
        host = HostFacts.from_record(bench["host"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{file} is no whole bench.json, it lacks or misuses {error}; measure again") from None
    if len(targets) != 1:
        raise RecordError(f"{file} measures {len(targets)} targets, but a front is of one; run the pack of the search")
    return targets.pop(), found, host


def _check_same(
    body: Mapping[str, Any], bench: Mapping[str, Any], target: TargetDevice, host: HostFacts, file: Path
) -> None:
    """Refuse what was measured of another model, on another target or another machine than the front is of."""
    wanted = TargetDevice.from_record(body["target"])
    if target != wanted:
        raise RecordError(f"{file} was measured on {target}, but the search is for {wanted}; run its pack there")
    macs = {tuple(one["schedule"]): one["macs"] for one in (*body["candidates"], *body.get("baselines", ()))}
    for row in bench["candidates"]:
        counted = macs.get(tuple(row["schedule"] or ()))
        if counted is not None and row["macs"] not in (None, counted):
            raise RecordError(
                f"{file} measured a model of {row['macs']:,} multiply-adds at a schedule where this one has "
                f"{counted:,}: it is another model; run the pack of this search"
            )
    recorded = body.get("host")
    if recorded is not None and not HostFacts.from_record(recorded).same_machine(host):
        raise RecordError(
            f"{file} was measured on {host}, but the search is for {HostFacts.from_record(recorded)}; measure on the "
            "machine that the profile is of, or search with a profile of the other one"
        )


def _candidate(record: Mapping[str, Any], body: Mapping[str, Any], target: TargetDevice) -> Candidate:
    metric, difference = body["metric"], record.get("against_dense")
    try:
        low, high = record["ci95"]
        return Candidate(
            schedule_of(record),
            record["macs"],
            accuracy=Accuracy(metric, body["split"], record[metric], record["n"], low, high),
            latency_predicted_ms=(record["latency_ms"] or {}).get("predicted"),
            target=target,
            origin=record["origin"],
            difference=None if difference is None else PairedDifference.from_record(difference),
            others=tuple(Accuracy.from_record(one) for one in record.get("others", {}).values()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"a candidate of the front lacks or misuses a field: {error}; search again") from None


def _result(known: Sequence[Candidate], dense: Candidate, body: Mapping[str, Any]) -> SearchResult:
    others = [replace(one, latency=None) for one in known if one is not dense]
    on_front = any(one["origin"] == "dense" for one in body["candidates"])
    return SearchResult(
        ParetoFront("predicted", [*([dense] if on_front else []), *others], more=tuple(body["objectives"][2:])),
        (dense, *others),
        body.get("stopped_because", ""),
        tuple(body.get("history", ())) or (0.0,),
        float(body.get("seconds", 0.0)),
        on_front,
    )


def _recorded(difference: PairedDifference | None) -> PairedDifference:
    if difference is None:
        raise RecordError("the front records no difference to the dense model; search again")
    return difference
