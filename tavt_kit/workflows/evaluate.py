"""evaluate: what a run or an exported file has right, class by class, and how sure it is of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.accuracy import Accuracy, bits_text
from tavt_kit.core.artifact_card import read_metadata, require_unchanged
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, label_record
from tavt_kit.errors import DataError, ScheduleError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import Given, images_of, model_at, name_of, recommended_of

if TYPE_CHECKING:
    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.data import ImageSet
    from tavt_kit.evaluation.pim_evaluation import HeadCounts


@dataclass(frozen=True, slots=True, repr=False)
class EvalResult:
    """What an evaluation counted."""

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

    def to_frame(self) -> Frame:
        """A line for each class: its images, recall and precision; NaN where a class has none."""
        from tavt_kit.evaluation.record import class_size

        rows, none = [], {"value": float("nan")}
        for name in self.record["classes"]:
            shares = {metric: self.record[metric].get(name, none)["value"] for metric in ("recall", "precision")}
            rows.append({"class": name, "n": class_size(self.record, name), **shares})
        return frame(rows)

    def __repr__(self) -> str:
        return f"<EvalResult of {self.record['thing']} under {self.schedule}: top-1 {self.top1}>"


@bounded
def evaluate(
    thing: Given,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    schedule: str | Choice | None = None,
    pick: str | None = None,
    target: str | TargetDevice | None = None,
    batch: int = 32,
    limit: int | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Count what a model has right: accuracies with 95 % intervals, every class, confusions, calibration.

    A run is evaluated on the split it was made with, and at what a search in its folder chose, unless a schedule is
    given. PIM's heads are counted too, of a run on torch.

    Args:
        thing: A run folder, a wrapped model with its card, or an exported ``.onnx`` or ``.xml`` file.
        data: Folder of class folders, CSV list, ``NAME:FOLDER``, ``elpv`` or ``textile``; by default what the run was
            trained on.
        split: train, val or test; test if there is one, else val.
        schedule: Schedule of a run or a switchable file, such as ``taper:0.2``, or its preset; ``dense`` drops nothing.
        pick: Candidate of a search's front instead, as ``export`` takes it, or row of a fit's table: dense, dense-int8,
            best-smaller-image, fastest-tolerated, or an index from 0.
        target: Target to run on; torch:cpu by default, of a file its own runtime on the CPU.
        batch: Images that the model is given at once.
        limit: Most images of each split.
        out: The folder for ``eval.json`` and CSVs; by default nothing is written.
        progress: Told what is done, and which schedule a search's folder made it.

    Raises:
        RecordError: There is no run, or no data known.
        DataError: The images are of other classes, or one cannot be read.
        ScheduleError: The schedule does not fit, or is frozen into the file.
        TargetError: The target is unknown or not on this machine.

    Example:
        >>> evaluate("runs/birds", "birds/", split="test").top1.value  # doctest: +SKIP
        0.893
    """
    from tavt_kit.data import thin_out
    from tavt_kit.data.images import sha256_samples
    from tavt_kit.data.preprocess import BACKGROUND, Preprocessing
    from tavt_kit.evaluation.answers import answer, require_width
    from tavt_kit.evaluation.record import summarise_answers, write_evaluation

    progress = progress or Silent()
    subject = open_subject(thing, schedule, target, batch, pick=pick, heads=True, progress=progress)
    card, heads = subject.card, subject.heads
    images = labelled_images(thing, data, card)
    chosen = split or images.held_out
    samples = thin_out(images.split(chosen), limit)
    with nullcontext() if out is None else held_folder(out) as folder:
        progress.update(f"evaluating {name_of(thing)}")
        answered = answer(
            samples, subject.session, Preprocessing.from_record(card.preprocessing), batch=batch,
            watch=None if heads is None else heads.count,
        )  # fmt: skip
        require_width(answered.logits, card.classes)
        body = {
            "thing": name_of(thing), "schedule": subject.schedule, "target": str(subject.session.target),
            "weights_sha256": card.weights_sha256, "data": images.name,
            "images_sha256": sha256_samples(answered.samples, card.classes), "correct": bits_text(answered.right),
            "background": BACKGROUND, **summarise_answers(answered, card.classes, chosen, images.relative),
            "heads": None if heads is None else heads.as_record(chosen),
        }  # fmt: skip
        if folder is None:
            record = label_record("eval", body)
        else:
            names = [images.relative(sample) for sample in answered.samples]
            record = write_evaluation(folder, {**body, "command": command_line()}, answered, names)
        return EvalResult(Accuracy.from_record(record["top1"]), folder, record)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model ready to be evaluated: its session, and the same with PIM's heads counted, where they can be."""

    card: ModelCard
    schedule: str
    session: Any
    heads: HeadCounts | None = None


