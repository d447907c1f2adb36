"""Models of the user's own beside a search: evaluated on its images, measured among its finalists, judged alike."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tavt_kit.bench import random_images
from tavt_kit.bench.latency_table import open_schedule
from tavt_kit.checkpoints import is_run, load_model
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.artifact_card import ArtifactCard, require_unchanged
from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.measurement import Measurement, paired_ratio
from tavt_kit.core.model_card import read_card
from tavt_kit.data import load_bytes
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import DataError, TargetError, TavtError, UnknownName, UnsupportedBackbone
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import MacsFormula
from tavt_kit.runtimes import FileSession, Images, Session, open_file, open_module
from tavt_kit.search.objectives import leading
from tavt_kit.workflows.bench_things import FILES, card_of, macs_of
from tavt_kit.workflows.search_context import SearchConfig, SearchContext, val_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

_AT_ONCE = 32


Logits: TypeAlias = "Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]"
"""Prepared images (n, 3, H, W) in bytes and their classes (n,) -> (n, classes)."""


@dataclass(frozen=True, slots=True)
class BaselineModel:
    """A baseline before it is evaluated and measured.

    Args:
        logits: Answers of the model; ``None`` where they would mean nothing.
        session: Opens the model on the target.
    """

    name: str
    kind: str
    preprocessing: Preprocessing
    logits: Logits | None
    session: Callable[[], Session]
    macs: int | None = None
    note: str = ""


@dataclass(slots=True)
class Baselines:
    """The user's own models that the front is held against, from evaluation to record.

    Args:
        exact: Evaluates the dense model as the result shows it.
    """

    context: SearchContext
    exact: Evaluator
    left_out: list[dict[str, str]] = field(default_factory=list)
    _found: dict[str, Baseline] = field(default_factory=dict)
    _open: dict[str, tuple[Session, Images]] = field(default_factory=dict)
    _measured: dict[str, tuple[Measurement, Measurement]] = field(default_factory=dict)
    _pixels: dict[Any, NDArray[np.uint8]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Open and evaluate them; one that cannot be had is left out with its reason."""
        texts = self.context.config.user_baselines
        for done, text in enumerate(texts):
            self.context.progress.update(f"baseline: {text}", done / len(texts))
            self._try(Path(text).name or text, _maker(text, self.context))
        self._pixels.clear()

    @property
    def waiting(self) -> list[str]:
        """Those that are open and not measured yet."""
        return [name for name in self._open if name not in self._measured]

    def opened(self, names: Sequence[str]) -> dict[str, tuple[Session, Images]]:
        """Sessions with their inputs."""
        return {name: self._open[name] for name in names}

    def note(self, names: Sequence[str], runs: Sequence[Measurement], dense: Measurement) -> None:
        """What was measured, and the dense model in the same rounds."""
        self._measured |= {name: (run, dense) for name, run in zip(names, runs, strict=True)}

    def finished(self, dense: Candidate, budget: Budget) -> tuple[Baseline, ...]:
        """All of them, judged; their times at the speed of the final table, which the dense model in it shows."""
        found = []
        for name, baseline in self._found.items():
            if name in self._measured:
                run, beside = self._measured[name]
                speed_factor = 1.0 if dense.latency is None else dense.latency.median / beside.median
                baseline = replace(baseline, latency=run.at_speed_factor(speed_factor), ratio=paired_ratio(beside, run))
            found.append(baseline.judged(budget))
        return tuple(found)

    def close(self) -> None:
        """Let go of sessions."""
        self._open.clear()

    def _try(self, name: str, make: Callable[[], BaselineModel]) -> None:
        try:
            model = make()
            baseline = self._evaluated(model)
            if self.context.config.is_here:
                self._open[self._free(model.name)] = model.session(), self._inputs(model)
            self._found[self._free(model.name)] = baseline
        except TavtError as error:
            self.left_out.append({"name": name, "reason": str(error)})

    def _free(self, name: str) -> str:
        """The name, numbered where another has it."""
        names = (name, *(f"{name} #{number}" for number in range(2, 100)))
        return next(text for text in names if text not in self._found)

    def _inputs(self, model: BaselineModel) -> Images:
        import numpy as np

        shape = (self.context.target.batch, 3, *model.preprocessing.image_size)
        return random_images(shape, np.random.default_rng(self.context.config.seed))

    def _evaluated(self, model: BaselineModel) -> Baseline:
        import numpy as np

        exact, dense = self.exact, self.context.space.dense
        batch = 1 if self.context.config.target is None else self.context.config.target.batch
        baseline = Baseline(model.name, model.kind, exact.split, model.macs, batch=batch, note=model.note)
        if model.logits is None:
            return baseline
        logits = model.logits(self._prepared(model), exact.labels)
        if not np.isfinite(logits).all():
            raise DataError("its logits are not finite")
        right = logits.argmax(axis=1) == exact.labels
        accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=exact.split)
        more = () if exact.scoring is None else exact.scoring.of(logits, lambda: exact.predicted(dense))
        leads, others = leading(self.context.config.metrics[0], (accuracy, *more))
        return replace(baseline, accuracy=leads, others=others, difference=paired(exact.correct(dense), right))

    def _prepared(self, model: BaselineModel) -> NDArray[np.uint8]:
        """The images of the search in its order, as this one wants them."""
        preprocessing = model.preprocessing
        if preprocessing == self.context.preprocessing:
            found: NDArray[np.uint8] = self.exact.pixels[:]
            return found
        if preprocessing not in self._pixels:
            read = load_bytes(val_samples(self.context), preprocessing,
                              allow_unreadable=self.context.config.allow_unreadable)  # fmt: skip
            self._pixels[preprocessing] = read.pixels
        return self._pixels[preprocessing]


