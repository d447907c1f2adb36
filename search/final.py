"""The last word: measure the front end to end, judge it, and choose; if the first choice is too slow, the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Candidate, CostKind
from tavt_kit.core.front import ParetoFront
from tavt_kit.search.desk import Compare, Desk, Evaluate, Measure, Peaks, memory_ratio
from tavt_kit.search.result import SearchResult, by_preference

__all__ = ["Final", "Measure", "Peaks", "confirm"]


@dataclass(frozen=True, slots=True)
class Final:
    """A search's result after measurement.

    Args:
        candidates: By rising cost, none dominated, each judged.
        chosen: Index of the one to take, or ``None`` where none keeps to the budget.
        baselines: The dense model, the best uniform taper and the best stage schedule within the ceilings; judged.
        cost: What the candidates are sorted by.
        over: Schedules that were predicted within the ceilings, but measured above them.
        measured: All that were measured, the dense model first.
    """

    candidates: tuple[Candidate, ...]
    chosen: int | None
    baselines: tuple[Candidate, ...]
    cost: CostKind
    over: int
    measured: tuple[Candidate, ...]

    @property
    def tails(self) -> dict[str, float]:
        """Quantiles of the measured latencies as multiples of the predicted medians, and ``memory`` as one of its own.

        Of memory it is the largest, because what is measured was chosen for a prediction that may be too low. Empty
        where none is known.
        """
        known = [one for one in self.measured if one.latency is not None and one.latency_predicted_ms]
        kinds: tuple[CostKind, ...] = ("p50", "p90", "p99")
        found = {str(kind): median(one.cost(kind) / one.cost("predicted") for one in known) for kind in kinds if known}
        ratio = memory_ratio(self.measured)
        return found if ratio is None else found | {"memory": ratio}

    @property
    def pick(self) -> Candidate | None:
        """The one to take."""
        return None if self.chosen is None else self.candidates[self.chosen]

    @property
    def verdict(self) -> Verdict:
        """Of the chosen one; FAIL where there is none."""
        pick = self.pick
        return Verdict.FAIL if pick is None or pick.verdict is None else pick.verdict


def confirm(
    result: SearchResult,
    budget: Budget,
    *,
    measure: Measure | None,
    peaks: Peaks | None = None,
    compare: Compare | None = None,
    exact: tuple[Evaluate, Compare] | None = None,
    number: int = 6,
    rounds: int = 3,
    before: Final | None = None,
    tails: Mapping[str, float] | None = None,
) -> Final:
    """Measure the best of the front with the dense model and two baselines, then choose.

    Latencies of different groups are put to one pace, the slowest, by the dense model, which is in all of them.
    Where a first choice turns out too slow or too large, predictions are corrected by what was measured, and what
    should fit and is better than the best that does fit is measured too, at most ``rounds`` times in all.

    Args:
        result: Of the search.
        budget: As searched.
        measure: ``None`` where there is no target: a search on multiply-adds.
        peaks: ``None`` where memory was not asked about; goes with ``measure``.
        compare: Needed for a verdict on ``drop``.
        exact: Where the search evaluated in a quicker precision than the target's: both in the target's, for what
            the result shows.
        number: Candidates measured in the first round.
        rounds: Bound on the measurements.
        before: An earlier confirmation of the same search, whose measurements stand.
        tails: Of predicted costs, as ``Costs`` has them: what is judged where nothing is measured.
    """
    desk = Desk(result, budget, measure, peaks, compare, tails or {})
    if before is not None and before.measured:
        desk.note([(one, one.latency) for one in before.measured if one.latency is not None])
    baselines = [result.dense, *_baselines(result, budget)]
    desk.take([*baselines, *_shortlist(result.ranked(budget), number)])
    for _ in range(rounds - 1):
        following = desk.next_best(3) if measure is not None and desk.decides else []
        if not following:
            break
        desk.take([result.dense, *following])
    if exact is not None:
        desk.settle([one.schedule for one in baselines], *exact)
    front, pick = desk.front(), desk.pick()
    return Final(
        tuple(front),
        None if pick is None else front.index(pick),
        tuple(desk.known[one.schedule] for one in baselines if one.schedule in desk.known),
        desk.kind,
        sum(not desk.keeps_ceilings(one) for one in desk.within()),
        tuple(desk.known.values()) if measure is not None else (),
    )


def _shortlist(ranked: Sequence[Candidate], number: int) -> list[Candidate]:
    """Half of the places to the first choices, the others spread over the rest of the front."""
    if len(ranked) <= number:
        return list(ranked)
    first = (number + 1) // 2
    rest, places = ranked[first:], number - first
    return [*ranked[:first], *(rest[(2 * i + 1) * len(rest) // (2 * places)] for i in range(places))]


def _baselines(result: SearchResult, budget: Budget) -> list[Candidate]:
    """The best uniform taper and the best stage schedule that were evaluated within the ceilings."""
    found = []
    for origin in ("taper", "stages"):
        family = [one for one in result.whole if one.origin == origin]
        ranked = by_preference(ParetoFront(result.front.cost, family), budget, result.dense)
        found += ranked[:1]
    return found
