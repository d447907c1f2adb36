"""The target of a search: the table of its layers, the costs that rest on it, and whole passes measured there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tavt_kit.bench import Protocol as BenchProtocol
from tavt_kit.bench import random_images
from tavt_kit.bench.latency_table import measure_schedules, measure_table, open_schedule
from tavt_kit.bench.noise import Watch, gpu_state
from tavt_kit.bench.parts import WholeGraphs
from tavt_kit.bench.protocol import BRIEF
from tavt_kit.core.budget import Budget
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LONGEST_RATIOS, LatencyTable, measure_quantile_ratios
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import sha256_text, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.runtimes import Images, Session
from tavt_kit.search import Costs, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table
from tavt_kit.workflows.baselines import Baselines
from tavt_kit.workflows.joint import counting, joint_space, predicting, variant_of
from tavt_kit.workflows.search_config import PROFILE_FILE, SearchConfig
from tavt_kit.workflows.search_context import SearchContext

TOLERANCE = 0.03
"""How much a predicted latency may exceed its budget: the table's error; the measurement at the end decides."""

# How much longer than asked each finalist runs where the machine is not quiet: a dozen of them wait for each other.
_RESTLESS = 2.0

_RUNS = {"p50": 60, "p90": 60, "p99": 700}
"""Runs of each finalist at least, whatever they take, by the statistic that is limited: an upper bound of one among
thirty needs 61 for the p90 and 637 for the p99."""

_RUNS_AGAIN = {"p50": 100, "p90": 200, "p99": 1500}
"""The same of what is measured again because it lies about the limit: what is 5 % inside is then mostly proven."""

_POINTS = 12  # token counts at which the parts of a layer are timed; what lies between is interpolated
_TABLES = 0.2  # share of the allowed time that timing the layers may take
_LOOK, _TIMED = 0.2, 0.4  # shares of the allowed time after which the first look, and the tables, take no more up

REPORT = 0.05  # share of the allowed time that stays for the report