def check_user_baselines(context: SearchContext) -> None:
    """Look at every baseline before anything is written.

    Raises:
        UnknownName: It is neither a file, a run nor a name that timm knows.
        DataError: It is of other classes, or no file of a model of images.
        TargetError: The target cannot run such a file.
    """
    classes = context.images.classes
    for text in context.config.user_baselines:
        path = Path(text)
        if path.suffix in FILES:
            _check_runtime(path, context.config.target)
            card = card_of(path)
            if card is not None:
                require_unchanged(path)
                _check_classes(text, card.classes, classes)
            else:
                _opened(path, context.config, None)  # a file of another program is believed when it has been opened
        elif is_run(text):
            _check_classes(text, read_card(path if path.is_dir() else path.parent).classes, classes)
        else:
            _check_name(text)


def _maker(text: str, context: SearchContext) -> Callable[[], BaselineModel]:
    if Path(text).suffix in FILES:
        return lambda: _of_file(Path(text), context)
    if is_run(text):
        return lambda: _of_run(text, context)
    return lambda: _of_name(text, context)


def _of_file(path: Path, context: SearchContext) -> BaselineModel:
    card = card_of(path)
    session = _opened(path, context.config, card)
    if card is not None:
        preprocessing = Preprocessing.from_record(card.model.preprocessing)
        order = [card.classes.index(name) for name in context.images.classes]
        note = "" if card.is_dense else f"at {card.schedule}"
        logits = session_logits(session, preprocessing, order)
        return BaselineModel(path.name, "other", preprocessing, logits, lambda: session, macs_of(card), note)
    height, width = session.input_shape[2:]
    own = context.preprocessing.image_size
    preprocessing = context.preprocessing.at((height or own[0], width or own[1]))
    note = "says nothing of itself: classes taken in the order of the data, images prepared as for the model"
    logits = _of_as_many(session_logits(session, preprocessing), len(context.images.classes), path)
    return BaselineModel(path.name, "other", preprocessing, logits, lambda: session, None, note)


def _opened(path: Path, config: SearchConfig, card: ArtifactCard | None) -> FileSession:
    """The file on the search's target, or on a CPU where there is none."""
    target = config.target if config.is_here else None
    if target is None:
        target = TargetDevice.parse(FILES[path.suffix]).resolved()
    if card is not None and card.precision == "int8":
        target = replace(target, precision="f32")  # a quantized file says itself what is in 8 bits
    session = open_file(path, target, None if card is None else card.lengths)
    if session.input_shape[0] not in (None, target.batch):
        raise TargetError(
            f"{path.name} takes batches of {session.input_shape[0]} alone, but the target has {target.batch}"
        )
    return session


