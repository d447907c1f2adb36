"""The target of a search: the table of its layers, the costs that rest on it, and whole passes measured there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tavt_kit.bench import Protocol, measure_schedules, measure_table, random_images
from tavt_kit.bench.latency_table import BRIEF, open_schedule
from tavt_kit.bench.parts import timed_model
from tavt_kit.core.budget import Budget
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LatencyTable, tails_of
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import sha256_text, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.runtimes import Images, Session
from tavt_kit.search import Costs, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table
from tavt_kit.workflows.baselines import Baselines
from tavt_kit.workflows.joint import counting, predicting, target_of, variant_of
from tavt_kit.workflows.search_request import PROFILE_FILE, Request
from tavt_kit.workflows.search_subject import Subject

__all__ = [
    "SLACK",
    "check_profile",
    "measured_on",
    "measured_feasibility",
    "timed",
]

SLACK = 0.03
"""How much a predicted latency may exceed its budget: the table's error; the measurement at the end decides."""

_RESTLESS = 2.0
"""How much longer than asked each finalist runs where the machine is not quiet: a dozen of them wait for each other."""

_RUNS = 40
"""Runs of each finalist at least, whatever they take: an upper bound of the p90 needs 29."""

_RUNS_P99 = 320
"""The same where a p99 is limited: its upper bound needs 299."""

_MEMORY = 3e9
"""Bytes of weights open at once in the final measurement; what exceeds them is measured in several groups."""


def measured_feasibility(subject: Subject, request: Request) -> tuple[list[Feasibility], dict[str, float]]:
    """The feasibility of the latency budgets, and the tails: by measuring the two ends briefly, or by a profile."""
    assert request.target is not None  # asked for timed searches only
    space, tails, slack = subject.space, dict[str, float](), 0.0
    if request.profile is not None:
        medians = {end: request.profile.predict(Configuration.of(end).schedule) for end in (space.dense, *space.ends)}
        tails = request.profile.believed_tails
    else:
        subject.progress.update("measuring the dense and the smallest schedule")
        ends = space.dense, *space.ends
        runs = _passes(subject, request.target, ends, _brief_protocol(request.measure_seconds), request.seed)
        medians, tails, slack = {end: run.median for end, run in zip(ends, runs, strict=True)}, tails_of(runs), SLACK
    costs = Costs(counting(subject), medians.__getitem__, request.target, tails)
    return feasibility_table(space, costs, Budget(request.budget.of("latency", "throughput")), slack=slack), dict(tails)


def timed(subject: Subject, request: Request, store: Store, tails: Callable[[], dict[str, float]]) -> Costs:
    """The costs of schedules on the target, from a table measured now or by an earlier run of this search.

    Args:
        subject: The model.
        request: Names the target.
        store: Where the table is kept, so that a continued search predicts the very same.
        tails: Checks the budget by a brief measurement, before the table is made.
    """
    target = request.target
    assert target is not None
    key = f"profile {sha256_text(json.dumps(subject.ties(request), sort_keys=True))}"
    known = store.get_attr(key)
    if known is None:
        seen = tails()
        table = request.profile or _table(subject, request, target, _dense_session(subject, target))
        known = {"tails": seen, "table": table.as_record(), "others": _other_tables(subject, request, target)}
        store.set_attr(key, known)
    records = {None: known["table"], **known.get("others", {})}
    tables = {precision: LatencyTable.from_record(record) for precision, record in records.items()}
    write_record(request.out / PROFILE_FILE, "profile", known["table"])
    return Costs(counting(subject), predicting(subject, tables), target, known["tails"])


def measured_on(
    subject: Subject, request: Request, dense_ms: float | None, baselines: Baselines
) -> Callable[[Sequence[Choice]], list[Measurement]] | None:
    """Measures schedules on the target, in groups, the first schedule in each; ``None`` where it is not here.

    Args:
        subject: The model.
        request: Names the target.
        dense_ms: About what the dense model takes, as far as it is known.
        baselines: Those that are open are measured along, the first time.
    """
    target = request.target
    if target is None or request.profile is not None:
        return None

    def measure(schedules: Sequence[Choice]) -> list[Measurement]:
        first, *others = schedules
        protocol = _final_protocol(dense_ms, request.budget, request.measure_seconds)
        size, waiting = _group_size(subject), [*others, *baselines.waiting]
        groups = [waiting[start : start + size] for start in range(0, len(waiting), size)] or [[]]
        found: list[Measurement] = []
        for done, group in enumerate(groups):
            doing = f"measuring {len(group)} models and dense, {done + 1} of {len(groups)}"
            subject.progress.update(doing, done / len(groups))
            chosen = [first, *(one for one in group if not isinstance(one, str))]
            names = [one for one in group if isinstance(one, str)]
            runs = _passes(subject, target, chosen, protocol, request.seed, baselines.opened(names))
            baselines.note(names, runs[len(chosen) :], runs[0])
            runs = runs[: len(chosen)]
            if not found:
                found = runs
            else:
                found += [run.at_pace(found[0].median / runs[0].median) for run in runs[1:]]
        return found

    return measure


