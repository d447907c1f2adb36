"""How a search looks at images: by which runtime, in which precision, and at how many of them first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_bytes
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.splits import inside
from tavt_kit.errors import ExportError, MeasurementError
from tavt_kit.evaluation.evaluator import Evaluator, SwitchableLogits
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.evaluation.result import EvaluationResult, paired
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.search import Costs, Evaluate, Store
from tavt_kit.search.racing import Look, Race, stages
from tavt_kit.search.study import Learn
from tavt_kit.search.workers import Workers
from tavt_kit.workflows.joint import int8_session, variant_of
from tavt_kit.workflows.search_context import SearchContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Bytes: TypeAlias = "NDArray[np.uint8]"
"""Images (n, 3, H, W), prepared, not normalised."""

Classes: TypeAlias = "NDArray[np.int64]"
"""(n,) the class of each image."""

_Key: TypeAlias = tuple[int, str, tuple[int, ...] | None]
"""Of an evaluator: the model, the precision, and the layers that run where they are frozen into a graph."""


@dataclass(slots=True)
class ConfigurationEvaluator:
    """Answers configurations, each by an evaluator of its variant; ``own`` is that of the model as it is."""

    own: Evaluator
    context: SearchContext
    _evaluators: dict[_Key, Evaluator] = field(default_factory=dict)
    _read: dict[Preprocessing, Bytes] = field(default_factory=dict)

    def look(self, choices: Sequence[Choice], start: int, stop: int) -> Iterator[tuple[Choice, EvaluationResult]]:
        """As ``Evaluator.look``; those of one variant together."""
        groups: dict[_Key, list[Choice]] = {}
        for choice in choices:
            groups.setdefault(self._key(choice), []).append(choice)
        for members in groups.values():
            try:
                own = self._evaluator(members[0])
            except ExportError as error:  # told for each, and the search goes on
                yield from ((member, EvaluationResult(None, 0.0, str(error))) for member in members)
                continue
            asked = {Configuration.of(member).schedule: member for member in members}
            yield from ((asked[schedule], answer) for schedule, answer in own.look(list(asked), start, stop))

    def against(self, source: Choice, candidate: Choice) -> PairedDifference:
        """Candidate minus source on the same images; raises MeasurementError where one of them cannot be made."""
        try:
            before, after = (
                self._evaluator(own).correct(Configuration.of(own).schedule) for own in (source, candidate)
            )
        except ExportError as error:
            raise MeasurementError(str(error)) from None
        return paired(before, after)

    def at(self, precision: str) -> ConfigurationEvaluator:
        """The same by torch in another precision; what is read and made for other variants is shared."""
        return replace(self, own=replace(self.own, precision=precision, strategy=None))

    def images(self, preprocessing: Preprocessing) -> Bytes:
        """The same images by another preparation; kept."""
        if preprocessing == self.own.preprocessing:
            return self.own.pixels[:]
        if preprocessing not in self._read:
            self._read[preprocessing] = load_bytes(self.context.samples(), preprocessing).images
        return self._read[preprocessing]

    def _key(self, choice: Choice) -> _Key:
        """Configurations of one key are answered together: a quantized graph runs the layers that it was made of."""
        wanted = Configuration.of(choice)
        precision = wanted.precision or self.own.precision
        layers = wanted.schedule.executed if precision == "int8" else None
        return id(variant_of(self.context, choice)), precision, layers

    def _evaluator(self, choice: Choice) -> Evaluator:
        model, key = variant_of(self.context, choice), self._key(choice)
        _, precision, executed = key
        if model is self.own.model and precision == self.own.precision:
            return self.own
        if key not in self._evaluators:
            preprocessing, strategy = Preprocessing.from_record(model.require_card().preprocessing), None
            if precision == "int8":
                strategy = SwitchableLogits(int8_session(self.context, model, executed), executed)
            self._evaluators[key] = replace(
                self.own, model=model, pixels=self.images(preprocessing), preprocessing=preprocessing,
                precision=precision, reference=self.own.dense_logits, strategy=strategy,
            )  # fmt: skip
        return self._evaluators[key]


@dataclass(frozen=True, slots=True)
class Evaluators:
    """What a search evaluates with; ``exact`` evaluates what the result shows, perhaps on images of its own."""

    evaluate: Evaluate
    learn: Learn | None
    fast: ConfigurationEvaluator
    exact: ConfigurationEvaluator


@contextmanager
def open_evaluators(context: SearchContext, store: Store, costs: Costs) -> Iterator[Evaluators]:
    """The evaluators of a search, tied in the store to these very images; workers end with the block."""
    config, preprocessing, say = context.config, context.preprocessing, context.progress.say
    precision, target, judge = config.evaluation_precision, config.device, context.judge()
    make = partial(
        make_evaluator, precision=precision, preprocessing=preprocessing, metrics=config.metrics,
        classes=context.card.classes,
    )  # fmt: skip
    samples = context.samples()
    pixels, labels = load_bytes(samples, preprocessing)
    store.bind({"pictures": _sha256(pixels, labels)})
    store.set_attr("pictures", [inside(sample.path, context.images.root) for sample in samples])
    shown = len(labels)
    screens = config.races and len(stages(config.screen, shown)) > 1  # a judgement before the last image
    say(
        f"Evaluating on {shown} val images{f', the first {config.screen} of them first' if screens else ''}, by "
        f"torch in {precision}; stored in {config.folder / 'search.db'}."
    )
    if target is not None and config.is_here and target.processor == "cuda":
        context.model.to(f"cuda:{target.index}")
    fast = exact = ConfigurationEvaluator(make(context.model, pixels, labels), context)
    with _open_look(context, fast, make) as look:
        if judge is not None:
            pixels, labels = load_bytes(judge.samples(), preprocessing)
            store.bind({"pictures that judge": _sha256(pixels, labels)})
            floors = " and ".join(map(str, config.bounds.floors))
            say(f"{len(labels)} more val images, which the search does not see, judge {floors} in the end.")
            exact = ConfigurationEvaluator(make(context.model, pixels, labels), judge)
        if precision != config.final_precision:
            exact = exact.at(config.final_precision)

        def whole(schedules: Sequence[Choice]) -> Iterable[tuple[Choice, EvaluationResult]]:
            return look(schedules, 0, shown)

        if not screens:
            yield Evaluators(whole, None, fast, exact)
            return
        kind = config.weighed.settled(config.bounds, costs).cost
        assert kind is not None  # settled
        race = Race(look, costs.by(kind), shown, config.screen)
        yield Evaluators(race, race.update, fast, exact)


def make_evaluator(
    model: AdaptiveViT, pixels: Bytes, labels: Classes, *, precision: str, preprocessing: Preprocessing,
    metrics: tuple[str, ...], classes: Sequence[str],
) -> Evaluator:  # fmt: skip
    """An evaluator of a model on images, here or in a worker."""
    scoring = Scoring(metrics, labels, tuple(classes))
    return Evaluator(model, pixels, labels, preprocessing, precision=precision, scoring=scoring)


def _sha256(pixels: Bytes, labels: Classes) -> str:
    """Of prepared images and their classes: names may stay while files change."""
    digest = hashlib.sha256(f"{pixels.shape} {labels.tolist()}".encode())
    for image in pixels:
        digest.update(image.tobytes())
    return digest.hexdigest()


Part: TypeAlias = tuple[TokenSchedule, int, int]
"""A schedule, and from which image to which one a worker is to look at them."""


@dataclass(frozen=True, slots=True)
class WorkerPayload:
    """All that a worker needs: the run folder with its model, and how an evaluator of it on the images is made."""

    folder: Path
    pixels: Bytes
    labels: Classes
    make: Callable[[AdaptiveViT, Bytes, Classes], Evaluator]
    device: str
    threads: int

    def __call__(self) -> Callable[[Sequence[Part]], Iterator[tuple[Part, EvaluationResult]]]:
        """Called in the worker, once."""
        import torch

        torch.set_num_threads(self.threads)
        evaluator = self.make(load_model(self.folder).to(self.device), self.pixels, self.labels)

        def answers(parts: Sequence[Part]) -> Iterator[tuple[Part, EvaluationResult]]:
            for start, stop in dict.fromkeys((start, stop) for _, start, stop in parts):
                schedules = [schedule for schedule, *span in parts if span == [start, stop]]
                for schedule, answer in evaluator.look(schedules, start, stop):
                    yield (schedule, start, stop), answer

        return answers


@contextmanager
def _open_look(
    context: SearchContext, fast: ConfigurationEvaluator, make: Callable[[AdaptiveViT, Bytes, Classes], Evaluator]
) -> Iterator[Look]:
    """Who looks at images: ``fast`` itself, or as many of its kind as the config wants, ended with the block."""
    import torch

    config, count = context.config, context.config.workers or 1
    if count == 1:
        yield fast.look
        return
    threads = max(1, torch.get_num_threads() // count)
    context.progress.say(f"{count} worker processes, {threads} threads each.")
    device = str(next(fast.own.model.parameters()).device)
    payload = WorkerPayload(config.folder, fast.own.pixels[:], fast.own.labels, make, device, threads)
    with Workers(payload, count, at_once=None) as workers:

        def look(schedules: Sequence[Choice], start: int, stop: int) -> Iterator[tuple[Choice, EvaluationResult]]:
            # Workers have the model as it is; what needs another one is answered here.
            if variants := [choice for choice in schedules if isinstance(choice, Configuration)]:
                yield from fast.look(variants, start, stop)
            plain = [choice for choice in schedules if isinstance(choice, TokenSchedule)]
            # Neighbours go to one worker, which computes what they have in common once.
            ordered = sorted(plain, key=lambda schedule: schedule.counts, reverse=True)
            for (schedule, *_), answer in workers([(schedule, start, stop) for schedule in ordered]):
                yield schedule, answer

        yield look