def _of_as_many(logits: Logits, classes: int, path: Path) -> Logits:
    """The answers, refused where a foreign file has another number of classes."""

    def checked(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        found = logits(pixels, labels)
        if found.ndim != 2 or found.shape[1] != classes:
            raise DataError(f"{path.name} answers {found.shape[1:]}, but the data has {classes} classes")
        return found

    return checked


def _of_run(text: str, context: SearchContext) -> BaselineModel:
    """A run at the schedule of its card."""
    model = load_model(text).eval()
    schedule, path = model.schedule, Path(text)
    preprocessing = Preprocessing.from_record(model.require_card().preprocessing)

    def logits(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        evaluator = Evaluator(model, pixels, labels, preprocessing, precision=context.config.precision)
        found: NDArray[np.float32] = evaluator.logits(schedule).numpy()
        return found

    def session() -> Session:
        return open_schedule(model, context.target, preprocessing.image_size, schedule)

    name = (path if path.is_dir() else path.parent).name
    note = "" if schedule.is_dense(model.tokens) else f"at {schedule}"
    return BaselineModel(name, "other", preprocessing, logits, session, MacsFormula.of(model).macs(schedule), note)


def _of_name(name: str, context: SearchContext) -> BaselineModel:
    """A timm model with random weights: it takes its time, but its answers mean nothing."""
    module, size = _create(name, len(context.images.classes), context.preprocessing.image_size, context.config.seed)

    def session() -> Session:
        target = context.target
        if target.precision != "int8" or target.runtime == "torch":
            return open_module(module, target, (target.batch, 3, *size))
        from tavt_kit.bench.parts import module_graph
        from tavt_kit.bench.timing import open_graph

        begin = time.perf_counter()
        return open_graph(module_graph(module, size, target), target, begin)

    preprocessing = context.preprocessing.at(size)
    note = f"random weights at {size[1]} px: its time counts, its accuracy is not known"
    return BaselineModel(name, "other", preprocessing, None, session, _count(module, size), note)


def _create(name: str, classes: int, size: tuple[int, int], seed: int) -> tuple[nn.Module, tuple[int, int]]:
    """The model, and the image size that it takes: the search's own, where it is not bound to another."""
    import torch

    from tavt_kit.models.timm_import import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = timm.create_model(name, num_classes=classes).eval()
    config: Any = getattr(module, "pretrained_cfg", {})
    if config.get("fixed_input_size"):
        height, width = config["input_size"][1:]
        size = int(height), int(width)
    return module, size


def _count(module: nn.Module, size: tuple[int, int]) -> int | None:
    import torch

    from tavt_kit.models.flops import count_by_tracing

    try:
        return count_by_tracing(module, torch.zeros(1, 3, *size))
    except UnsupportedBackbone:
        return None


def _check_runtime(path: Path, target: TargetDevice | None) -> None:
    if target is not None and (target.runtime == "torch" or (target.runtime, path.suffix) == ("onnxruntime", ".xml")):
        wanted = "openvino" if path.suffix == ".xml" else "onnxruntime or openvino"
        raise TargetError(f"the baseline {path.name} runs on {wanted}, but the target is {target}; choose another one")


def _check_classes(text: str, own: Sequence[str], classes: Sequence[str]) -> None:
    if set(own) != set(classes):
        odd = sorted(set(own) ^ set(classes))
        raise DataError(
            f"a baseline must know the classes of the data, but {len(odd)} are known to only one of {text} and the "
            f"data ({', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}); give one that was trained on this data"
        )


def _check_name(name: str) -> None:
    from tavt_kit.models.timm_import import timm

    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownName(
            f"a baseline is an exported .onnx or .xml file, a run folder or a name that timm knows, got {name!r}{meant}"
        )


def session_logits(session: Session, preprocessing: Preprocessing, order: list[int] | None = None) -> Logits:
    """The answers of an open session, in batches that it takes.

    Args:
        order: Column of each class; ``None`` where they are in order.
    """

    def logits(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        import numpy as np

        size = session.input_shape[0] or _AT_ONCE
        parts = []
        for start in range(0, len(pixels), size):
            images = normalise(pixels[start : start + size], preprocessing)
            count = len(images)
            if session.input_shape[0] is not None and count < size:  # the batch is frozen into it
                images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
            parts.append(session(images)[:count])
        found: NDArray[np.float32] = np.concatenate(parts)
        return found if order is None else found[:, order]

    return logits
