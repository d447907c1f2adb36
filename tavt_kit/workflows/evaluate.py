"""evaluate: what a run or an exported file has right, class by class, and how sure it is of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import parse_fraction
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_text, command_line, label_record
from tavt_kit.errors import DataError, ParameterError, ScheduleError
from tavt_kit.evaluation.frames import frame
from tavt_kit.workflows.run_model import Given, images_of, model_at, name_of

if TYPE_CHECKING:
    import pandas

    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.data import ImageSet, Sample
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.evaluation.answers import Answered
    from tavt_kit.evaluation.pim_evaluation import HeadCounts
    from tavt_kit.evaluation.predictions import Prediction
    from tavt_kit.evaluation.reject import Threshold

__all__ = ["EvalResult", "Labelled", "evaluate", "label_images"]


@dataclass(frozen=True, slots=True, repr=False)
class EvalResult:
    """What an evaluation counted.

    Args:
        top1: Top-1 accuracy.
        folder: Where ``eval.json``, PNGs and CSVs lie, or None.
        record: Everything, as ``eval.json`` has it.
    """

    top1: Accuracy
    folder: Path | None
    record: Mapping[str, Any] = field(hash=False)

    @property
    def macro_f1(self) -> Accuracy:
        """The mean of the classes' F1."""
        return Accuracy.from_record(self.record["macro_f1"])

    @property
    def schedule(self) -> str:
        """The schedule that was run, as text."""
        return str(self.record["schedule"])

    def to_frame(self) -> pandas.DataFrame:
        """A line for each class: its images, recall and precision; NaN where a class has none.

        Raises:
            MissingDependency: pandas is not installed.
        """
        recall, precision = self.record["recall"], self.record["precision"]
        return frame(
            [
                {
                    "class": name,
                    "n": sum(self.record["confusion"][index]),
                    "recall": recall[name]["value"] if name in recall else float("nan"),
                    "precision": precision[name]["value"] if precision.get(name) else float("nan"),
                }
                for index, name in enumerate(self.record["classes"])
            ]
        )

    def __repr__(self) -> str:
        return f"<EvalResult of {self.record['thing']} under {self.schedule}: top-1 {self.top1}>"


