"""The target of a search: the table of its layers, the costs that rest on it, and whole passes measured there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from tavt_kit.bench import Protocol as BenchProtocol
from tavt_kit.bench import measure_schedules, measure_table, random_images
from tavt_kit.bench.latency_table import BRIEF, open_schedule
from tavt_kit.bench.noise import Watch
from tavt_kit.bench.parts import WholeGraphs, timed_model
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
from tavt_kit.workflows.joint import counting, joint_space, predicting, target_of, variant_of
from tavt_kit.workflows.search_config import PROFILE_FILE, SearchConfig
from tavt_kit.workflows.search_context import SearchContext

TOLERANCE = 0.03
"""How much a predicted latency may exceed its budget: the table's error; the measurement at the end decides."""

_RESTLESS = 2.0
"""How much longer than asked each finalist runs where the machine is not quiet: a dozen of them wait for each other."""

_RUNS = 40
"""Runs of each finalist at least, whatever they take: an upper bound of the p90 needs 29."""

_RUNS_P99 = 320
"""The same where a p99 is limited: its upper bound needs 299."""

_TABLES = 0.2
"""Share of the allowed time that timing the layers may take."""

REPORT = 0.05
"""Share of the allowed time that stays for the report."""

_BRIEFEST = 0.4
"""Seconds of the first look at the ends, in a short time."""

_MEMORY = 3e9
"""Bytes of weights open at once in the final measurement; what exceeds them is measured in several groups."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What a brief measurement of the dense and the smallest configurations told, or a profile in its place.

    Args:
        rows: The feasibility of the latency budgets.
        tails: Latency quantiles as multiples of the median.
        lines: Of each further precision that gets no table: milliseconds at 0 ms of the target's own, and for each.
    """

    rows: list[Feasibility]
    tails: dict[str, float]
    lines: dict[str, tuple[float, float]]


def measured_feasibility(context: SearchContext, config: SearchConfig) -> FirstLook:
    """The feasibility of the latency budgets, by measuring the ends briefly, or by a profile."""
    assert config.target is not None  # asked for timed searches only
    space, tails, tolerance = context.space, dict[str, float](), 0.0
    lines = dict[str, tuple[float, float]]()
    if config.profile is not None:
        medians = {end: config.profile.predict(Configuration.of(end).schedule) for end in (space.dense, *space.ends)}
        tails = config.profile.believed_tails
    else:
        context.progress.update("measuring the dense and the smallest schedule")
        dense = _dense_ones(context, config)
        ends = list(dict.fromkeys([*dense.values(), *space.ends]))
        graphs: WholeGraphs = {}
        opened = {one: _opened(context, config.target, one, config.seed, graphs) for one in ends}
        with Watch() as watch:
            runs = _passes(context, config.target, ends, _brief_protocol(config), config.seed, opened)
        if reasons := watch.verdict().reasons:
            context.progress.say(
                f"The machine is not quiet, so everything is measured slower than it could be: {'; '.join(reasons)}."
            )
        medians, tails, tolerance = (
            {end: run.median for end, run in zip(ends, runs, strict=True)},
            tails_of(runs),
            TOLERANCE,
        )
        least = {Configuration.of(end).precision: end for end in space.ends}
        for precision in dense.keys() - {None}:
            low, high = ((medians[of[None]], medians[of[precision]]) for of in (least, dense))
            lines[str(precision)] = _line(low, high)
    costs = Costs(counting(context), medians.__getitem__, config.target, tails)
    limits = Budget(config.budget.of("latency", "throughput"))
    return FirstLook(feasibility_table(space, costs, limits, tolerance=tolerance), dict(tails), lines)


def ways_out(context: SearchContext, config: SearchConfig, rows: Sequence[Feasibility]) -> str:
    """What would meet a latency budget that nothing of this search does, measured: INT8, a smaller image, or both.

    Args:
        context: The model.
        config: Fixes the image size or the precision, or neither.
        rows: The feasibility of the latency budgets.
    """
    target, limit = config.target, next((row.limit for row in rows if not row.reachable), None)
    if target is None or limit is None or not config.is_here:
        return ""
    free = joint_space(context, replace(config, fix=("layers", "reduction"), max_seconds=None))
    if free is None:
        return ""
    sizes, _, _, precisions, _ = (number - 1 for number in free.choices)
    own = context.joint
    if own is not None and not context.alone:  # what is searched anyway is no way out
        sizes, precisions = sizes * (len(own.sizes) == 1), precisions * (len(own.precisions) == 1)
    least = free.plain.least
    ways = dict.fromkeys([(0, precisions), (sizes, 0), (sizes, precisions)])
    found = [
        least,
        *(free.given(least, image_size=size, precision=precision) for size, precision in ways if size or precision),
    ]
    if len(found) == 1:
        return ""
    runs = _passes(context, target, found, _brief_protocol(config), config.seed)
    costs = Costs(counting(context), dict(zip(found, (run.median for run in runs), strict=True)).__getitem__, target)
    told = [f"{one} {limit.show(costs.of(limit, one))}" for one in found]
    meets = [one for one in found if limit.admits(costs.of(limit, one))]
    return f"; measured with what `fix` and `precision` leave out: {', '.join(told)}" + (
        f", so {meets[0]} would meet it" if meets else ", so a smaller model is needed"
    )


