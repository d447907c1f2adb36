"""search(): the schedules of a model that keep to a budget, found without ever seeing the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.configuration import Choice
from tavt_kit.core.front import ParetoFront
from tavt_kit.errors import BudgetError, MeasurementError
from tavt_kit.search.algorithm import Algorithm, Outcome
from tavt_kit.search.by_name import POPULATION, begin
from tavt_kit.search.evaluate import Evaluate
from tavt_kit.search.feasibility import Costs, check_reachable, reach_of, refuse_unsearchable
from tavt_kit.search.objectives import Objectives
from tavt_kit.search.result import Progress, SearchResult, by_preference, shortfall
from tavt_kit.search.run import Learn, Run
from tavt_kit.search.seeds import once
from tavt_kit.search.space import Space
from tavt_kit.search.store import Store

__all__ = ["search"]


def search(
    space: Space,
    evaluate: Evaluate,
    *,
    costs: Costs,
    budget: Budget | None = None,
    algorithm: str = "nsga2",
    objectives: Objectives | None = None,
    evaluations: int | None = 400,
    max_seconds: float | None = None,
    population: int | None = None,
    seed: int = 0,
    seeds: Sequence[Choice] = (),
    slack: float = 0.03,
    store: Store | None = None,
    after: SearchResult | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    learn: Learn | None = None,
) -> SearchResult:
    """Find the most accurate schedules for their cost within the ceilings of a budget.

    The dense model is evaluated first, then only schedules whose known or predicted cost keeps to the ceilings
    (``tavt-official`` alone knows no ceilings: of what it evaluates, the front holds what keeps to them).
    A generation is evaluated at once; every answer is stored the moment it comes. With a store of a run that was
    stopped anywhere, the same call gives the very same result as an uninterrupted one, whichever answers came
    first: the algorithm replays its seed over the stored answers, in the order in which it asked.

    Args:
        space: What may be proposed.
        evaluate: Answers the schedules of a generation on the split ``val``; ``one_by_one`` makes one from a
            function of a single schedule.
        costs: Multiply-adds, predicted latency and predicted memory of a schedule.
        budget: Ceilings on ``latency``, ``throughput``, ``memory`` and ``flops``, floors on ``drop`` and on metrics;
            with a floor the choice falls on the cheapest candidate that keeps to it, else on the most accurate.
        algorithm: One of ``by_name.ALGORITHMS``.
        objectives: What is weighed; ``None`` for the evaluator's own metric against latency or multiply-adds.
        evaluations: How many schedules, the dense one included; ``None`` for no bound.
        max_seconds: Of evaluation, summed over all runs on the same store; ``None`` for no bound.
        population: Schedules of a generation; ``None`` for the algorithm's own.
        seed: Of the proposals.
        seeds: Schedules of the user's to begin with.
        slack: By which a predicted latency may exceed its ceiling, because predictions err.
        store: Where answers are kept; ``None`` keeps them in memory.
        after: An earlier result of the same search to go on from, where the costs turned out otherwise; its
            candidates count, and the best of them that fit now are where the proposals begin.
        on_progress: Called after each answer.
        learn: Told the answers of each generation when all have come, stored ones too: for an evaluator that judges
            schedules by earlier ones (``Race.learn``).

    Raises:
        BudgetError: A limit that a search does not act on, no bound at all or one below 1, a seed that is no whole
            number, a latency without a target, or what the algorithm does not know.
        BudgetTooTight: No schedule keeps to a ceiling; nothing has been evaluated.
        DataError: An accuracy of another split than ``val``, or a metric that the evaluator does not answer.
        RecordError: The store belongs to another search.
        MeasurementError: The dense model itself could not be evaluated.

    Example:
        >>> from tavt_kit.core.accuracy import Accuracy
        >>> from tavt_kit.search import one_by_one
        >>> space = Space(tokens=17, layers=4)
        >>> def evaluate(schedule):
        ...     return Accuracy.of_counts(sum(schedule.counts), 68, split="val")
        >>> costs = Costs(macs=lambda schedule: sum(n * n for n in schedule.counts))
        >>> budget = Budget.parse(["flops=600"])
        >>> found = search(space, one_by_one(evaluate), costs=costs, budget=budget, evaluations=60)
        >>> best = found.ranked(Budget())[0]
        >>> best.macs <= 600, found.evaluations
        (True, 60)
    """
    budget = Budget() if budget is None else budget
    refuse_unsearchable(budget)
    if evaluations is None and max_seconds is None:
        raise BudgetError("a search needs a bound: a number of evaluations, a time, or both")
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise BudgetError(f"the seed of a search is a whole number, at least 0, got {seed!r}")
    if (evaluations is not None and evaluations < 1) or (max_seconds is not None and not max_seconds > 0):
        raise BudgetError(
            f"a search evaluates at least the dense model, but its bound is {evaluations} evaluations, {max_seconds} s"
        )
    objectives = (objectives or Objectives()).settled(budget, costs)
    check_reachable(reach_of(space, costs, budget, slack=slack))
    store = Store(None) if store is None else store
    store.hold_to(_recipe(space, budget, algorithm, objectives, population, seed, seeds, slack))
    fits = costs.fits(budget, slack)
    assert objectives.cost is not None  # settled
    front = ParetoFront(objectives.cost, more=objectives.more)
    matters = bool(budget.of("memory")) or "memory" in (front.cost, *front.more)
    own = [one for one in once(space) if one not in seeds] if matters and algorithm != "tavt-official" else []
    plain, seeds = not seeds, [*seeds, *own]
    run = Run(evaluate, costs, budget, objectives, store, fits, front, evaluations, max_seconds, on_progress, learn)
    if after is not None:
        run.take_over(after)
        seed, seeds = seed + 1, _best_of(run, after, algorithm, population)
    chosen = begin(
        algorithm, space, seed=seed, population=population, seeds=seeds, fits=fits, objectives=objectives.number,
        cost=costs.by(front.cost), official_macs=costs.official_macs or costs.macs,
    )  # fmt: skip
    run.answer([(space.dense, "dense")])
    dense = run.known[space.dense]
    if dense.accuracy is None:
        why = answer.failure if (answer := store.get(space.dense)) is not None else "it failed before"
        raise MeasurementError(
            f"the dense model could not be evaluated, so there is nothing to compare with: {why}; put that right and "
            "begin anew with `fresh`"
        )
    stopped = _generations(run, chosen, dense, "once" if plain and own else "user")
    return SearchResult(
        run.front, tuple(run.candidates), stopped, tuple(run.history), run.seconds, fits(space.dense),
        estimates=run.estimates, clock=tuple(run.clock),
    )  # fmt: skip


def _generations(run: Run, algorithm: Algorithm, dense: Candidate, given: str) -> str:
    """Generations until a bound is reached or nothing new is left; returns why it ended.

    ``given`` is the origin of the schedules that it was given to begin with.
    """
    while not (stopped := run.why_stop()):
        origins = [(one, algorithm.origin(one)) for one in algorithm.ask()]
        asked = [(one, given if origin == "user" else origin) for one, origin in origins]
        found = run.answer(asked)
        if len(found) < len(asked):
            return run.why_stop()
        if algorithm.done():
            return algorithm.stopped_because
        algorithm.tell([_outcome(candidate, run, dense) for candidate in found])
    return stopped


def _outcome(candidate: Candidate, run: Run, dense: Candidate) -> Outcome:
    metric = run.estimates.get(candidate.schedule, candidate.metric)
    missed = 0.0 if math.isnan(metric) else shortfall(candidate, run.budget, dense, metric)
    more = tuple(candidate.loss(axis) for axis in run.front.more)
    return Outcome(candidate.cost(run.front.cost), metric, missed, more)


def _best_of(run: Run, after: SearchResult, algorithm: str, population: int | None) -> list[Choice]:
    """The best of an earlier result, to begin with; the official algorithm begins with its own schedules only."""
    if algorithm == "tavt-official":
        return []
    ranked = by_preference(run.front, run.budget, after.dense)
    return [one.schedule for one in ranked[: (POPULATION if population is None else population) // 2]]


def _recipe(
    space: Space,
    budget: Budget,
    algorithm: str,
    objectives: Objectives,
    population: int | None,
    seed: int,
    seeds: Sequence[Choice],
    slack: float,
) -> dict[str, object]:
    """What the proposals depend on, besides the answers and the costs."""
    return {
        "space": [space.tokens, space.layers, space.prefix, space.minimum, space.quantum, space.token_pooled],
        "budget": budget.texts(),
        "algorithm": algorithm,
        "objectives": list(objectives.texts),
        "population": population,
        "seed": seed,
        "seeds": [str(schedule) for schedule in seeds],
        "slack": slack,
    }
