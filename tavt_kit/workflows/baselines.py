"""Models of the user's own beside a search: evaluated on its images, measured among its finalists, judged alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

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
from tavt_kit.core.parsing import several
from tavt_kit.data.images import list_classes
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import DataError, TargetError, TavtError, UnknownName
from tavt_kit.evaluation.answers import run_batch
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import MacsFormula
from tavt_kit.runtimes import FileSession, Images, Session, open_file, runtimes_of
from tavt_kit.search.objectives import leading
from tavt_kit.workflows.bench_things import FILES, card_of, macs_of
from tavt_kit.workflows.search_config import SearchConfig
from tavt_kit.workflows.search_context import SearchContext
from tavt_kit.workflows.search_evaluation import Bytes, Classes, ConfigurationEvaluator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AT_ONCE = 32

Logits: TypeAlias = "Callable[[Bytes, Classes], NDArray[np.float32]]"
"""Prepared images (n, 3, H, W) in bytes and their classes (n,) -> (n, classes)."""


@dataclass(frozen=True, slots=True)
class BaselineModel:
    """A baseline before it is evaluated and measured."""

    name: str
    preprocessing: Preprocessing
    logits: Logits
    session: Callable[[], Session]
    macs: int | None
    note: str


@dataclass(slots=True)
class Baselines:
    """The user's own models beside the front, from evaluation to record; ``left_out`` could not be had."""

    exact: ConfigurationEvaluator
    left_out: list[dict[str, str]] = field(default_factory=list)
    _evaluations: dict[str, Baseline] = field(default_factory=dict)
    sessions: dict[str, tuple[Session, Images]] = field(default_factory=dict)
    _measured: dict[str, tuple[Measurement, Measurement]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Open and evaluate them; one that cannot be had is left out with its reason."""
        import numpy as np

        context = self.exact.context
        texts = several(context.config.baseline)
        for done, text in enumerate(texts):
            context.progress.update(f"baseline: {text}", done / len(texts))
            path = Path(text)
            try:
                model = (_of_file if path.suffix in FILES else _of_run)(text, context)
                baseline, name = self._evaluated(model), model.name
                if (namesakes := sum(other.partition(" #")[0] == name for other in self._evaluations)) > 0:
                    name = f"{name} #{namesakes + 1}"
                if context.config.is_here:
                    shape = (context.target.batch, 3, *model.preprocessing.image_size)
                    images = random_images(shape, np.random.default_rng(context.config.seed))
                    self.sessions[name] = model.session(), images
                self._evaluations[name] = replace(baseline, name=name)
            except TavtError as error:
                self.left_out.append({"name": path.name or text, "reason": str(error)})

    @property
    def waiting(self) -> list[str]:
        """Those that are open and not measured yet."""
        return [name for name in self.sessions if name not in self._measured]

    def note(self, names: Sequence[str], runs: Sequence[Measurement], dense: Measurement) -> None:
        """What was measured, and the dense model in the same rounds."""
        self._measured |= {name: (run, dense) for name, run in zip(names, runs, strict=True)}

    def finished(self, dense: Candidate, budget: Budget) -> tuple[Baseline, ...]:
        """All of them, judged; their times at the speed of the final table, which the dense model in it shows."""
        judged = []
        for name, baseline in self._evaluations.items():
            if name in self._measured:
                run, beside = self._measured[name]
                speed_factor = 1.0 if dense.latency is None else dense.latency.median / beside.median
                baseline = replace(baseline, latency=run.at_speed_factor(speed_factor), ratio=paired_ratio(beside, run))
            judged.append(baseline.judged(budget))
        return tuple(judged)

    def _evaluated(self, model: BaselineModel) -> Baseline:
        import numpy as np

        exact, config, dense = self.exact.own, self.exact.context.config, self.exact.context.space.dense
        batch = 1 if config.device is None else config.device.batch
        baseline = Baseline(model.name, "other", exact.split, model.macs, batch=batch, note=model.note)
        logits = model.logits(self.exact.images(model.preprocessing), exact.labels)
        classes = len(self.exact.context.images.classes)
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise DataError(f"{model.name} answers {logits.shape[1:]}, but the data has {classes} classes")
        if not np.isfinite(logits).all():
            raise DataError("its logits are not finite")
        right = logits.argmax(axis=1) == exact.labels
        accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=exact.split)
        more = () if exact.scoring is None else exact.scoring.of(logits, exact.dense_logits)
        leads, others = leading(config.metrics[0], (accuracy, *more))
        return replace(baseline, accuracy=leads, others=others, difference=paired(exact.correct(dense), right))


def check_user_baselines(context: SearchContext) -> None:
    """Refuse baselines that are no model of these classes, or none for this target, before anything is written."""
    target = context.config.device
    for text in several(context.config.baseline):
        path = Path(text)
        if path.suffix in FILES:
            runtimes = runtimes_of(path.suffix)
            if target is not None and target.runtime not in runtimes:
                raise TargetError(
                    f"the baseline {path.name} runs on {' or '.join(runtimes)}, but the target is {target}; choose "
                    "another one"
                )
            card = card_of(path)
            if card is None:
                _opened(path, context.config, None)  # a file of another program is believed when it has been opened
                continue
            require_unchanged(path)
            known = card.classes
        elif is_run(path):
            known = read_card(path if path.is_dir() else path.parent).classes
        else:
            raise UnknownName(f"a baseline is an exported .onnx or .xml file or a run folder, got {text!r}")
        if odd := sorted(set(known) ^ set(context.images.classes)):
            raise DataError(
                "a baseline must know the classes of the data, but "
                f"{list_classes(odd, f'are known to only one of {text} and the data')}; give one that was trained on "
                "this data"
            )


def _of_file(text: str, context: SearchContext) -> BaselineModel:
    path = Path(text)
    card = card_of(path)
    session = _opened(path, context.config, card)
    if card is not None:
        preprocessing = Preprocessing.from_record(card.model.preprocessing)
        logits = session_logits(session, preprocessing, [card.classes.index(name) for name in context.images.classes])
        note = "" if card.is_dense else f"at {card.schedule}"
        return BaselineModel(path.name, preprocessing, logits, lambda: session, macs_of(card), note)
    (height, width), own = session.input_shape[2:], context.preprocessing.image_size
    preprocessing = context.preprocessing.at((height or own[0], width or own[1]))
    note = "says nothing of itself: classes taken in the order of the data, images prepared as for the model"
    return BaselineModel(path.name, preprocessing, session_logits(session, preprocessing), lambda: session, None, note)


def _opened(path: Path, config: SearchConfig, card: ArtifactCard | None) -> FileSession:
    """The file on the search's target, or on a CPU where there is none."""
    target = config.device if config.is_here else None
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


def _of_run(text: str, context: SearchContext) -> BaselineModel:
    """A run at the schedule of its card."""
    model, path = load_model(text).eval(), Path(text)
    schedule, precision = model.schedule, context.config.final_precision
    preprocessing = Preprocessing.from_record(model.require_card().preprocessing)

    def logits(pixels: Bytes, labels: Classes) -> NDArray[np.float32]:
        answers = Evaluator(model, pixels, labels, preprocessing, precision=precision).logits(schedule)
        return cast("NDArray[np.float32]", answers.numpy())

    return BaselineModel(
        (path if path.is_dir() else path.parent).name, preprocessing, logits,
        lambda: open_schedule(model, context.target, schedule),
        MacsFormula.of(model).macs(schedule), "" if schedule.is_dense(model.tokens) else f"at {schedule}",
    )  # fmt: skip


def session_logits(session: Session, preprocessing: Preprocessing, order: list[int] | None = None) -> Logits:
    """The answers of an open session, in batches that it takes; ``order`` has the column of each class."""
    import numpy as np

    def logits(pixels: Bytes, labels: Classes) -> NDArray[np.float32]:
        size = session.input_shape[0] or _AT_ONCE
        starts = range(0, len(pixels), size)
        parts = [run_batch(session, normalise(pixels[start : start + size], preprocessing)) for start in starts]
        answers: NDArray[np.float32] = np.concatenate(parts)
        return answers if order is None else answers[:, order]

    return logits