@dataclass(frozen=True, slots=True, repr=False)
class Labelled:
    """What a model says of images without labels.

    Args:
        predictions: One for each image; of an unreadable one with the reason.
        threshold: The least probability of an accepted answer, where one was asked for.
        folder: Where ``predictions.csv`` lies, or None.
    """

    predictions: tuple[Prediction, ...]
    threshold: Threshold | None
    folder: Path | None

    @property
    def unreadable(self) -> tuple[Prediction, ...]:
        """Those of images that could not be read."""
        return tuple(one for one in self.predictions if one.error is not None)

    @property
    def accepted(self) -> int:
        """Answers that are sure enough; all, where no threshold was asked for."""
        least = 0.0 if self.threshold is None else self.threshold.value
        return sum(one.error is None and one.ranked[0][1] >= least for one in self.predictions)

    @property
    def csv(self) -> str:
        """A line for each image: its labels and their probabilities."""
        from tavt_kit.evaluation.tables import predictions_csv

        return predictions_csv(list(self.predictions), None if self.threshold is None else self.threshold.value)

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        reject = None if self.threshold is None else self.threshold.as_record()
        predictions = [one.as_record() for one in self.predictions]
        return {"predictions": predictions, "unreadable": len(self.unreadable), "reject": reject}

    def to_frame(self) -> pandas.DataFrame:
        """A line for each image: its path, label, probability and error.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame(
            [
                {
                    "image": one.path,
                    "label": one.label,
                    "probability": one.ranked[0][1] if one.ranked else float("nan"),
                    "error": one.error,
                }
                for one in self.predictions
            ]
        )

    def __repr__(self) -> str:
        return f"<Labelled: {len(self.predictions)} images, {len(self.unreadable)} unreadable>"


def evaluate(
    thing: Given,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    schedule: str | Choice | None = None,
    preset: str | None = None,
    target: str | TargetDevice | None = None,
    batch: int = 32,
    limit: int | None = None,
    precision_wanted: str | float | None = None,
    out: Path | str | None = None,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> EvalResult:
    """Count what a model has right: accuracies with 95 % intervals, every class, confusions, calibration.

    A run is evaluated on the split it was made with, and at what a search in its folder chose, unless a schedule is
    given. PIM's heads are counted too, of a run on torch.

    Args:
        thing: A run folder, a wrapped model with its card, or an exported ``.onnx`` or ``.xml`` file.
        data: Where the images are; by default what the run was trained on.
        split: train, val or test; test if there is one, else val.
        schedule: Schedule of a run or a switchable file, such as ``taper:0.2``; ``dense`` drops nothing.
        preset: Preset of a switchable file.
        target: Where to run; torch:cpu by default, of a file its own runtime on the CPU.
        batch: Images that the model is given at once.
        limit: Most images of each split.
        precision_wanted: Share of accepted answers that shall be right, such as 0.95 or ``"95%"``: the threshold is
            chosen on val and told on the split.
        out: The folder for ``eval.json``, PNGs and CSVs; by default nothing is written.
        allow_unreadable: Most images that may be skipped.
        progress: Told what is done, and which schedule a search's folder made it.

    Raises:
        ParameterError: A share that is none, or a threshold chosen and told on one split.
        RecordError: There is no run, or no data known.
        DataError: The images are of other classes, or too many cannot be read.
        ScheduleError: The schedule does not fit, or a preset is given for what has none.
        TargetError: The target is unknown or not on this machine.

    Example:
        >>> evaluate("runs/birds", "birds/", split="test").top1.value  # doctest: +SKIP
        0.893
    """
    from tavt_kit.evaluation.files import write_evaluation

    wanted = _share(precision_wanted)
    progress = progress or Silent()
    subject = _open_subject(thing, schedule, preset, target, batch, progress)
    job = _Job(subject, _images_of(thing, data, subject.card), batch, limit, allow_unreadable)
    chosen = split or job.images.held_out
    samples = job.samples(chosen)
    if wanted is not None and chosen == "val":
        raise ParameterError(
            f"a threshold is chosen on val and told on another split, but val is to be evaluated; "
            f"{'leave `split=val` out' if split else 'give data with a test split'}, or leave `precision_wanted` out"
        )
    with nullcontext() if out is None else held_folder(out) as folder:
        progress.update(f"evaluating {name_of(thing)}")
        threshold = None if wanted is None else job.threshold(wanted)
        found = job.answer(samples, heads=True)
        body = {
            "thing": name_of(thing),
            **job.body(found, chosen, threshold),
            "skipped": len(samples) - len(found.samples),
        }
        if folder is not None:
            names = [job.images.relative(sample) for sample in found.samples]
            record = write_evaluation(folder, {**body, "command": command_line()}, found, names)
        else:
            record = label_record("eval", body)
        return EvalResult(Accuracy.from_record(record["top1"]), folder, record)


def label_images(
    thing: Given,
    folder: Path | str,
    *,
    data: str | Path | None = None,
    schedule: str | Choice | None = None,
    preset: str | None = None,
    target: str | TargetDevice | None = None,
    batch: int = 32,
    limit: int | None = None,
    precision_wanted: str | float | None = None,
    out: Path | str | None = None,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> Labelled:
    """Label images that have no labels; with ``out`` as ``predictions.csv``, unless none of them could be read.

    Args:
        thing: A run folder, a wrapped model with its card, or an exported ``.onnx`` or ``.xml`` file.
        folder: The images, at any depth.
        data: Where the run's own images are, of which val chooses a threshold.
        schedule: Schedule of a run or a switchable file; by default what a search in the folder chose.
        preset: Preset of a switchable file.
        target: Where to run.
        batch: Images that the model is given at once.
        limit: Most images, of ``folder`` and of val.
        precision_wanted: Share of accepted answers that shall be right, such as 0.95 or ``"95%"``.
        out: The folder for ``predictions.csv``; by default nothing is written.
        allow_unreadable: Most images of val that may be skipped.
        progress: Told what is done, and which schedule a search's folder made it.

    Raises:
        ParameterError: A share that is none.
        RecordError: There is no run, or no data known to choose a threshold on.
        DataError: ``folder`` holds no images.
        ScheduleError: The schedule does not fit, or a preset is given for what has none.
    """
    from tavt_kit.data.folders import pictures_below
    from tavt_kit.evaluation.predictions import Predictor
    from tavt_kit.evaluation.tables import FIRST

    wanted = _share(precision_wanted)
    files = pictures_below(Path(folder))[:limit]
    progress = progress or Silent()
    subject = _open_subject(thing, schedule, preset, target, batch, progress)
    job = None
    if wanted is not None:
        job = _Job(subject, _images_of(thing, data, subject.card), batch, limit, allow_unreadable)
    with nullcontext() if out is None else held_folder(out) as place:
        progress.update(f"labelling {folder}")
        threshold = None if job is None or wanted is None else job.threshold(wanted)
        predictions = tuple(Predictor(subject.card, subject.session).files(files, FIRST, batch=batch))
        found = Labelled(predictions, threshold, place)
        if place is not None and len(found.unreadable) < len(predictions):
            atomic_text(place / "predictions.csv", found.csv)
        return found


@dataclass(frozen=True, slots=True)
class _Subject:
    """A model ready to be evaluated.

    Args:
        card: Its classes and preprocessing.
        schedule: Its schedule, as text.
        session: Maps inputs (B, 3, H, W) to logits (B, classes).
        heads: The same, where the model is PIM in a run folder and its heads can be counted.
    """

    card: ModelCard
    schedule: str
    session: Any
    heads: HeadCounts | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's."""
        from tavt_kit.data.preprocess import Preprocessing

        return Preprocessing.from_record(self.card.preprocessing)


