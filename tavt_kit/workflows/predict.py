"""predict: labels for images, from an exported file without torch, or from a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tavt_kit.core.lock import held_folder
from tavt_kit.core.model_card import licence_sentence
from tavt_kit.core.parsing import bounded, several
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_text
from tavt_kit.evaluation.frames import frame
from tavt_kit.workflows.evaluate import Job, Subject, labelled_images, open_context, parse_share
from tavt_kit.workflows.run_model import Given, name_of

if TYPE_CHECKING:
    import pandas

    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.evaluation.answers import Prediction
    from tavt_kit.evaluation.metrics import Threshold


@dataclass(frozen=True, slots=True, repr=False)
class Predictions(Sequence["Prediction"]):
    """What a model says of images, in their order, of an unreadable one the reason; a sequence of the predictions.

    Args:
        model: The file or run that was asked, or the model's name.
        licence: Sentence on commercial use, or None.
        threshold: The least probability of an accepted answer, where one was asked for.
        folder: Folder of ``predictions.csv``, or None.
    """

    model: str
    predictions: tuple[Prediction, ...]
    licence: str | None
    threshold: Threshold | None = None
    folder: Path | None = None

    @property
    def unreadable(self) -> int:
        """Images that could not be read."""
        return sum(prediction.error is not None for prediction in self.predictions)

    @property
    def accepted(self) -> int:
        """Answers that are sure enough; all, where no threshold was asked for."""
        least = 0.0 if self.threshold is None else self.threshold.value
        return sum(prediction.error is None and prediction.ranked[0][1] >= least for prediction in self.predictions)

    @property
    def csv(self) -> str:
        """A line for each image: its labels and their probabilities."""
        from tavt_kit.evaluation.record import predictions_csv

        return predictions_csv(self.predictions, None if self.threshold is None else self.threshold.value)

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        found = [prediction.as_record() for prediction in self.predictions]
        reject = {} if self.threshold is None else {"reject": self.threshold.as_record()}
        return {"model": self.model, "predictions": found, "unreadable": self.unreadable, **reject}

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | Sequence[Prediction]:
        return self.predictions[index]

    def __len__(self) -> int:
        return len(self.predictions)

    def to_frame(self) -> pandas.DataFrame:
        """A line for each class named of each image: image, rank from 1, label and probability.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame(
            [
                {"image": prediction.path, "rank": rank, "label": label, "probability": share}
                for prediction in self.predictions
                for rank, (label, share) in enumerate(prediction.ranked, 1)
            ]
        )

    def __repr__(self) -> str:
        return f"<Predictions of {self.model}: {len(self)} images, {self.unreadable} unreadable>"


@bounded
def predict(
    thing: Given,
    images: Path | str | Sequence[Path | str],
    *,
    top: int = 5,
    schedule: str | Choice | None = None,
    pick: str | None = None,
    preset: str | None = None,
    target: str | TargetDevice | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Say what is in each image, with probabilities.

    An exported file carries its labels and preprocessing; neither torch nor timm is needed to run it. A search's
    folder is run at what the search chose, unless a schedule is given.

    Args:
        thing: An exported ``.onnx`` or ``.xml`` file, a run folder, or a wrapped model with its card.
        images: One image or several, of any kind Pillow reads.
        top: Number of classes to name.
        schedule: Schedule of a run or a switchable file, such as ``taper:0.2``; ``dense`` drops nothing.
        pick: Candidate of a search's front or row of a fit's table instead, as ``evaluate`` takes it.
        preset: Preset of a switchable file.
        target: Target to run on; by default onnxruntime:cpu, openvino:cpu for ``.xml``, torch:cpu for a run.
        progress: Shown each ``Prediction`` as soon as it is known; told of a licence that forbids commercial use, and
            which schedule a search's folder made it.

    Raises:
        RecordError: The file was not exported by this program, is damaged, or changed after its check; there is no run.
        ScheduleError: The schedule does not fit, or a preset is given for what has none.
        TargetError: The target is unknown or not on this machine.

    Example:
        >>> predict("runs/birds/export/model.f32.xml", "photo.jpg")[0].label  # doctest: +SKIP
        'house_sparrow'
    """
    subject = open_context(thing, schedule, preset, target, pick=pick, progress=progress or Silent())
    return _ask(subject, thing, [Path(path) for path in several(images)], top, progress)


def label_images(
    thing: Given,
    folder: Path | str,
    *,
    data: str | Path | None = None,
    schedule: str | Choice | None = None,
    pick: str | None = None,
    preset: str | None = None,
    target: str | TargetDevice | None = None,
    batch: int = 32,
    limit: int | None = None,
    precision_wanted: str | float | None = None,
    out: Path | str | None = None,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> Predictions:
    """Label images that have no labels; with ``out`` as ``predictions.csv``, unless none of them could be read.

    Arguments that are not named here are those of ``evaluate``.

    Args:
        thing: A run folder, a wrapped model with its card, or an exported ``.onnx`` or ``.xml`` file.
        folder: The images, at any depth.
        data: Source of the run's own images, of which val chooses a threshold.
        limit: Most images, of ``folder`` and of val.
        allow_unreadable: Most images of val that may be skipped.

    Raises:
        ParameterError: A share that is none.
        RecordError: There is no run, or no data known to choose a threshold on.
        DataError: ``folder`` holds no images.
        ScheduleError: The schedule does not fit, or a preset is given for what has none.
    """
    from tavt_kit.data.folders import images_below
    from tavt_kit.evaluation.record import FIRST

    wanted, progress = parse_share(precision_wanted), progress or Silent()
    files = images_below(Path(folder))[:limit]
    subject = open_context(thing, schedule, preset, target, batch, pick=pick, progress=progress)
    job = None
    if wanted is not None:
        job = Job(subject, labelled_images(thing, data, subject.card), batch, limit, allow_unreadable)
    with nullcontext() if out is None else held_folder(out) as written:
        progress.update(f"labelling {folder}")
        threshold = None if job is None or wanted is None else job.threshold(wanted)
        found = replace(_ask(subject, thing, files, FIRST, None, batch), threshold=threshold, folder=written)
        if written is not None and found.unreadable < len(found):
            atomic_text(written / "predictions.csv", found.csv)
        return found


def _ask(
    subject: Subject, thing: Given, paths: Sequence[Path], top: int, progress: Progress | None, batch: int = 1
) -> Predictions:
    """What the model says of these images; a progress is shown each prediction, and told what its licence forbids."""
    from tavt_kit.evaluation.answers import Predictor

    licence = licence_sentence(subject.card.licences)
    if licence is not None and progress is not None:
        progress.say(licence)
    found = []
    for prediction in Predictor(subject.card, subject.session).files(paths, top, batch):
        found.append(prediction)
        if progress is not None:
            progress.show(prediction)
    return Predictions(name_of(thing), tuple(found), licence)
