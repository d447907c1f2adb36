"""A search from request to records: open, check what can be met, search, measure, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

from tavt_kit.bench.schedule_memory import refuse_untold
from tavt_kit.core.budget import Budget
from tavt_kit.core.command_line import command_line
from tavt_kit.core.host import HostFacts
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.records import make_folder, write_record
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.kept import pick_examples, write_kept
from tavt_kit.models.macs import MacsFormula
from tavt_kit.reports import write_report
from tavt_kit.runtimes import check_available
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.search import Costs, Store
from tavt_kit.search.feasibility import Reach, check_reachable, reach_of, refuse_unsearchable
from tavt_kit.search.final import Final
from tavt_kit.search.record import FRONT_SCHEMA, front_body, write_candidates, write_front
from tavt_kit.search.result import SearchResult
from tavt_kit.search.rival import Rival
from tavt_kit.verbs.search_live import print_reach, say_stage
from tavt_kit.workflows.search_evaluator import evaluator_on_val, how_to_look, judges_of
from tavt_kit.workflows.search_given import check_given
from tavt_kit.workflows.search_int8 import int8_session
from tavt_kit.workflows.search_joint import counting, joint_space, variant_of, with_weakest
from tavt_kit.workflows.search_layers import layers_measured
from tavt_kit.workflows.search_memory import SearchMemory
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_rivals import Rivals
from tavt_kit.workflows.search_rounds import Rounds
from tavt_kit.workflows.search_subject import RECIPE, Subject, check_place, clear, open_subject, settle
from tavt_kit.workflows.search_target import check_profile, measured_reach, recorded, timed
from tavt_kit.workflows.search_workers import check_engine, looking

__all__ = ["plan", "run_search"]


def plan(request: Request) -> dict[str, Any]:
    """What a search would do and whether its budget can be met; nothing is written.

    Raises:
        TavtError: As ``run_search``, before any evaluation.
    """
    subject = _opened(request)
    rows = _counted_reach(subject, request)
    with closing(SearchMemory(subject, request, Store(None))) as memory:
        rows += memory.reach()
    if request.is_timed:
        rows += measured_reach(subject, request)[0]
    print_reach(rows, request.budget.floors)
    check_reachable(rows)
    return {
        "model": subject.card.name,
        "tokens": subject.model.tokens,
        "layers": subject.model.layers,
        "schedules": float(subject.space.size),
        "seeds": [str(schedule) for schedule in subject.seeds(request)],
        "budgets": [
            {"budget": str(row.limit), "least": row.least, "dense": row.dense, "reachable": row.reachable}
            for row in rows
        ],
        "images": min(len(subject.images.split("val")), request.limit or 10**9),
        "algorithm": request.algorithm,
        "minimise": _minimised(request),
        "metrics": list(request.metrics),
        "evaluations": request.evaluations,
    }


def _minimised(request: Request) -> str:
    if request.weighed.cost == "memory":
        return "memory"
    return "latency" if request.is_timed else "macs"


def run_search(request: Request) -> dict[str, Any]:
    """Search, measure, and write the run folder; the front as recorded.

    Raises:
        TavtError: Bad input, a budget out of reach, a folder of something else.
    """
    refuse_unsearchable(request.budget)
    subject = _opened(request)
    path = request.out / "search.db"
    if not path.exists():  # of a folder that holds a search, the store names what differs
        check_place(subject, request)
    check_reachable(_counted_reach(subject, request))
    make_folder(request.out)
    with (
        Store(path, fresh=request.fresh) as store,
        closing(SearchMemory(subject, request, store)) as memory,
    ):
        if request.fresh:
            clear(request.out)
        store.hold_to(subject.ties(request))
        body = {**recorded(request), "copied": settle(subject, request), "ties": subject.ties(request)}
        write_record(request.out / RECIPE[0], *RECIPE[1:], body)
        official = MacsFormula.of(subject.model, rule="tavt").macs
        costs = replace(_costs(subject, request, store, memory), official_macs=official)
        make = how_to_look(subject, request)
        evaluator = evaluator_on_val(subject, request, store, make)
        with looking(request, evaluator, make) as look:
            judges = judges_of(request, costs, evaluator, look)
            with closing(Rivals(subject, request, judges.exact)) as rivals:
                rounds = Rounds(subject, request, store, judges, costs, rivals, memory)
                result, final = rounds.run()
                bought = rounds.bought(final)
                dense = next(one for one in final.baselines if one.origin == "dense")
                beside = rivals.finished(dense, request.budget)
        fitted = memory.record
    return _written(subject, request, result, final, beside, rivals.left_out, bought, fitted)


def _opened(request: Request) -> Subject:
    """The subject, after what needs no model was checked."""
    refuse_unsearchable(request.budget)
    if request.target is not None and request.is_here:
        check_available(request.target)
    if request.target is not None and request.asks_memory:
        refuse_untold(request.target)
    check_engine(request)
    subject = open_subject(request)
    subject.model.check_droppable()
    if request.profile is not None:
        check_profile(subject, request.profile)
    subject.seeds(request)
    subject.check_metrics(request)
    check_given(subject, request)
    if request.joint:
        space = joint_space(subject, request)
        check_reachable(_counted_reach(replace(subject, joint=space), request))  # before a picture is looked at
        subject = replace(subject, joint=with_weakest(space, subject, request))
    return subject


def _counted_reach(subject: Subject, request: Request) -> list[Reach]:
    """The feasibility of budgets that need no measurement."""
    return reach_of(subject.space, Costs(counting(subject)), Budget(request.budget.of("flops")))


def _costs(subject: Subject, request: Request, store: Store, memory: SearchMemory) -> Costs:
    """The costs to search by; a budget out of reach ends here, before a picture is opened."""
    rows = _counted_reach(subject, request) + memory.reach()
    if not request.is_timed or not all(row.reachable for row in rows):
        print_reach(rows, request.budget.floors)
        check_reachable(rows)
        return memory.added(Costs(counting(subject), target=request.target))

    def tails() -> dict[str, float]:
        timed_rows, found = measured_reach(subject, request)
        print_reach(rows + timed_rows, request.budget.floors)
        check_reachable(timed_rows)
        if request.is_here:
            precisions = () if subject.joint is None else subject.joint.precisions
            if "int8" in precisions:
                int8_session(subject, request, subject.model)  # refuses what cannot be quantized before the long part
            minutes = "a minute" if len(precisions) < 2 else f"{len(precisions)} minutes, one for each precision"
            say_stage(f"Timing the layers on {request.target}, about {minutes}.")
        else:
            say_stage(f"Predicting by the profile of {request.target}; nothing is measured on this machine.")
        return found

    return memory.added(timed(subject, request, store, tails))


def _host(request: Request) -> HostFacts | None:
    """The machine that the latencies are of."""
    if request.profile is not None:
        return request.profile.host
    return HostFacts.gather(None if request.target is None else accelerator_name(request.target))


def _genes(subject: Subject) -> dict[str, str]:
    """The precisions that were genes, for the record."""
    further = () if subject.joint is None else subject.joint.precisions[1:]
    return {"genes": " and ".join(further)} if further else {}


def _written(
    subject: Subject,
    request: Request,
    result: SearchResult,
    final: Final,
    rivals: Sequence[Rival],
    left_out: Sequence[Mapping[str, str]],
    bought: Sequence[Mapping[str, Any]],
    memory: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything that stays: the front, all candidates, the patches kept by the chosen one, the report."""
    target = request.target
    body = front_body(
        result,
        final,
        model=subject.card.as_record(),
        budget=request.budget,
        target=target,
        seed=request.seed,
        host=_host(request),
        precisions=request.precisions | _genes(subject),
        rivals=rivals,
        left_out=left_out,
        bought=bought,
        layers=layers_measured(subject, request, final),
        memory=memory,
    )
    body["command"] = command_line()
    write_candidates(request.out, result, final)
    write_front(request.out, body)
    if final.pick is not None:
        model = variant_of(subject, final.pick.schedule)
        model.schedule = final.pick.schedule
        split = subject.images.held_out
        examples = pick_examples(subject.images.split(split))
        how = Preprocessing.from_record(cast(ModelCard, model.card).preprocessing)
        write_kept(model, examples, subject.images, how, request.out, split=split)
    write_report([request.out], request.out)
    return {"schema": FRONT_SCHEMA, "version": 1, **body}