@dataclass(frozen=True, slots=True)
class _Job:
    """A model, its images, and how they are run through it."""

    subject: _Subject
    images: ImageSet
    batch: int
    limit: int | None
    allow_unreadable: int

    def samples(self, split: str) -> Sequence[Sample]:
        from tavt_kit.data import thin_out

        return thin_out(self.images.split(split), self.limit)

    def answer(self, samples: Sequence[Sample], *, heads: bool = False) -> Answered:
        from tavt_kit.evaluation.answers import answer

        subject = self.subject
        return answer(
            samples,
            subject.session,
            subject.preprocessing,
            batch=self.batch,
            allow_unreadable=self.allow_unreadable,
            watch=subject.heads.count if heads and subject.heads else None,
        )

    def threshold(self, wanted: float) -> Threshold:
        from tavt_kit.evaluation.reject import choose_threshold

        found = self.answer(self.samples("val"))
        return choose_threshold(found.confidence, found.right, wanted, "val")

    def body(self, found: Answered, split: str, threshold: Threshold | None) -> dict[str, Any]:
        """Everything of the record but what it is about and what was skipped."""
        from tavt_kit.evaluation.figures import figures_of
        from tavt_kit.evaluation.reject import reached

        subject, reject = self.subject, None
        if threshold is not None:
            reject = {**threshold.as_record(), **reached(threshold, found.confidence, found.right, split)}
        return {
            "schedule": subject.schedule,
            "target": str(subject.session.target),
            "weights_sha256": subject.card.weights_sha256,
            "data": self.images.name,
            **figures_of(found, subject.card.classes, split, self.images.relative),
            "reject": reject,
            "heads": subject.heads.as_record(split) if subject.heads else None,
        }


def _share(wanted: str | float | None) -> float | None:
    return None if wanted is None else parse_fraction(str(wanted), "a precision", "95% or 0.95")