_BRIEFEST = 0.4  # seconds of the first look at the ends, in a short time
_MEMORY = 3e9  # bytes of weights open at once in the final measurement; what exceeds them is measured in several groups


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What a brief measurement of the dense and the smallest configurations told, or a profile in its place.

    The feasibility of the latency budgets, latency quantiles as multiples of the median, and ``lines`` as
    ``predicting`` takes them, of each precision that gets no table.
    """

    rows: list[Feasibility]
    quantile_ratios: dict[str, float]
    lines: dict[str, tuple[float, float]]
    is_disturbed: bool = False


def measured_feasibility(context: SearchContext) -> FirstLook:
    """The feasibility of the latency budgets, by measuring the ends briefly, or by a profile."""
    config, space, joint = context.config, context.space, context.joint
    quantile_ratios, tolerance, lines = dict[str, float](), 0.0, dict[str, tuple[float, float]]()
    reasons: Sequence[str] = ()
    if config.table is not None:
        predict = predicting(context, {None: config.table}, {})
        medians = {end: predict(end) for end in (space.dense, *space.ends)}
        quantile_ratios = {**LONGEST_RATIOS, **config.table.quantile_ratios}
    else:
        dense: dict[str | None, Choice] = {None: space.dense}
        if joint is not None and config.is_short and not context.alone:  # precisions that get no table
            several = (joint.given(space.dense, precision=index) for index in range(len(joint.precisions)))
            dense = {Configuration.of(choice).precision: choice for choice in several}
        ends = list(dict.fromkeys([space.dense, space.ends[0], *dense.values(), *space.ends]))
        graphs: WholeGraphs = {}
        opened = dict[Choice, _Opened]()
        for end in ends:
            if opened and context.deadline.left(1 - _LOOK) < max(context.opening.values()):
                break
            context.progress.update(f"opening {end}", len(opened) / len(ends))
            opened[end] = _opened(context, end, graphs)
        if left_out := ends[len(opened) :]:
            context.progress.say(
                f"The time has no room for a look at {', '.join(map(str, left_out))}: what a budget asks of them is "
                "predicted by what was measured."
            )
        context.progress.update("measuring the dense and the smallest schedule")
        with Watch() as watch:
            runs = _passes(context, list(opened), _brief_protocol(config), opened)
        if reasons := watch.verdict().reasons:
            context.progress.say(
                f"The machine is not quiet, so everything is measured slower than it could be: {'; '.join(reasons)}."
            )
        medians = {end: run.median for end, run in zip(opened, runs, strict=True)}
        quantile_ratios, tolerance = measure_quantile_ratios(runs), TOLERANCE
        least = {Configuration.of(end).precision: end for end in space.ends}
        for precision in dense.keys() - {None}:
            x1, y1 = medians[space.dense], medians.get(dense[precision], medians[space.dense])
            x0, y0 = medians.get(least[None], x1), medians.get(least[precision], y1)
            slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
            # Through the second point and 0 where the two do not tell a slope.
            lines[str(precision)] = (y1 - slope * x1, slope) if slope > 0 else (0.0, y1 / x1)
    costs = Costs(counting(context), medians.__getitem__, config.device, quantile_ratios)
    limits = Budget(config.bounds.of("latency", "throughput"))
    known = medians.keys() >= set(space.ends)
    rows = feasibility_table(space, costs, limits, tolerance=tolerance) if known else []
    return FirstLook(rows, quantile_ratios, lines, bool(reasons))


def ways_out(context: SearchContext, look: FirstLook) -> str:
    """What would meet a latency budget that nothing of this search does: INT8, a smaller image, a quiet machine."""
    config, own = context.config, context.joint
    limit = next((row.limit for row in look.rows if not row.reachable), None)
    if limit is None or not config.is_here:
        return ""
    busy = "; the machine was busy while this was measured, so try again on a quiet one" if look.is_disturbed else ""
    # What the search leaves out is measured too.
    loose = replace(config, target=config.device, fix=("layers", "reduction"), precision=None, max_time=None)
    free = joint_space(replace(context, config=loose))
    if free is None:
        return busy
    sizes, _, _, precisions, _ = (number - 1 for number in free.choices)
    if own is not None and not context.alone:  # what is searched anyway is no way out
        sizes, precisions = sizes * (len(own.sizes) == 1), precisions * (len(own.precisions) == 1)
    least = free.plain.least
    ways = [way for way in dict.fromkeys([(0, precisions), (sizes, 0), (sizes, precisions)]) if any(way)]
    if not ways:
        return busy
    smaller = [least, *(free.given(least, image_size=size, precision=precision) for size, precision in ways)]
    runs = _passes(context, smaller, _brief_protocol(config))
    medians = dict(zip(smaller, (run.median for run in runs), strict=True))
    costs = Costs(counting(context), medians.__getitem__, config.device)
    texts = [f"{choice} {limit.show(costs.of(limit, choice))}" for choice in smaller]
    meets = [choice for choice in smaller if limit.admits(costs.of(limit, choice))]
    advice = f"{meets[0]} would meet it" if meets else "a smaller model is needed"
    return f"; measured with what `fix` and `precision` leave out: {', '.join(texts)}, so {advice}{busy}"


def timed(context: SearchContext, store: Store, look: Callable[[], FirstLook]) -> Costs:
    """The costs of schedules on the target, by a table that is kept: a continued search predicts the very same."""
    target, dense, joint = context.target, context.space.dense, context.joint
    key = f"profile {sha256_text(json.dumps(context.ties(), sort_keys=True))}"
    known = store.get_attr(key)
    if known is None:
        seen = look()
        table = context.config.table or _table(context, target, {dense: _opened(context, dense)[0]})
        others = {
            precision: _table(context, replace(target, precision=precision), None).as_record()
            for precision in (() if seen.lines or joint is None else joint.precisions[1:])
        }
        known = {"tails": seen.quantile_ratios, "table": table.as_record(), "others": others, "lines": seen.lines}
        store.set_attr(key, known)
    records = {None: known["table"], **known.get("others", {})}
    tables = {precision: LatencyTable.from_record(record) for precision, record in records.items()}
    write_record(context.config.folder / PROFILE_FILE, "profile", known["table"])
    return Costs(counting(context), predicting(context, tables, known.get("lines", {})), target, known["tails"])


@dataclass(frozen=True, slots=True)
class MeasureWithin:
    """Measures schedules, and open baselines along, on the target as far as the time goes, the first in each group."""

    context: SearchContext
    dense_ms: float | None
    baselines: Baselines
    _measured: set[Choice] = field(default_factory=set, init=False)

    def __call__(self, schedules: Sequence[Choice], keep: float = REPORT) -> list[Measurement | None]:
        """The measurements; ``None`` where no time was left but for a share to ``keep``, never of the first two."""
        context, config, baselines = self.context, self.context.config, self.baselines
        first, *others = schedules
        again = not self._measured.isdisjoint(others)  # longer, because the first time decided nothing
        protocol = _final_protocol(self.dense_ms, config.bounds, config.measure_seconds, again=again)
        longest = protocol.max_seconds + protocol.warmup_seconds
        # Each finalist that is open has compiled weights of its own.
        weights = sum(parameter.numel() for parameter in context.model.parameters()) * 4
        size, waiting = max(2, int(_MEMORY // weights) - 1), [*others, *baselines.waiting]
        groups = [waiting[start : start + size] for start in range(0, len(waiting), size)] or [[]]
        times: dict[Choice, Measurement] = {}
        for done, group in enumerate(groups):
            share, of = done / len(groups), f"{done + 1} of {len(groups)}"
            context.progress.update(f"opening {len(group)} models, {of}", share)
            opened, beside = dict[Choice, _Opened](), dict[str, _Opened]()
            for member in group:
                needed = (2 + len(opened) + len(beside)) * longest
                if not isinstance(member, str) and member not in context.opened:
                    needed += context.opening.get(Configuration.of(member).precision, 0.0)
                if (times or opened or beside) and context.deadline.left(keep) < needed:
                    break  # the best comes first, so what is left may wait for ever
                if isinstance(member, str):
                    beside[member] = baselines.sessions[member]
                else:
                    opened[member] = _opened(context, member)
            if times and not opened and not beside:
                break
            context.progress.update(f"measuring {len(opened) + len(beside)} models and dense, {of}", share)
            chosen = [first, *opened]
            runs = _passes(context, chosen, protocol, opened, beside)
            baselines.note([*beside], runs[len(chosen) :], runs[0])
            speed_factor = times[first].median / runs[0].median if times else 1.0
            for choice, run in zip(chosen, runs, strict=False):
                times.setdefault(choice, run.at_speed_factor(speed_factor))
        self._measured.update(times)
        return [times.get(schedule) for schedule in schedules]


def _brief_protocol(config: SearchConfig) -> BenchProtocol:
    """For what only tells whether a budget can be met; never longer than for a finalist."""
    seconds = min(config.measure_seconds, _BRIEFEST) if config.is_short else config.measure_seconds
    return replace(
        BRIEF, min_seconds=min(BRIEF.min_seconds, seconds), max_seconds=min(BRIEF.max_seconds, 3 * seconds),
        warmup_seconds=min(BRIEF.warmup_seconds, seconds),
    )  # fmt: skip


def _final_protocol(dense_ms: float | None, budget: Budget, seconds: float, *, again: bool = False) -> BenchProtocol:
    """The documented protocol, cut short for fast models on a restless machine, never below the runs it takes."""
    least = _RUNS_AGAIN if again else _RUNS
    runs = max((least[limit.statistic or "p90"] for limit in budget.of("latency")), default=least["p50"])
    longest = max(seconds, min(60.0, max(_RESTLESS * seconds, runs * (dense_ms or 0.0) / 1e3)))
    return BenchProtocol(min_seconds=seconds, max_seconds=longest, min_runs=runs, warmup_seconds=min(1.0, seconds))


def table_seconds(context: SearchContext) -> float:
    """Seconds that one table aims for: what is asked, or less where the whole search is bounded."""
    config = context.config
    if config.max_seconds is None:
        return config.table_seconds
    tables = 1 if context.joint is None or config.is_short else len(context.joint.precisions)
    return min(config.table_seconds, _TABLES * config.max_seconds / tables)


def _table(context: SearchContext, target: TargetDevice, opened: dict[TokenSchedule, Session] | None) -> LatencyTable:
    import numpy as np

    config, seconds = context.config, table_seconds(context)
    points = min(_POINTS, max(2, int(seconds / 4)))
    return measure_table(
        context.model, target, name=context.card.name, seconds=seconds, points=points,
        rng=np.random.default_rng(config.seed), opened=opened, on_step=context.progress.update,
        longest=context.deadline.left(1 - _TIMED), say=context.progress.say,
    )  # fmt: skip


_Opened: TypeAlias = tuple[Session, Images]
"""A session with images for it."""


def _passes(
    context: SearchContext,
    choices: Sequence[Choice],
    protocol: BenchProtocol,
    opened: Mapping[Choice, _Opened] | None = None,
    beside: Mapping[str, _Opened] | None = None,
) -> list[Measurement]:
    """Whole passes of the choices, then of what is ``beside``; ``opened`` are those that are open already."""
    import numpy as np

    sessions = dict(opened or {})
    sessions |= {choice: _opened(context, choice) for choice in choices if choice not in sessions}
    own = {choice: sessions[choice][0] for choice in choices if isinstance(choice, TokenSchedule)}
    others = {str(choice): sessions[choice] for choice in choices if choice not in own}
    runs = measure_schedules(
        context.model, context.target, [*own], protocol, np.random.default_rng(context.config.seed),
        opened=own, beside=others | dict(beside or {}),
    )  # fmt: skip
    slowed = gpu_state(context.target)
    if slowed is not None and slowed()[1]:  # for heat or by its supply of power, right after it worked
        runs = [replace(run, steady=False) for run in runs]
    by_name = dict(zip((*map(str, own), *others), runs, strict=False))
    return [by_name[str(choice)] for choice in choices] + runs[len(own) + len(others) :]


def _opened(context: SearchContext, choice: Choice, graphs: WholeGraphs | None = None) -> _Opened:
    """A configuration on the target; the dense model stays open, as it is in every group that is measured."""
    import numpy as np

    wanted, begin = Configuration.of(choice), time.monotonic()
    model = variant_of(context, wanted)
    size = model.backbone.image_size
    session = context.opened.get(choice)
    if session is None:
        target = replace(context.target, precision=wanted.precision or context.target.precision)
        session = open_schedule(model, target, wanted.schedule, graphs)
        context.opening[wanted.precision] = max(context.opening.get(wanted.precision, 0.0), time.monotonic() - begin)
    if wanted.schedule == context.space.dense:
        context.opened[choice] = session
    return session, random_images((context.target.batch, 3, *size), np.random.default_rng(context.config.seed))
