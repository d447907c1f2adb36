"""search(): the schedules that fit a budget on a target, from the model to a run folder with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tavt_kit.bench.parts import timed_model
from tavt_kit.core.budget import Budget, Limit, Verdict
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import taking
from tavt_kit.core.progress import Deadline
from tavt_kit.core.records import command_line, write_record
from tavt_kit.data.loading import thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.evaluation.frames import Frame
from tavt_kit.evaluation.looking import write_kept
from tavt_kit.models.flops import MacsFormula
from tavt_kit.reports import Plot, plot, write_report
from tavt_kit.runtimes import check_available
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.search import Costs, SearchResult, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table, refuse_unsearchable, require_feasible
from tavt_kit.search.finalists import Final, better_baseline
from tavt_kit.search.record import front_body, front_frame, write_candidates, write_front
from tavt_kit.workflows.baselines import Baselines, check_user_baselines
from tavt_kit.workflows.joint import counting, int8_session, joint_space, variant_of, with_weakest
from tavt_kit.workflows.search_config import SearchConfig
from tavt_kit.workflows.search_context import RECIPE_FILE, SearchContext, clear, open_context
from tavt_kit.workflows.search_evaluation import open_evaluators
from tavt_kit.workflows.search_refinement import LatencyRefinement
from tavt_kit.workflows.search_target import FirstLook, measured_feasibility, table_seconds, timed, ways_out


@dataclass(frozen=True, slots=True)
class FeasibilityTable:
    """What a budget asks and what the model can reach, shown before the search begins; images tell floors."""

    rows: tuple[Feasibility, ...]
    floors: tuple[Limit, ...] = ()

    def __str__(self) -> str:
        return "; ".join([*(f"{row.limit}: {row.note}" for row in self.rows), *map(str, self.floors)])


@dataclass(frozen=True, slots=True, repr=False)
class SearchRun:
    """A finished search.

    Args:
        best: Best of everything measured, a model of the user's included; None where nothing keeps to the budget.
        front: Candidates that none dominates, by rising cost, each judged; measured where the target is here.
        baselines: What the front is held against: the dense model, also smaller, shallower and in fewer bits, the best
            schedules of simple families, and the user's models.
        record: Body of its ``front.json``.
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

    def to_frame(self) -> Frame:
        """One row for each candidate of the front; the columns are those of ``tavt_kit.search.front_frame``."""
        return front_frame(self.record)

    def plot(self) -> Plot:
        """The report's chart; the value of a notebook's cell is drawn."""
        return plot(self.folder)

    def __fspath__(self) -> str:
        """Where it lies, so that it can be given wherever a path can."""
        return str(self.folder)

    def __repr__(self) -> str:
        best, said = self.best, "no candidate keeps to the budget"
        if best is not None:
            said = best.name if isinstance(best, Baseline) else str(best.schedule)
            said += "" if best.accuracy is None else f" at {100 * best.accuracy.value:.1f} %"
            if best.latency is not None:
                said += f", {best.latency.median:.3g} ms"
            elif best.macs is not None:
                said += f", {best.macs / 1e9:.3g} GMACs"
        return f"SearchRun({self.verdict}: {said}; {len(self.front)} on the front; {self.folder})"