def _dense_ones(context: SearchContext, config: SearchConfig) -> dict[str | None, Choice]:
    """The dense model by precision: in the target's own, and in a short time in those that get no table."""
    dense, joint = context.space.dense, context.joint
    if joint is None or not config.is_short or context.alone:
        return {None: dense}
    return {Configuration.of(one).precision: one
            for one in (joint.given(dense, precision=place) for place in range(len(joint.precisions)))}  # fmt: skip


def _line(low: tuple[float, float], high: tuple[float, float]) -> tuple[float, float]:
    """The line through two points, or through the second and 0 where they do not tell a slope."""
    (x0, y0), (x1, y1) = low, high
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
    return (y1 - slope * x1, slope) if slope > 0 else (0.0, y1 / x1)


def timed(context: SearchContext, config: SearchConfig, store: Store, look: Callable[[], FirstLook]) -> Costs:
    """The costs of schedules on the target, from a table measured now or by an earlier run of this search.

    Args:
        context: The model.
        config: Names the target.
        store: Where the table is kept, so that a continued search predicts the very same.
        look: Checks the budget by a brief measurement, before the table is made.
    """
    target = config.target
    assert target is not None
    key = f"profile {sha256_text(json.dumps(context.ties(config), sort_keys=True))}"
    known = store.get_attr(key)
    if known is None:
        seen = look()
        table = config.profile or _table(context, config, target, _dense_session(context, target))
        others = {} if seen.lines else _other_tables(context, config, target)
        known = {"tails": seen.tails, "table": table.as_record(), "others": others, "lines": seen.lines}
        store.set_attr(key, known)
    records = {None: known["table"], **known.get("others", {})}
    tables = {precision: LatencyTable.from_record(record) for precision, record in records.items()}
    write_record(config.out / PROFILE_FILE, "profile", known["table"])
    return Costs(counting(context), predicting(context, tables, known.get("lines", {})), target, known["tails"])


class MeasureWithin(Protocol):
    """Measures schedules as far as the time goes."""

    def __call__(self, schedules: Sequence[Choice], keep: float = REPORT) -> list[Measurement | None]:
        """The measurements of the schedules, the dense one first; ``None`` where no time was left.

        Args:
            schedules: The first and the second are measured whatever the time.
            keep: Share of the allowed time that stays for what comes later.
        """
        ...


def measured_on(
    context: SearchContext, config: SearchConfig, dense_ms: float | None, baselines: Baselines
) -> MeasureWithin | None:
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

    def measure(schedules: Sequence[Choice], keep: float = REPORT) -> list[Measurement | None]:
        first, *others = schedules
        protocol = _final_protocol(dense_ms, config.budget, config.measure_seconds)
        longest = protocol.max_seconds + protocol.warmup_seconds
        size, waiting = _group_size(context), [*others, *baselines.waiting]
        groups = [waiting[start : start + size] for start in range(0, len(waiting), size)] or [[]]
        found: dict[Choice, Measurement] = {}
        for done, group in enumerate(groups):
            context.progress.update(f"opening {len(group)} models, {done + 1} of {len(groups)}", done / len(groups))
            opened, names = dict[Choice, _Opened](), list[str]()
            for one in group:
                needed = (2 + len(opened) + len(names)) * longest
                if not isinstance(one, str) and one not in context.opened:
                    needed += context.opening.get(Configuration.of(one).precision, 0.0)
                if (found or opened or names) and context.deadline.left(keep) < needed:
                    break  # the best comes first, so what is left may wait for ever
                if isinstance(one, str):
                    names.append(one)
                else:
                    opened[one] = _opened(context, target, one, config.seed)
            if found and not opened and not names:
                break
            doing = f"measuring {len(opened) + len(names)} models and dense, {done + 1} of {len(groups)}"
            context.progress.update(doing, done / len(groups))
            chosen = [first, *opened]
            runs = _passes(context, target, chosen, protocol, config.seed, opened, baselines.opened(names))
            baselines.note(names, runs[len(chosen) :], runs[0])
            pace = found[first].median / runs[0].median if found else 1.0
            for one, run in zip(chosen, runs, strict=False):
                found.setdefault(one, run.at_pace(pace))
        return [found.get(one) for one in schedules]

    return measure


def check_profile(context: SearchContext, profile: LatencyTable) -> None:
    """Raise RecordError where a profile is of another model than the context's."""
    profile.check_model(timed_model(context.model, context.card.name))