def _open_subject(
    thing: Given,
    schedule: str | Choice | None,
    preset: str | None,
    target: str | TargetDevice | None,
    batch: int,
    progress: Progress,
) -> _Subject:
    """A run, or an exported ``.onnx`` or ``.xml`` file, ready on its target."""
    from tavt_kit.core.device import TargetDevice

    device = TargetDevice.parse(target) if isinstance(target, str) else target
    if isinstance(thing, str | PathLike) and Path(thing).suffix in (".onnx", ".xml"):
        return _open_file(Path(thing), schedule, preset, device)
    if preset is not None:
        raise ScheduleError(
            f"a preset belongs to a file exported with `switchable`, got {name_of(thing)}; give `schedule`"
        )
    return _open_run(thing, schedule, device or TargetDevice("torch", "cpu"), batch, progress)


def _open_file(file: Path, schedule: str | Choice | None, preset: str | None, target: TargetDevice | None) -> _Subject:
    """An exported file; neither torch nor timm is imported."""
    from tavt_kit.core.artifact_card import read_metadata
    from tavt_kit.core.integrity import require_unchanged
    from tavt_kit.runtimes import open_file

    card = read_metadata(file).chosen(preset, None if schedule is None else str(schedule))
    require_unchanged(file)
    device = target or card.own_target(file)
    return _Subject(card.model, str(card.schedule), open_file(file, device.resolved(), card.lengths))


def _open_run(
    run: Given,
    schedule: str | Choice | None,
    target: TargetDevice,
    batch: int,
    progress: Progress,
) -> _Subject:
    from tavt_kit.evaluation.pim_evaluation import HeadCounts, PimHeads
    from tavt_kit.models.backbones.pim import Pim
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    device = target.resolved()
    model, under = model_at(run, schedule, progress)
    shape, card = (batch, 3, *model.backbone.image_size), model.require_card()
    if isinstance(model.bare, Pim) and device.runtime == "torch":
        heads = HeadCounts(open_module(PimHeads(model, model.schedule).eval(), device, shape), model.bare)
        return _Subject(card, str(under), heads, heads)
    return _Subject(card, str(under), open_module(LeanViT(model).eval(), device, shape))


def _images_of(thing: Given, data: str | Path | None, card: ModelCard) -> ImageSet:
    """The images: of the run the thing lies in, else those given; their labels are indices into the model's classes.

    Raises:
        DataError: Their classes are others than the model's, or they lie in one folder without classes.
    """
    from tavt_kit.data.images import IMAGE_SUFFIXES, Sample
    from tavt_kit.data.splits import SPLIT_FILE

    inside = list(Path(data).iterdir()) if data is not None and Path(data).is_dir() else []
    if not any(path.is_dir() for path in inside) and any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
        raise DataError(
            f"{data} holds pictures but no class folders, so it is not known what they show; label them with "
            f"`unlabelled` {data}"
        )
    if isinstance(thing, str | PathLike):  # an exported file lies in its run's folder, or in a folder there
        path = Path(thing)
        above = path if path.is_dir() else path.parent
        folder = next((each for each in (path, *path.parents[:2]) if (each / SPLIT_FILE).is_file()), above)
        images = images_of(folder, data)
    else:
        images = images_of(thing.folder, data)
    if images.classes == card.classes:
        return images
    odd = sorted(set(images.classes) ^ set(card.classes))
    if odd:
        raise DataError(
            f"the model knows {len(card.classes)} classes and {images.name} has {len(images.classes)}, of which "
            f"{len(odd)} are in only one of them ({', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}); "
            "give the data it was trained on"
        )
    # The same names in another order, as of a program that sorts 10 after 2.
    index_of = [card.classes.index(name) for name in images.classes]
    splits = {
        name: tuple(Sample(sample.path, index_of[sample.label]) for sample in samples)
        for name, samples in images.splits.items()
    }
    return replace(images, classes=card.classes, splits=splits)
