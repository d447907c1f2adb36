"""search(): from a model and a budget to a run folder with a verdict, in rounds of searching and measuring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from tavt_kit.bench.parts import timed_model
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Budget, Limit, Verdict
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.configuration import Choice, Configuration
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
from tavt_kit.evaluation.result import EvaluationResult, paired
from tavt_kit.models.flops import MacsFormula
from tavt_kit.reports import write_report
from tavt_kit.runtimes import check_available
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.search import Costs, SearchResult, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table, refuse_unsearchable, require_feasible
from tavt_kit.search.finalists import Final, better_baseline, confirm
from tavt_kit.search.record import FRONT_FILE, front_body, front_frame, write_candidates
from tavt_kit.search.study import search as search_space
from tavt_kit.workflows.baselines import Baselines, check_user_baselines
from tavt_kit.workflows.joint import counting, int8_session, joint_space, variant_of, with_weakest
from tavt_kit.workflows.run_model import ReportedRun
from tavt_kit.workflows.search_config import SearchConfig
from tavt_kit.workflows.search_context import RECIPE_FILE, SearchContext, clear, open_context
from tavt_kit.workflows.search_evaluation import Evaluators, open_evaluators
from tavt_kit.workflows.search_target import (
    REPORT,
    TOLERANCE,
    FirstLook,
    MeasureWithin,
    measured_feasibility,
    table_seconds,
    timed,
    ways_out,
)


@dataclass(frozen=True, slots=True)
class FeasibilityTable:
    """What a budget asks and what the model can reach, shown before the search begins; images tell floors."""

    rows: tuple[Feasibility, ...]
    floors: tuple[Limit, ...] = ()

    def __str__(self) -> str:
        return "; ".join([*(f"{row.limit}: {row.note}" for row in self.rows), *map(str, self.floors)])


@dataclass(frozen=True, slots=True, repr=False)
class SearchRun(ReportedRun):
    """A finished search; the record is the body of its ``front.json``.

    Args:
        best: Best of everything measured, a model of the user's included; None where nothing keeps to the budget.
        front: Candidates that none dominates, by rising cost, each judged; measured where the target is here.
        baselines: What the front is held against: the dense model, also smaller, shallower and in fewer bits, the best
            schedules of simple families, and the user's models.
    """

    best: Candidate | Baseline | None
    front: tuple[Candidate, ...]
    baselines: tuple[Candidate | Baseline, ...]
    verdict: Verdict

    def to_frame(self) -> Frame:
        """One row for each candidate of the front; the columns are those of ``tavt_kit.search.front_frame``."""
        return front_frame(self.record)

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
        context.check_folder()
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

    require_feasible(rows)  # which layers can be left out is known by now
    if config.is_timed:
        costs = timed(context, store, look)
    else:
        _show_feasibility(context, rows)
        costs = Costs(counting(context), target=config.device)
    return replace(costs, official_macs=MacsFormula.of(context.model, rule="tavt").macs)


def _say_genes(context: SearchContext) -> None:
    """What is searched, in a sentence."""
    space, alone = context.joint, context.config.alone
    assert space is not None  # the caller has looked
    sizes = [f"{width} px" for _, width in space.sizes]
    values: dict[str, Sequence[str]] = {"image sizes": sizes, "precisions": space.precisions}
    if not alone:
        values |= {"reductions": space.reductions, "scores": space.scores}
    genes = [f"{gene} {', '.join(names)}" for gene, names in values.items() if len(names) > 1]
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
    record = write_record(folder / FRONT_FILE, "front", body)
    if pick is not None:
        model = variant_of(context, pick.schedule)
        model.schedule = Configuration.of(pick.schedule).schedule
        split = context.images.held_out
        examples = thin_out(context.images.split(split), 6)
        preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
        write_kept(model, examples, context.images, preprocessing, folder, split=split)
    write_report([folder], folder)
    best = pick if better is None else better
    return SearchRun(folder, record, best, final.candidates, (*final.baselines, *beside), Verdict(body["verdict"]))


_OFF = 0.1  # relative error of the predictions, as measured, above which the search goes on by corrected ones
_SAME = 0.01  # the same where nothing measured keeps to the budget: smaller errors are the measurement's own
_FIRST = 3  # quarters of the evaluations before finalists are measured for the first time
_MEASURING, _LAST = 0.4, 0.2  # shares of the time that stay for measuring finalists, and after the first time
_CORRECTIONS = 3  # how often at most: a machine whose speed changes all the time is never predicted right


@dataclass(frozen=True)
class LatencyRefinement:
    """One search with its confirmation, and further ones half as long where predictions were off.

    Answers and corrections are in the ``store``, so that a continued search takes the same way.
    """

    context: SearchContext
    store: Store
    evaluators: Evaluators
    costs: Costs
    baselines: Baselines

    def run(self) -> tuple[SearchResult, Final]:
        """The result, and what was measured and chosen; then the baselines are measured too.

        Where times are predicted and measured here, a part of the evaluations and of the time is kept for what the
        measurement corrects; where it corrects nothing, the search goes on as if it had never stopped.
        """
        costs, final, wanted, done = self.costs, None, self.context.config.evaluations, 0
        corrects = self._measure is not None and self.context.config.is_timed
        asked = -(-wanted * _FIRST // 4) if corrects else wanted
        result = self._search(costs, None, 0, asked)
        self.baselines.prepare()
        while corrects and done < _CORRECTIONS:
            quantile_ratios = self.store.get_attr(f"corrected tails {done}")
            if quantile_ratios is None:
                if result.evaluations >= wanted or not self.context.deadline.left(_LAST):
                    break
                final = self._confirm(result, final, rounds=1, last=False)
                quantile_ratios = self._correction(costs, final)
                self.store.set_attr("measured", [str(candidate.schedule) for candidate in final.measured])
                self.store.set_attr(f"corrected tails {done}", quantile_ratios)
            if not quantile_ratios:
                break
            done += 1
            asked = wanted if done == _CORRECTIONS else wanted - (wanted - asked) // 2
            said = "The target takes more or less than was predicted; searching on by what was measured."
            self.context.progress.say(said)
            costs = replace(costs, quantile_ratios=quantile_ratios)
            result = self._search(costs, result, done, asked)
        if result.evaluations < wanted and self.context.deadline.left(_LAST):
            result = self._search(costs, result if done else None, done + 1, wanted)
        final = self._confirm(result, final)
        if self._measure is not None and self.baselines.waiting:  # all finalists were measured by an earlier round
            self._measure([result.dense.schedule])
        if done:
            times = "once" if done == 1 else f"{done} times"
            why = ", the most there are" if done == _CORRECTIONS else ", then held against it again"
            because = f"{result.stopped_because}, the predictions corrected {times} by what was measured{why}"
            result = replace(result, stopped_because=because)
        return result, final

    def _search(self, costs: Costs, after: SearchResult | None, number: int, evaluations: int) -> SearchResult:
        """One search; where the clock ends it, that moment is kept, so that a continued search takes the same way."""
        context, config, deadline = self.context, self.context.config, self.context.deadline
        keep = REPORT if not config.is_here else _LAST if number else _MEASURING
        key = f"seconds of evaluations within {config.max_seconds} s, {number}"
        known = self.store.get_attr(key)
        result = search_space(
            context.space, self.evaluators.evaluate, costs=costs, budget=config.bounds, evaluations=evaluations,
            max_seconds=known, time_left=lambda: deadline.left(keep) if known is None else math.inf,
            population=config.population, seed=config.seed, algorithm=config.algorithm,
            objectives=replace(config.weighed, metric=config.metrics[0]), seeds=context.seeds(),
            baselines=context.joint.baselines if context.joint is not None and config.baselines else {},
            tolerance=TOLERANCE if config.is_here else 0.0, store=self.store, after=after,
            on_progress=context.progress.show, learn=self.evaluators.learn,
        )  # fmt: skip
        if known is None and not deadline.left(keep):
            self.store.set_attr(key, result.seconds)
        return result

    def _confirm(self, result: SearchResult, before: Final | None, rounds: int = 8, last: bool = True) -> Final:
        config, exact = self.context.config, self.evaluators.exact
        if config.is_here:
            said = f"Measuring the best of {result.evaluations} schedules end to end on {config.device}."
            self.context.progress.say(said)
        dense, known = result.dense.schedule, self.store.get_attr("measured") or ()
        settled = last and exact is not self.evaluators.fast
        return confirm(
            result, config.bounds,
            measure=self._measure if last or self._measure is None else partial(self._measure, keep=_LAST),
            compare=partial(self._difference, dense, exact=False),
            exact=(self._exact, partial(self._difference, dense, exact=True)) if settled else None,
            held_out=exact.context.judges, number=config.final, rounds=rounds, before=before,
            also=[candidate for candidate in result.whole if str(candidate.schedule) in known] if last else (),
            quantile_ratios=self.costs.quantile_ratios,
        )  # fmt: skip

    def _exact(self, schedule: Choice) -> EvaluationResult:
        """What the result shows, evaluated once, whichever run of this search did it."""
        exact = self.evaluators.exact
        known = self.store.get(schedule, final=True)
        if known is None and exact is self.evaluators.fast:
            known = self.store.get(schedule)
            if known is not None and known.accuracy is not None and known.accuracy.n < len(exact.own.labels):
                known = None  # stopped early
        if known is None:
            ((_, known),) = exact.look([schedule], 0, len(exact.own.labels))
            self.store.add(schedule, known, final=True)
        return known

    def _difference(self, before: Choice, after: Choice, *, exact: bool) -> PairedDifference:
        """The second minus the first, by the bits that were stored as far as they are known, so on all images."""
        answers = [self._exact(choice) if exact else self.store.get(choice) for choice in (before, after)]
        bits = [answer.correct for answer in answers if answer is not None and answer.correct is not None]
        if len(bits) == 2 and bits[0].shape == bits[1].shape:
            return paired(*bits)
        return (self.evaluators.exact if exact else self.evaluators.fast).against(before, after)

    @cached_property
    def _measure(self) -> MeasureWithin | None:
        """One for all confirmations, so that the dense model is converted once."""
        if not self.context.config.is_here:
            return None
        return MeasureWithin(self.context, self.costs.predicted(self.context.space.dense), self.baselines)

    def _correction(self, costs: Costs, final: Final) -> dict[str, float]:
        """The quantile ratios to go on with; empty where predictions were right, or no schedule would fit any more.

        Where nothing that was measured keeps to the budget, what was measured counts however near it was.
        """
        bounds = self.context.config.bounds
        limits = bounds.of("latency", "throughput")
        names = {"p50" if limit.quantity == "throughput" else limit.statistic for limit in limits}
        measured = {name: ratio for name, ratio in final.quantile_ratios.items() if name in names}
        allowed = _SAME if final.pick is None and final.over > 0 else _OFF
        if not any(abs(ratio / costs.quantile_ratios.get(name, 1.0) - 1) > allowed for name, ratio in measured.items()):
            return {}
        ratios = {**costs.quantile_ratios, **measured}
        fits = replace(costs, quantile_ratios=ratios).fits(bounds, TOLERANCE)
        return ratios if any(map(fits, self.context.space.ends)) else {}