def _group_size(context: SearchContext) -> int:
    """Finalists open at once beside the dense model; each has compiled weights of its own."""
    weights = sum(parameter.numel() for parameter in context.model.parameters()) * 4
    return max(2, int(_MEMORY // weights) - 1)


def _brief_protocol(config: SearchConfig) -> BenchProtocol:
    """For what only tells whether a budget can be met; never longer than for a finalist."""
    seconds = min(config.measure_seconds, _BRIEFEST) if config.is_short else config.measure_seconds
    return replace(
        BRIEF,
        min_seconds=min(BRIEF.min_seconds, seconds),
        max_seconds=min(BRIEF.max_seconds, 3 * seconds),
        warmup_seconds=min(BRIEF.warmup_seconds, seconds),
    )


def _final_protocol(dense_ms: float | None, budget: Budget, seconds: float) -> BenchProtocol:
    """The documented protocol, cut short for fast models on a restless machine, never below the runs it takes."""
    runs = _RUNS_P99 if any(limit.statistic == "p99" for limit in budget.of("latency")) else _RUNS
    longest = max(seconds, min(60.0, max(_RESTLESS * seconds, runs * (dense_ms or 0.0) / 1e3)))
    return BenchProtocol(min_seconds=seconds, max_seconds=longest, min_runs=runs, warmup_seconds=min(1.0, seconds))


def _other_tables(context: SearchContext, config: SearchConfig, target: TargetDevice) -> dict[str, Any]:
    """Of the further precisions."""
    further = () if context.joint is None else context.joint.precisions[1:]
    return {
        precision: _table(context, config, replace(target, precision=precision), None).as_record()
        for precision in further
    }


def table_seconds(context: SearchContext, config: SearchConfig) -> float:
    """Seconds that one table aims for: what is asked, or less where the whole search is bounded."""
    if config.max_seconds is None:
        return config.table_seconds
    tables = 1 if context.joint is None or config.is_short else len(context.joint.precisions)
    return min(config.table_seconds, _TABLES * config.max_seconds / tables)


def _table(
    context: SearchContext, config: SearchConfig, target: TargetDevice, opened: dict[TokenSchedule, Session] | None
) -> LatencyTable:
    import numpy as np

    seconds = table_seconds(context, config)
    return measure_table(
        context.model,
        target,
        context.preprocessing.image_size,
        name=context.card.name,
        seconds=seconds,
        points=config.table_points
        if seconds == config.table_seconds
        else min(config.table_points, max(2, int(seconds / 4))),
        rng=np.random.default_rng(config.seed),
        opened=opened,
        on_step=context.progress.update,
    )


_Opened: TypeAlias = tuple[Session, Images]
"""A session with images for it."""


def _passes(
    context: SearchContext,
    target: TargetDevice,
    choices: Sequence[Choice],
    protocol: BenchProtocol,
    seed: int,
    opened: Mapping[Choice, _Opened] | None = None,
    beside: Mapping[str, _Opened] | None = None,
) -> list[Measurement]:
    """Whole passes of the choices, then of what is ``beside``; ``opened`` are those that are open already."""
    import numpy as np

    sessions = dict(opened or {})
    sessions |= {one: _opened(context, target, one, seed) for one in choices if one not in sessions}
    own = {one: sessions[one][0] for one in choices if isinstance(one, TokenSchedule)}
    others = {str(one): sessions[one] for one in choices if one not in own}
    runs = measure_schedules(
        context.model, target, context.preprocessing.image_size, [*own], protocol, np.random.default_rng(seed),
        opened=own, beside=others | dict(beside or {}),
    )  # fmt: skip
    found = dict(zip((*map(str, own), *others), runs, strict=False))
    return [found[str(one)] for one in choices] + runs[len(own) + len(others) :]


def _opened(
    context: SearchContext, target: TargetDevice, choice: Choice, seed: int, graphs: WholeGraphs | None = None
) -> _Opened:
    """A configuration on the target; the dense model stays open, as it is in every group that is measured."""
    import numpy as np

    wanted, begin = Configuration.of(choice), time.monotonic()
    model = variant_of(context, wanted)
    size = model.backbone.image_size
    session = context.opened.get(choice)
    if session is None:
        session = open_schedule(model, target_of(target, wanted), size, wanted.schedule, graphs)
        context.opening[wanted.precision] = max(context.opening.get(wanted.precision, 0.0), time.monotonic() - begin)
    if wanted.schedule == context.space.dense:
        context.opened[choice] = session
    return session, random_images((target.batch, 3, *size), np.random.default_rng(seed))


def _dense_session(context: SearchContext, target: TargetDevice) -> dict[TokenSchedule, Session]:
    """The dense model on the target."""
    dense = context.space.dense
    return {dense: _opened(context, target, dense, 0)[0]}
