"""How a search looks at pictures: by which runtime, in which precision, and at how many of them first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_bytes
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.splits import inside
from tavt_kit.evaluation.answer import Answer
from tavt_kit.evaluation.scoring import Scoring
from tavt_kit.evaluation.shared_evaluation import SharedEvaluator
from tavt_kit.search import Costs, Evaluate, Store
from tavt_kit.search.racing import Look, Race, stages
from tavt_kit.search.run import Learn
from tavt_kit.verbs.search_live import say_stage
from tavt_kit.workflows.search_joint import JointEvaluator
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject, pictures, sha256_pictures
from tavt_kit.workflows.search_workers import MakeEvaluator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Judges", "evaluator_on_val", "how_to_look", "judges_of"]


@dataclass(frozen=True, slots=True)
class Judges:
    """What a search evaluates with.

    Args:
        evaluate: Answers generations.
        learn: Wants to be told what was answered, or ``None``.
        quick: The evaluator behind ``evaluate``, or one of its kind.
        exact: Evaluates what the result shows; ``quick`` itself where that is as exact.
    """

    evaluate: Evaluate
    learn: Learn | None
    quick: SharedEvaluator
    exact: SharedEvaluator


def how_to_look(subject: Subject, request: Request) -> MakeEvaluator:
    """Makes evaluators in the runtime and precision of the request; can be pickled."""
    looks, classes = request.looks, tuple(subject.card.classes)
    return partial(_evaluator_of, looks=looks, preprocessing=subject.preprocessing, metrics=request.metrics,
                   classes=classes)  # fmt: skip


def _evaluator_of(
    model: AdaptiveViT,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    looks: TargetDevice,
    preprocessing: Preprocessing,
    metrics: tuple[str, ...],
    classes: tuple[str, ...],
) -> SharedEvaluator:
    """Here or in a worker; bound to the last four it is a ``MakeEvaluator``."""
    kind: Callable[..., SharedEvaluator] = SharedEvaluator
    if looks.runtime == "openvino":
        from tavt_kit.evaluation.openvino_evaluation import openvino_evaluator

        kind = partial(openvino_evaluator, threads=looks.threads)
    scoring = Scoring(metrics, labels, classes)
    return kind(model, pixels, labels, preprocessing, precision=looks.precision, scoring=scoring)


def evaluator_on_val(subject: Subject, request: Request, store: Store, make: MakeEvaluator) -> SharedEvaluator:
    """This process's evaluator, on the target's own kind of processor; the store is tied to these very pictures.

    They come in an order in which the first of them, however many, are like all.

    Raises:
        TavtError: A picture cannot be read, or the runtime cannot run the model.
    """
    samples = pictures(subject, request)
    pixels, labels, skipped = load_bytes(samples, subject.preprocessing, allow_unreadable=request.allow_unreadable)
    store.hold_to({"pictures": sha256_pictures(pixels, labels)})
    absent = {one.index for one in skipped}
    read = (sample.path for place, sample in enumerate(samples) if place not in absent)
    store.keep("pictures", [inside(path, subject.images.root) for path in read])
    screened = f", the first {request.screen} of them first" if _screens(request, len(labels)) else ""
    say_stage(
        f"Evaluating on {len(labels)} val pictures{screened}, by {request.looks.runtime} in "
        f"{request.looks.precision}; stored in {request.out / 'search.db'}."
    )
    target = request.target
    if target is not None and request.is_here and target.processor == "cuda":
        subject.model.to(f"cuda:{target.index}")
    if subject.joint is None:
        return make(subject.model, pixels, labels)
    scoring = Scoring(request.metrics, labels, tuple(subject.card.classes))
    return JointEvaluator(
        subject.model, pixels, labels, subject.preprocessing, precision=request.looks.precision, scoring=scoring,
        subject=subject, request=request,
    )  # fmt: skip


def judges_of(request: Request, costs: Costs, quick: SharedEvaluator, look: Look) -> Judges:
    """Who answers the search, by ``look``: ``quick`` itself, or several of its kind."""
    shown, looks = len(quick.labels), request.looks
    exact = quick
    if isinstance(quick, JointEvaluator) and looks.precision != request.precision:
        exact = quick.at(request.precision)
    elif looks.runtime != "torch" or looks.precision != request.precision:
        given = (quick.model, quick.pixels, quick.labels, quick.preprocessing)
        exact = SharedEvaluator(*given, precision=request.precision, scoring=quick.scoring)
    if _screens(request, shown):
        kind = request.weighed.settled(request.budget, costs).cost
        assert kind is not None  # settled
        race = Race(look, costs.by(kind), shown, request.screen)
        return Judges(race, race.learn, quick, exact)

    def whole(schedules: Sequence[TokenSchedule]) -> Iterable[tuple[TokenSchedule, Answer]]:
        return look(schedules, 0, shown)

    return Judges(whole, None, quick, exact)


def _screens(request: Request, pictures: int) -> bool:
    """Whether there is a judgement before the last picture."""
    return request.races and len(stages(request.screen, pictures)) > 1
