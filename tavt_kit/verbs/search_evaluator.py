"""How a search looks at pictures: by which runtime, in which precision, and how many of them at first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tavt_kit.data import load_bytes, thin_out
from tavt_kit.evaluation import LeanEvaluator
from tavt_kit.search import Costs
from tavt_kit.search.evaluate import Evaluate
from tavt_kit.search.loop import Learn
from tavt_kit.search.racing import Race, stages, stratified
from tavt_kit.search.result import cost_kind
from tavt_kit.shared_evaluation import SharedEvaluator
from tavt_kit.verbs.search_live import say_stage
from tavt_kit.verbs.search_request import Request
from tavt_kit.verbs.search_subject import Subject

__all__ = ["Looks", "looks_of"]


@dataclass(frozen=True, slots=True)
class Looks:
    """What a search evaluates with.

    Args:
        quick: Answers generations, and compares any two schedules.
        exact: Evaluates what the result shows; ``quick`` itself where that is as exact.
        race: Stops candidates early, or ``None``.
    """

    quick: SharedEvaluator
    exact: LeanEvaluator
    race: Race | None

    @property
    def evaluate(self) -> Evaluate:
        """Of a generation."""
        return self.quick.answers if self.race is None else self.race

    @property
    def learn(self) -> Learn | None:
        """For the search to tell what it heard."""
        return None if self.race is None else self.race.learn


def looks_of(subject: Subject, request: Request, costs: Costs) -> Looks:
    """The evaluators of a search, on val, in the order of its screening.

    Raises:
        TavtError: A picture cannot be read, or the runtime cannot run the model.
    """
    quick = _quick(subject, request)
    pictures, looks = len(quick.labels), request.looks
    settled = looks.runtime == "torch" and looks.precision == request.precision
    exact = quick if settled else _on_torch(subject, quick, request.precision)
    race = None
    if request.screen and len(stages(request.screen, pictures)) > 1:
        kind = cost_kind(request.budget, costs)
        cost = costs.macs if kind == "macs" else costs.latency_ms
        assert cost is not None  # what is minimised is known of every schedule
        race = Race(quick.look, cost, pictures, request.screen)
    screened = "" if race is None else f", the first {request.screen} of them first"
    say_stage(
        f"Evaluating on {pictures} val pictures{screened}, by {looks.runtime} in {looks.precision}; "
        f"stored in {request.out / 'search.db'}."
    )
    return Looks(quick, exact, race)


def _quick(subject: Subject, request: Request) -> SharedEvaluator:
    """Counts what is right on val: torch on the target's own kind of processor, OpenVINO on the CPU."""
    samples = thin_out(subject.images.split("val"), request.limit)
    samples = [samples[place] for place in stratified([sample.label for sample in samples])]
    pixels, labels, _ = load_bytes(samples, subject.preprocessing, allow_unreadable=request.allow_unreadable)
    target, looks = request.target, request.looks
    if target is not None and target.processor == "cuda":
        subject.model.to(f"cuda:{target.index}")
    given = (subject.model, pixels, labels, subject.preprocessing)
    if looks.runtime == "torch":
        return SharedEvaluator(*given, precision=looks.precision)
    from tavt_kit.openvino_evaluation import OpenvinoEvaluator

    say_stage("Converting the model for OpenVINO, with the token counts as an input.")
    return OpenvinoEvaluator(*given, precision=looks.precision, threads=looks.threads)


def _on_torch(subject: Subject, quick: SharedEvaluator, precision: str) -> SharedEvaluator:
    if type(quick) is SharedEvaluator:
        return replace(quick, precision=precision)
    return SharedEvaluator(quick.model, quick.pixels, quick.labels, quick.preprocessing, precision=precision)
