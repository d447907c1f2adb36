"""How a search looks at images: by which runtime, in which precision, and at how many of them first."""

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
from tavt_kit.search.workers import Actors, Processes, Workers, join_cluster
from tavt_kit.workflows.joint import ConfigurationEvaluator
from tavt_kit.workflows.search_context import SearchConfig, SearchContext, sha256_images, val_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.models.wrap import AdaptiveViT


@dataclass(frozen=True, slots=True)
class Evaluators:
    """What a search evaluates with.

    Args:
        evaluate: Answers generations of schedules.
        learn: Function to be told what was answered, or ``None``.
        fast: The evaluator behind ``evaluate``, or one of its kind.
        exact: Evaluates what the result shows; ``fast`` itself where that is as exact.
        held_out: Whether ``exact`` is on the images that the search does not see.
    """

    evaluate: Evaluate
    learn: Learn | None
    fast: ConfigurationEvaluator
    exact: ConfigurationEvaluator
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class MakeEvaluator:
    """Makes evaluators of a model on images and their classes, here or in a worker; can be pickled."""

    device: TargetDevice
    preprocessing: Preprocessing
    metrics: tuple[str, ...]
    classes: tuple[str, ...]

    def __call__(self, model: AdaptiveViT, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Evaluator:
        device, strategy = self.device, None
        if device.runtime == "openvino":
            strategy = openvino_logits(model, device.precision, device.threads)
        scoring = Scoring(self.metrics, labels, self.classes)
        return Evaluator(
            model, pixels, labels, self.preprocessing, precision=device.precision, scoring=scoring, strategy=strategy
        )


@contextmanager
def open_evaluators(context: SearchContext, store: Store, costs: Costs) -> Iterator[Evaluators]:
    """The evaluators of a search, by the runtime and in the precision of its config; workers end with the block.

    The store is tied to these very images. They come in an order in which the first of them, however many, are like
    all.

    Raises:
        TavtError: An image cannot be read, the runtime cannot run the model, or workers cannot start.
    """
    config = context.config
    device, target = config.evaluation_device, config.target
    make = MakeEvaluator(device, context.preprocessing, config.metrics, tuple(context.card.classes))
    samples = val_samples(context)
    pixels, labels, skipped = load_bytes(samples, context.preprocessing, allow_unreadable=config.allow_unreadable)
    store.bind({"pictures": sha256_images(pixels, labels)})
    absent = {one.index for one in skipped}
    read = (sample.path for index, sample in enumerate(samples) if index not in absent)
    store.set_attr("pictures", [inside(path, context.images.root) for path in read])
    shown = len(labels)
    screens = config.races and len(stages(config.screen, shown)) > 1  # a judgement before the last image
    context.progress.say(
        f"Evaluating on {shown} val images{f', the first {config.screen} of them first' if screens else ''}, by "
        f"{device.runtime} in {device.precision}; stored in {config.out / 'search.db'}."
    )
    if target is not None and config.is_here and target.processor == "cuda":
        context.model.to(f"cuda:{target.index}")
    fast = ConfigurationEvaluator(make(context.model, pixels, labels), context)
    with _open_look(context, fast, make) as look:
        exact = fast
        if (judge := context.judge()) is not None:
            pixels, labels, _ = load_bytes(
                val_samples(judge), context.preprocessing, allow_unreadable=config.allow_unreadable
            )
            store.bind({"pictures that judge": sha256_images(pixels, labels)})
            floors = " and ".join(map(str, config.budget.floors))
            context.progress.say(
                f"{len(labels)} more val images, which the search does not see, judge {floors} in the end."
            )
            exact = ConfigurationEvaluator(make(context.model, pixels, labels), judge)
        if device.runtime != "torch" or device.precision != config.precision:
            exact = exact.at(config.precision)

        def whole(schedules: Sequence[Choice]) -> Iterable[tuple[Choice, EvaluationResult]]:
            return look(schedules, 0, shown)

        evaluate: Evaluate = whole
        learn: Learn | None = None
        if screens:
            kind = config.weighed.settled(config.budget, costs).cost
            assert kind is not None  # settled
            race = Race(look, costs.by(kind), shown, config.screen)
            evaluate, learn = race, race.update
        yield Evaluators(evaluate, learn, fast, exact, judge is not None)


@dataclass(frozen=True, slots=True)
class WorkerPayload:
    """All that a worker needs, wherever it is: nothing is read from a disk that it may not have.

    Args:
        files: Files of the run's model: names and contents.
        pixels: Images (n, 3, H, W) in bytes.
        labels: Classes (n,).
        device: Device of the model.
        threads: Threads of torch.
    """

    files: Mapping[str, bytes]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    make: Callable[[AdaptiveViT, NDArray[np.uint8], NDArray[np.int64]], Evaluator]
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
    """A schedule, and the images from ``start`` to ``stop``, that a worker is to look at."""

    schedule: TokenSchedule
    start: int
    stop: int


def _parts(evaluator: Evaluator, parts: Sequence[Part]) -> Iterator[tuple[Part, EvaluationResult]]:
    for start, stop in dict.fromkeys((part.start, part.stop) for part in parts):
        schedules = [part.schedule for part in parts if (part.start, part.stop) == (start, stop)]
        for schedule, answer in evaluator.look(schedules, start, stop):
            yield Part(schedule, start, stop), answer


def check_engine(config: SearchConfig) -> None:
    """See that the cluster is there, if one is wanted, before anything is written.

    Raises:
        MissingDependency: Ray is wanted, but not installed.
        TargetError: There is no such cluster.
    """
    if config.engine == "ray":
        join_cluster(config.ray_address).leave()


@contextmanager
def _open_look(context: SearchContext, fast: ConfigurationEvaluator, make: MakeEvaluator) -> Iterator[Look]:
    """Who looks at images: ``fast`` itself, or as many of its kind as the config wants, ended with the block.

    Raises:
        TargetError: Nothing is free on the cluster.
        MeasurementError: The workers cannot start.
    """
    config = context.config
    if config.engine == "local" and (config.workers or 1) == 1:
        yield fast.look
        return
    evaluator = fast.own
    files = {name: (config.out / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
    device = str(next(evaluator.model.parameters()).device)
    payload = WorkerPayload(files, evaluator.pixels[:], evaluator.labels, make, device, threads=1)
    with (_on_ray if config.engine == "ray" else _here)(config, payload, context.progress) as workers:

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


def _here(config: SearchConfig, payload: WorkerPayload, progress: Progress) -> Workers:
    import torch

    count = config.workers or 1
    threads = max(1, torch.get_num_threads() // count)
    progress.say(f"{count} worker processes, {threads} threads each.")
    return Workers(Processes(replace(payload, threads=threads)), count, at_once=None)


@contextmanager
def _on_ray(config: SearchConfig, payload: WorkerPayload, progress: Progress) -> Iterator[Workers]:
    cluster = join_cluster(config.ray_address)
    try:
        gpus = int(payload.device.startswith("cuda"))
        resource = "GPU" if gpus else "CPU"
        count = config.workers or cluster.free(resource)
        if not count:
            raise TargetError(f"no {resource} of the Ray cluster is free; wait, or give `workers` to queue for some")
        progress.say(f"{count} workers on the Ray cluster, one {resource} each.")
        # Ray shows an actor its own GPU only, as number 0.
        pool = Actors(cluster, replace(payload, device="cuda:0" if gpus else "cpu"), gpus)
        with Workers(pool, count, at_once=None) as workers:
            yield workers
    finally:
        cluster.leave()
