"""How a search looks at pictures: by which runtime, in which precision, and at how many of them first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from tavt_kit.checkpoints import load_model
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE
from tavt_kit.core.progress import Progress
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_bytes
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.splits import inside
from tavt_kit.errors import TargetError
from tavt_kit.evaluation.evaluator import Evaluator, openvino_logits
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import Costs, Evaluate, Store
from tavt_kit.search.racing import Look, Race, stages
from tavt_kit.search.study import Learn
from tavt_kit.search.workers import Workers
from tavt_kit.workflows.joint import ConfigurationEvaluator
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject, pictures, sha256_pictures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.models.wrap import AdaptiveViT

__all__ = [
    "Evaluators",
    "MakeEvaluator",
    "WorkerPayload",
    "Part",
    "check_engine",
    "evaluator_on_val",
    "how_to_look",
    "make_evaluators",
    "looking",
]


@dataclass(frozen=True, slots=True)
class Evaluators:
    """What a search evaluates with.

    Args:
        evaluate: Answers generations.
        learn: Wants to be told what was answered, or ``None``.
        fast: The evaluator behind ``evaluate``, or one of its kind.
        exact: Evaluates what the result shows; ``fast`` itself where that is as exact.
    """

    evaluate: Evaluate
    learn: Learn | None
    fast: ConfigurationEvaluator
    exact: ConfigurationEvaluator


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
) -> Evaluator:
    """Here or in a worker; bound to the last four it is a ``MakeEvaluator``."""
    by_openvino = looks.runtime == "openvino"
    return Evaluator(
        model, pixels, labels, preprocessing, precision=looks.precision, scoring=Scoring(metrics, labels, classes),
        strategy=openvino_logits(model, looks.precision, looks.threads) if by_openvino else None,
    )  # fmt: skip


def evaluator_on_val(subject: Subject, request: Request, store: Store, make: MakeEvaluator) -> ConfigurationEvaluator:
    """This process's evaluator, on the target's own kind of processor; the store is tied to these very pictures.

    They come in an order in which the first of them, however many, are like all.

    Raises:
        TavtError: A picture cannot be read, or the runtime cannot run the model.
    """
    samples = pictures(subject, request)
    pixels, labels, skipped = load_bytes(samples, subject.preprocessing, allow_unreadable=request.allow_unreadable)
    store.bind({"pictures": sha256_pictures(pixels, labels)})
    absent = {one.index for one in skipped}
    read = (sample.path for place, sample in enumerate(samples) if place not in absent)
    store.set_attr("pictures", [inside(path, subject.images.root) for path in read])
    screened = f", the first {request.screen} of them first" if _screens(request, len(labels)) else ""
    subject.progress.say(
        f"Evaluating on {len(labels)} val pictures{screened}, by {request.looks.runtime} in "
        f"{request.looks.precision}; stored in {request.out / 'search.db'}."
    )
    target = request.target
    if target is not None and request.is_here and target.processor == "cuda":
        subject.model.to(f"cuda:{target.index}")
    return ConfigurationEvaluator(make(subject.model, pixels, labels), subject, request)


def make_evaluators(request: Request, costs: Costs, fast: ConfigurationEvaluator, look: Look) -> Evaluators:
    """Who answers the search, by ``look``: ``fast`` itself, or several of its kind."""
    shown, looks = len(fast.own.labels), request.looks
    as_exact = looks.runtime == "torch" and looks.precision == request.precision
    exact = fast if as_exact else fast.at(request.precision)
    if _screens(request, shown):
        kind = request.weighed.settled(request.budget, costs).cost
        assert kind is not None  # settled
        race = Race(look, costs.by(kind), shown, request.screen)
        return Evaluators(race, race.update, fast, exact)

    def whole(schedules: Sequence[Choice]) -> Iterable[tuple[Choice, EvaluationResult]]:
        return look(schedules, 0, shown)

    return Evaluators(whole, None, fast, exact)


def _screens(request: Request, pictures: int) -> bool:
    """Whether there is a judgement before the last picture."""
    return request.races and len(stages(request.screen, pictures)) > 1


MakeEvaluator = Callable[["AdaptiveViT", "NDArray[np.uint8]", "NDArray[np.int64]"], Evaluator]
"""An evaluator of a model on pictures and their classes; can be pickled."""


@dataclass(frozen=True, slots=True)
class WorkerPayload:
    """All that a worker needs, wherever it is: nothing is read from a disk that it may not have.

    Args:
        files: The run's model: names and contents.
        pixels: (n, 3, H, W) bytes.
        labels: (n,)
        make: Makes the evaluator of them.
        device: Where the model goes.
        threads: Of torch.
    """

    files: Mapping[str, bytes]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    make: MakeEvaluator
    device: str
    threads: int

    def __call__(self) -> Callable[[Sequence[Part]], Iterator[tuple[Part, EvaluationResult]]]:
        """Called in the worker, once."""
        import torch

        torch.set_num_threads(self.threads)
        with TemporaryDirectory(prefix="fgvc-kit-") as folder:
            for name, content in self.files.items():
                Path(folder, name).write_bytes(content)
            model = load_model(folder)
        return partial(_parts, self.make(model.to(self.device), self.pixels, self.labels))


class Part(NamedTuple):
    """A schedule, and the pictures from ``start`` to ``stop``, that a worker is to look at."""

    schedule: TokenSchedule
    start: int
    stop: int


def _parts(evaluator: Evaluator, parts: Sequence[Part]) -> Iterator[tuple[Part, EvaluationResult]]:
    for start, stop in dict.fromkeys((part.start, part.stop) for part in parts):
        schedules = [part.schedule for part in parts if (part.start, part.stop) == (start, stop)]
        for schedule, answer in evaluator.look(schedules, start, stop):
            yield Part(schedule, start, stop), answer


def check_engine(request: Request) -> None:
    """See that the cluster is there, if one is wanted, before anything is written.

    Raises:
        MissingDependency: Ray is wanted, but not installed.
        TargetError: There is no such cluster.
    """
    if request.engine == "ray":
        from tavt_kit.search.ray_workers import join_cluster

        join_cluster(request.ray_address).leave()


@contextmanager
def looking(subject: Subject, request: Request, fast: ConfigurationEvaluator, make: MakeEvaluator) -> Iterator[Look]:
    """Who looks at pictures: ``fast`` itself, or as many of its kind as the request wants, ended with the block.

    Args:
        subject: Says to its watcher who evaluates.
        request: Its ``out`` is a run of the model by now.
        fast: Evaluator of this process.
        make: Makes the like in a worker.

    Raises:
        TargetError: Nothing is free on the cluster.
        MeasurementError: The workers cannot start.
    """
    if request.engine == "local" and (request.workers or 1) == 1:
        yield fast.look
        return
    evaluator = fast.own
    files = {name: (request.out / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
    device = str(next(evaluator.model.parameters()).device)
    payload = WorkerPayload(files, evaluator.pixels[:], evaluator.labels, make, device, threads=1)
    with (_on_ray if request.engine == "ray" else _here)(request, payload, subject.progress) as workers:

        def look(schedules: Sequence[Choice], start: int, stop: int) -> Iterator[tuple[Choice, EvaluationResult]]:
            # Workers have the model as it is; what needs another one is answered here.
            variants = [one for one in schedules if isinstance(one, Configuration)]
            if variants:
                yield from fast.look(variants, start, stop)
            plain = [one for one in schedules if isinstance(one, TokenSchedule)]
            # Neighbours go to one worker, which computes what they have in common once.
            ordered = sorted(plain, key=lambda schedule: schedule.counts, reverse=True)
            for part, answer in workers([Part(schedule, start, stop) for schedule in ordered]):
                yield part.schedule, answer

        yield look


@contextmanager
def _here(request: Request, payload: WorkerPayload, progress: Progress) -> Iterator[Workers]:
    import torch

    from tavt_kit.search.workers import Processes

    count = request.workers or 1
    threads = max(1, torch.get_num_threads() // count)
    progress.say(f"{count} worker processes, {threads} threads each.")
    with Workers(Processes(replace(payload, threads=threads)), count, at_once=None) as workers:
        yield workers


@contextmanager
def _on_ray(request: Request, payload: WorkerPayload, progress: Progress) -> Iterator[Workers]:
    from tavt_kit.search.ray_workers import Actors, join_cluster

    cluster = join_cluster(request.ray_address)
    try:
        gpus = int(payload.device.startswith("cuda"))
        resource = "GPU" if gpus else "CPU"
        count = request.workers or cluster.free(resource)
        if not count:
            raise TargetError(f"no {resource} of the Ray cluster is free; wait, or give `workers` to queue for some")
        progress.say(f"{count} workers on the Ray cluster, one {resource} each.")
        # Ray shows an actor its own GPU only, as number 0.
        pool = Actors(cluster, replace(payload, device="cuda:0" if gpus else "cpu"), gpus)
        with Workers(pool, count, at_once=None) as workers:
            yield workers
    finally:
        cluster.leave()
