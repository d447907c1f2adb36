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
from tavt_kit.workflows.search_config import PROFILE_FILE, SearchConfig
from tavt_kit.workflows.search_context import SearchContext

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


def measured_feasibility(context: SearchContext, config: SearchConfig) -> tuple[list[Feasibility], dict[str, float]]:
    """The feasibility of the latency budgets, and the tails: by measuring the two ends briefly, or by a profile."""
    assert config.target is not None  # asked for timed searches only
    space, tails, slack = context.space, dict[str, float](), 0.0
    if config.profile is not None:
        medians = {end: config.profile.predict(Configuration.of(end).schedule) for end in (space.dense, *space.ends)}
        tails = config.profile.believed_tails
    else:
        context.progress.update("measuring the dense and the smallest schedule")
        ends = space.dense, *space.ends
        runs = _passes(context, config.target, ends, _brief_protocol(config.measure_seconds), config.seed)
        medians, tails, slack = {end: run.median for end, run in zip(ends, runs, strict=True)}, tails_of(runs), SLACK
    costs = Costs(counting(context), medians.__getitem__, config.target, tails)
    return feasibility_table(space, costs, Budget(config.budget.of("latency", "throughput")), slack=slack), dict(tails)


def timed(context: SearchContext, config: SearchConfig, store: Store, tails: Callable[[], dict[str, float]]) -> Costs:
    """The costs of schedules on the target, from a table measured now or by an earlier run of this search.

    Args:
        context: The model.
        config: Names the target.
        store: Where the table is kept, so that a continued search predicts the very same.
        tails: Checks the budget by a brief measurement, before the table is made.
    """
    target = config.target
    assert target is not None
    key = f"profile {sha256_text(json.dumps(context.ties(config), sort_keys=True))}"
    known = store.get_attr(key)
    if known is None:
        seen = tails()
        table = config.profile or _table(context, config, target, _dense_session(context, target))
        known = {"tails": seen, "table": table.as_record(), "others": _other_tables(context, config, target)}
        store.set_attr(key, known)
    records = {None: known["table"], **known.get("others", {})}
    tables = {precision: LatencyTable.from_record(record) for precision, record in records.items()}
    write_record(config.out / PROFILE_FILE, "profile", known["table"])
    return Costs(counting(context), predicting(context, tables), target, known["tails"])


def measured_on(
    context: SearchContext, config: SearchConfig, dense_ms: float | None, baselines: Baselines
) -> Callable[[Sequence[Choice]], list[Measurement]] | None:
    """Measures schedules on the target, in groups, the first schedule in each; ``None`` where it is not here.

    Args:
        context: The model.
        config: Names the target.
        dense_ms: About what the dense model takes, as far as it is known.
        baselines: Those that are open are measured along, the first time.
    """
    target = config.target
    if target is None or config.profile is not None:
        return None

    def measure(schedules: Sequence[Choice]) -> list[Measurement]:
        first, *others = schedules
        protocol = _final_protocol(dense_ms, config.budget, config.measure_seconds)
        size, waiting = _group_size(context), [*others, *baselines.waiting]
        groups = [waiting[start : start + size] for start in range(0, len(waiting), size)] or [[]]
        found: list[Measurement] = []
        for done, group in enumerate(groups):
            doing = f"measuring {len(group)} models and dense, {done + 1} of {len(groups)}"
            context.progress.update(doing, done / len(groups))
            chosen = [first, *(one for one in group if not isinstance(one, str))]
            names = [one for one in group if isinstance(one, str)]
            runs = _passes(context, target, chosen, protocol, config.seed, baselines.opened(names))
            baselines.note(names, runs[len(chosen) :], runs[0])
            runs = runs[: len(chosen)]
            if not found:
                found = runs
            else:
                found += [run.at_pace(found[0].median / runs[0].median) for run in runs[1:]]
        return found

    return measure


def check_profile(context: SearchContext, profile: LatencyTable) -> None:
    """Raise RecordError where a profile is of another model than the context's."""
    profile.check_model(timed_model(context.model, context.card.name))


def _group_size(context: SearchContext) -> int:
    """Finalists open at once beside the dense model; each has compiled weights of its own."""
    weights = sum(parameter.numel() for parameter in context.model.parameters()) * 4
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


def _other_tables(context: SearchContext, config: SearchConfig, target: TargetDevice) -> dict[str, Any]:
    """Of the further precisions."""
    further = () if context.joint is None else context.joint.precisions[1:]
    return {
        precision: _table(context, config, replace(target, precision=precision), None).as_record()
        for precision in further
    }


def _table(
    context: SearchContext, config: SearchConfig, target: TargetDevice, opened: dict[TokenSchedule, Session] | None
) -> LatencyTable:
    import numpy as np

    return measure_table(
        context.model,
        target,
        context.preprocessing.image_size,
        name=context.card.name,
        seconds=config.table_seconds,
        points=config.table_points,
        rng=np.random.default_rng(config.seed),
        opened=opened,
        on_step=context.progress.update,
    )


def _passes(
    context: SearchContext,
    target: TargetDevice,
    schedules: Sequence[Choice],
    protocol: Protocol,
    seed: int,
    beside: Mapping[str, tuple[Session, Images]] | None = None,
) -> list[Measurement]:
    import numpy as np

    size, rng = context.preprocessing.image_size, np.random.default_rng(seed)
    opened = _dense_session(context, target)
    wanted = [Configuration.of(one) for one in schedules]
    own = {str(one): one.schedule for one in wanted if not one.is_variant and one.precision is None}
    others = {str(one): _variant_session(context, target, one, seed) for one in wanted if str(one) not in own}
    beside = others | dict(beside or {})
    runs = measure_schedules(context.model, target, size, [*own.values()], protocol, rng, opened=opened, beside=beside)
    found = dict(zip((*own, *beside), runs, strict=True))
    return [found[str(one)] for one in wanted] + runs[len(own) + len(others) :]


def _variant_session(
    context: SearchContext, target: TargetDevice, wanted: Configuration, seed: int
) -> tuple[Session, Images]:
    """A configuration of the model at another size or score or in another precision, with images for it."""
    import numpy as np

    model = variant_of(context, wanted)
    size = model.backbone.image_size
    images = random_images((target.batch, 3, *size), np.random.default_rng(seed))
    return open_schedule(model, target_of(target, wanted), size, wanted.schedule), images


def _dense_session(context: SearchContext, target: TargetDevice) -> dict[TokenSchedule, Session]:
    """The dense model on the target, opened once: it is in every group that is measured."""
    dense = context.space.dense
    if dense not in context.opened:
        size = context.preprocessing.image_size
        context.opened[dense] = open_schedule(context.model, target, size, dense)
    return context.opened
