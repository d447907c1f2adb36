"""Who evaluates for a search: this process, several of this machine, or actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from tavt_kit.checkpoints import load_model
from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TargetError
from tavt_kit.evaluation.answer import Answer
from tavt_kit.evaluation.shared_evaluation import SharedEvaluator
from tavt_kit.search.engines.crew import Workers
from tavt_kit.search.racing import Look
from tavt_kit.verbs.search_live import say_stage
from tavt_kit.workflows.search_request import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["MakeEvaluator", "Parcel", "Part", "check_engine", "looking"]

MakeEvaluator = Callable[["AdaptiveViT", "NDArray[np.uint8]", "NDArray[np.int64]"], SharedEvaluator]
"""An evaluator of a model on pictures and their classes; can be pickled."""


@dataclass(frozen=True, slots=True)
class Parcel:
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

    def __call__(self) -> Callable[[Sequence[Part]], Iterator[tuple[Part, Answer]]]:
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


def _parts(evaluator: SharedEvaluator, parts: Sequence[Part]) -> Iterator[tuple[Part, Answer]]:
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
        from tavt_kit.search.engines.on_ray import join_cluster

        join_cluster(request.ray_address).leave()


@contextmanager
def looking(request: Request, evaluator: SharedEvaluator, make: MakeEvaluator) -> Iterator[Look]:
    """Who looks at pictures: ``evaluator`` itself, or as many of its kind as the request wants, ended with the block.

    Args:
        request: Its ``out`` is a run of the model by now.
        evaluator: Of this process.
        make: Makes the like in a worker.

    Raises:
        TargetError: Nothing is free on the cluster.
        MeasurementError: The workers cannot start.
    """
    if request.engine == "local" and (request.workers or 1) == 1:
        yield evaluator.look
        return
    files = {name: (request.out / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
    device = str(next(evaluator.model.parameters()).device)
    parcel = Parcel(files, evaluator.pixels[:], evaluator.labels, make, device, threads=1)
    with (_on_ray if request.engine == "ray" else _here)(request, parcel) as workers:

        def look(schedules: Sequence[TokenSchedule], start: int, stop: int) -> Iterator[tuple[TokenSchedule, Answer]]:
            # Neighbours go to one worker, which computes what they have in common once.
            ordered = sorted(schedules, key=lambda schedule: schedule.counts, reverse=True)
            for part, answer in workers([Part(schedule, start, stop) for schedule in ordered]):
                yield part.schedule, answer

        yield look


@contextmanager
def _here(request: Request, parcel: Parcel) -> Iterator[Workers]:
    import torch

    from tavt_kit.search.engines.processes import Processes

    count = request.workers or 1
    threads = max(1, torch.get_num_threads() // count)
    say_stage(f"{count} worker processes, {threads} threads each.")
    with Workers(Processes(replace(parcel, threads=threads)), count, at_once=None) as workers:
        yield workers


@contextmanager
def _on_ray(request: Request, parcel: Parcel) -> Iterator[Workers]:
    from tavt_kit.search.engines.on_ray import Actors, join_cluster

    cluster = join_cluster(request.ray_address)
    try:
        gpus = int(parcel.device.startswith("cuda"))
        resource = "GPU" if gpus else "CPU"
        count = request.workers or cluster.free(resource)
        if not count:
            raise TargetError(f"no {resource} of the Ray cluster is free; wait, or give `workers` to queue for some")
        say_stage(f"{count} workers on the Ray cluster, one {resource} each.")
        # Ray shows an actor its own GPU only, as number 0.
        crew = Actors(cluster, replace(parcel, device="cuda:0" if gpus else "cpu"), gpus)
        with Workers(crew, count, at_once=None) as workers:
            yield workers
    finally:
        cluster.leave()