@taking(SearchConfig)
def search(config: SearchConfig) -> SearchRun:
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
    machine: the verdict is PREDICTED; ``bench`` of the exported file settles it there.

    Raises:
        BudgetTooTight: No schedule can keep to the budget; nothing was evaluated.
        TavtError: Bad input, or an ``out`` that holds something else.

    Example:
        >>> run = search("runs/birds", target="openvino:cpu", budget="latency=8ms", out="fast")  # doctest: +SKIP
        >>> run.best, run.verdict, run.report  # doctest: +SKIP
    """
    context = _opened(config, Deadline(config.max_seconds))
    folder, path = config.folder, config.folder / "search.db"
    if not path.exists():  # of a folder that holds a search, the store names what differs
        context.check_place()
    require_feasible(_counted_feasibility(context))  # before an image is looked at
    if context.joint is not None:
        context = replace(context, joint=with_weakest(context.joint, context))
        _say_genes(context)
    with held_folder(folder), Store(path, fresh=config.fresh) as store:
        if config.fresh:
            clear(folder)
        store.bind(context.ties())
        body = {**config.as_record(), "copied": context.settle(), "ties": context.ties()}
        write_record(folder / RECIPE_FILE, "recipe", body)
        costs = _costs(context, store)
        with open_evaluators(context, store, costs) as evaluators:
            baselines = Baselines(evaluators.exact)
            result, final = LatencyRefinement(context, store, evaluators, costs, baselines).run()
            dense = next(baseline for baseline in final.baselines if baseline.origin == "dense")
            beside = baselines.finished(dense, config.bounds)
    return _written(context, result, final, beside, baselines.left_out)


def _opened(config: SearchConfig, deadline: Deadline) -> SearchContext:
    """The context, after what needs no model was checked."""
    refuse_unsearchable(config.bounds)
    if config.device is not None and config.is_here:
        check_available(config.device)
    context = open_context(config, deadline)
    context.model.check_droppable()
    if config.table is not None:
        config.table.check_model(timed_model(context.model, context.card.name))
    check_user_baselines(context)
    alone = bool(config.alone)
    joint = joint_space(context) if config.baselines or not alone else None
    return replace(context, joint=joint, alone=alone)


def _show_feasibility(context: SearchContext, rows: Sequence[Feasibility]) -> None:
    """To whoever watches; nothing where nothing is limited."""
    if rows or context.config.bounds.floors:
        context.progress.show(FeasibilityTable(tuple(rows), context.config.bounds.floors))


def _counted_feasibility(context: SearchContext) -> list[Feasibility]:
    """The feasibility of budgets that need no measurement."""
    return feasibility_table(context.space, Costs(counting(context)), Budget(context.config.bounds.of("flops")))


def _costs(context: SearchContext, store: Store) -> Costs:
    """The costs to search by; a budget out of reach ends here, before an image is opened."""
    config, say = context.config, context.progress.say
    rows = _counted_feasibility(context)

    def look() -> FirstLook:
        seen = measured_feasibility(context)
        _show_feasibility(context, rows + seen.rows)
        require_feasible(seen.rows, lambda: ways_out(context, seen))
        if not config.is_here:
            say(f"Latencies are predicted by the profile of {config.device}; no whole pass is measured.")
            return seen
        precisions = () if context.joint is None else context.joint.precisions
        if "int8" in precisions:  # refuse a model that cannot be quantized before the long part
            try:
                int8_session(context, context.model)
            except ExportError as error:
                raise ExportError(f"{error}; `fix` precision searches without int8") from None
        seconds = table_seconds(context)
        spent = "a minute" if seconds == 60 else f"{seconds:.3g} s"
        if not config.is_short and len(precisions) > 1:
            spent = f"{len(precisions)} times {spent}, once for each precision"
        say(f"Timing the layers on {config.device}, about {spent}.")
        return seen

    if config.is_timed and all(row.reachable for row in rows):
        costs = timed(context, store, look)
    else:
        _show_feasibility(context, rows)
        require_feasible(rows)
        costs = Costs(counting(context), target=config.device)
    return replace(costs, official_macs=MacsFormula.of(context.model, rule="tavt").macs)


def _say_genes(context: SearchContext) -> None:
    """What is searched, in a sentence."""
    space, alone = context.joint, context.config.alone
    assert space is not None  # the caller has looked
    sizes = [f"{width} px" for _, width in space.sizes]
    held: dict[str, Sequence[str]] = {"image sizes": sizes, "precisions": space.precisions}
    if not alone:
        held |= {"reductions": space.reductions, "scores": space.scores}
    genes = [f"{gene} {', '.join(values)}" for gene, values in held.items() if len(values) > 1]
    if space.spared:
        genes.append(f"layers {space.layout.layers} to {space.layout.layers - len(space.spared)}")
    free = "; ".join(genes)
    said = f"{alone}; baselines only: {free}." if alone else f"Searched beside token counts: {free or 'nothing'}."
    context.progress.say(said)


def _written(
    context: SearchContext, result: SearchResult, final: Final, beside: Sequence[Baseline],
    left_out: Sequence[Mapping[str, str]],
) -> SearchRun:  # fmt: skip
    """Everything that stays: the front, all candidates, the patches kept by the chosen one, the report."""
    config, joint, pick = context.config, context.joint, final.pick
    device, folder, table = config.device, config.folder, config.table
    host = table.host if table else HostFacts.gather(None if device is None else accelerator_name(device))
    further = () if joint is None else joint.precisions[1:]
    body = front_body(
        result, final, model=context.card.as_record(), budget=config.bounds, target=device, seed=config.seed, host=host,
        precisions=config.precisions | ({"genes": " and ".join(further)} if further else {}),
        baseline_models=beside, baselines_left_out=left_out,
    )  # fmt: skip
    better = better_baseline(final, beside, config.bounds)
    if better is not None:
        body |= {"recommended": better.name, "verdict": str(better.verdict)}
    sizes = () if joint is None else joint.sizes[1:]  # looked at though the weights were never trained for some
    if untrained := [width for _, width in sizes if width not in context.card.image_sizes]:
        body["untrained_sizes"] = untrained
    body["command"] = command_line()
    write_candidates(folder, result, final)
    record = write_front(folder, body)
    if pick is not None:
        model = variant_of(context, pick.schedule)
        model.schedule = Configuration.of(pick.schedule).schedule
        split = context.images.held_out
        examples = thin_out(context.images.split(split), 6)
        preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
        write_kept(model, examples, context.images, preprocessing, folder, split=split)
    write_report([folder], folder)
    best = pick if better is None else better
    return SearchRun(best, final.candidates, (*final.baselines, *beside), Verdict(body["verdict"]), folder, record)