def open_subject(
    thing: Given,
    schedule: str | Choice | None,
    target: str | TargetDevice | None,
    batch: int = 1,
    *,
    pick: str | None = None,
    heads: bool = False,
    progress: Progress,
) -> Subject:
    """A run, or an exported ``.onnx`` or ``.xml`` file, ready on its target; a file needs neither torch nor timm.

    With ``heads``, those of PIM in a run folder are counted. The other arguments are those of ``evaluate``.
    """
    device = TargetDevice.parse(target) if isinstance(target, str) else target
    if schedule is None and (fitted := recommended_of(thing, progress, pick)) is not None:
        thing, pick = fitted.file, None
    if isinstance(thing, str | PathLike) and Path(thing).suffix in (".onnx", ".xml"):
        from tavt_kit.runtimes import open_file

        if pick is not None:
            raise ScheduleError(f"`pick` names a candidate of a search or fit, got {thing}; leave it out")
        file = Path(thing)
        own = read_metadata(file).chosen(None if schedule is None else str(schedule))
        require_unchanged(file)
        session = open_file(file, (device or own.own_target(file)).resolved(), own.lengths)
        return Subject(own.model, str(own.schedule), session)
    from tavt_kit.evaluation.pim_evaluation import HeadCounts, PimHeads
    from tavt_kit.models.backbones.pim import Pim
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module, runtime_of

    device = (device or TargetDevice("torch", "cpu")).resolved()
    model, under = model_at(thing, schedule, progress, pick)
    shape, card = (batch, 3, *model.backbone.image_size), model.require_card()
    if heads and isinstance(model.bare, Pim) and runtime_of(device.runtime).takes == "modules":
        counts = HeadCounts(open_module(PimHeads(model, model.schedule).eval(), device, shape), model.bare)
        return Subject(card, str(under), counts, counts)
    return Subject(card, str(under), open_module(LeanViT(model).eval(), device, shape))


def labelled_images(thing: Given, data: str | Path | None, card: ModelCard) -> ImageSet:
    """The images: of the run the thing lies in, else those given; their labels are indices into the model's classes."""
    from tavt_kit.data.images import IMAGE_SUFFIXES, Sample, list_classes
    from tavt_kit.data.splits import SPLIT_FILE

    inside = list(Path(data).iterdir()) if data is not None and Path(data).is_dir() else []
    if not any(path.is_dir() for path in inside) and any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
        raise DataError(
            f"{data} holds images but no class folders, so it is not known what they show; `predict` labels them"
        )
    if isinstance(thing, str | PathLike):  # an exported file lies in its run's folder, or in a folder there
        path = Path(thing)
        run = next((folder for folder in (path, *path.parents[:2]) if (folder / SPLIT_FILE).is_file()), None)
        images = images_of(run or (path if path.is_dir() else path.parent), data)
    else:
        images = images_of(thing.folder, data)
    if images.classes == card.classes:
        return images
    if odd := sorted(set(images.classes) ^ set(card.classes)):
        raise DataError(
            f"the model knows {len(card.classes)} classes and {images.name} has {len(images.classes)}, of which "
            f"{list_classes(odd, 'are in only one of them')}; give the data it was trained on"
        )
    # The same names in another order, as of a program that sorts 10 after 2.
    index_of = [card.classes.index(name) for name in images.classes]
    splits = {
        name: tuple(Sample(sample.path, index_of[sample.label]) for sample in samples)
        for name, samples in images.splits.items()
    }
    return replace(images, classes=card.classes, splits=splits)