def check_profile(subject: Subject, profile: LatencyTable) -> None:
    """Raise RecordError where a profile is of another model than the subject's."""
    profile.check_model(timed_model(subject.model, subject.card.name))


def _group_size(subject: Subject) -> int:
    """Finalists open at once beside the dense model; each has compiled weights of its own."""
    weights = sum(parameter.numel() for parameter in subject.model.parameters()) * 4
    return max(2, int(_MEMORY // weights) - 1)


def _brief_protocol(seconds: float) -> Protocol:
    """For what only tells whether a budget can be met; never longer than for a finalist."""
    return replace(
        BRIEF,
        min_seconds=min(BRIEF.min_seconds, seconds),
        max_seconds=min(BRIEF.max_seconds, 3 * seconds),
        warmup_seconds=min(BRIEF.warmup_seconds, seconds),
    )


def _final_protocol(dense_ms: float | None, budget: Budget, seconds: float) -> Protocol:
    """The documented protocol, cut short for fast models on a restless machine, never below the runs it takes."""
    runs = _RUNS_P99 if any(limit.statistic == "p99" for limit in budget.of("latency")) else _RUNS
    longest = max(seconds, min(60.0, max(_RESTLESS * seconds, runs * (dense_ms or 0.0) / 1e3)))
    return Protocol(min_seconds=seconds, max_seconds=longest, min_runs=runs, warmup_seconds=min(1.0, seconds))


def _other_tables(subject: Subject, request: Request, target: TargetDevice) -> dict[str, Any]:
    """Of the further precisions."""
    further = () if subject.joint is None else subject.joint.precisions[1:]
    return {
        precision: _table(subject, request, replace(target, precision=precision), None).as_record()
        for precision in further
    }


def _table(
    subject: Subject, request: Request, target: TargetDevice, opened: dict[TokenSchedule, Session] | None
) -> LatencyTable:
    import numpy as np

    return measure_table(
        subject.model,
        target,
        subject.preprocessing.image_size,
        name=subject.card.name,
        seconds=request.table_seconds,
        points=request.table_points,
        rng=np.random.default_rng(request.seed),
        opened=opened,
        on_step=subject.progress.update,
    )


def _passes(
    subject: Subject,
    target: TargetDevice,
    schedules: Sequence[Choice],
    protocol: Protocol,
    seed: int,
    beside: Mapping[str, tuple[Session, Images]] | None = None,
) -> list[Measurement]:
    import numpy as np

    size, rng = subject.preprocessing.image_size, np.random.default_rng(seed)
    opened = _dense_session(subject, target)
    wanted = [Configuration.of(one) for one in schedules]
    own = {str(one): one.schedule for one in wanted if not one.is_variant and one.precision is None}
    others = {str(one): _variant_session(subject, target, one, seed) for one in wanted if str(one) not in own}
    beside = others | dict(beside or {})
    runs = measure_schedules(subject.model, target, size, [*own.values()], protocol, rng, opened=opened, beside=beside)
    found = dict(zip((*own, *beside), runs, strict=True))
    return [found[str(one)] for one in wanted] + runs[len(own) + len(others) :]


def _variant_session(
    subject: Subject, target: TargetDevice, wanted: Configuration, seed: int
) -> tuple[Session, Images]:
    """A configuration of the model at another size or score or in another precision, with images for it."""
    import numpy as np

    model = variant_of(subject, wanted)
    size = model.backbone.image_size
    images = random_images((target.batch, 3, *size), np.random.default_rng(seed))
    return open_schedule(model, target_of(target, wanted), size, wanted.schedule), images


def _dense_session(subject: Subject, target: TargetDevice) -> dict[TokenSchedule, Session]:
    """The dense model on the target, opened once: it is in every group that is measured."""
    dense = subject.space.dense
    if dense not in subject.opened:
        size = subject.preprocessing.image_size
        subject.opened[dense] = open_schedule(subject.model, target, size, dense)
    return subject.opened
