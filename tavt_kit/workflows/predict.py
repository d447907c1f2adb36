"""predict: labels for images, from an exported file without torch, or from a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tavt_kit.core.lock import held_folder
from tavt_kit.core.model_card import licence_sentence
from tavt_kit.core.parsing import bounded
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_text
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.evaluate import open_subject
from tavt_kit.workflows.run_model import Given, files_below, name_of

if TYPE_CHECKING:
    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.evaluation.answers import Prediction


@dataclass(frozen=True, slots=True, repr=False)
class Predictions(Sequence["Prediction"]):
    """What a model says of images, in their order, of an unreadable one the reason; a sequence of the predictions.

    The model is the file or run that was asked, or a name; the file ``predictions.csv``, where that was asked for.
    """

    model: str
    predictions: tuple[Prediction, ...]
    licence: str | None
    file: Path | None = None

    @property
    def unreadable(self) -> int:
        """Images that could not be read."""
        return sum(prediction.error is not None for prediction in self.predictions)

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        predictions = [prediction.as_record() for prediction in self.predictions]
        return {"model": self.model, "predictions": predictions, "unreadable": self.unreadable}

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | Sequence[Prediction]:
        return self.predictions[index]

    def __len__(self) -> int:
        return len(self.predictions)

    def to_frame(self) -> Frame:
        """A line for each class named of each image: image, rank from 1, label and probability."""
        return frame([
            {"image": prediction.path, "rank": rank, "label": label, "probability": share}
            for prediction in self.predictions
            for rank, (label, share) in enumerate(prediction.ranked, 1)
        ])  # fmt: skip

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
    target: str | TargetDevice | None = None,
    batch: int = 1,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Say what is in each image, with probabilities.

    An exported file carries its labels and preprocessing; neither torch nor timm is needed to run it. A search's
    folder is run at what the search chose, unless a schedule is given.

    Args:
        thing: An exported ``.onnx`` or ``.xml`` file, a run folder, or a wrapped model with its card.
        images: Images of any kind Pillow reads, or folders of them, at any depth.
        top: Number of classes to name.
        schedule: Schedule of a run or a switchable file, such as ``taper:0.2``, or its preset; ``dense`` drops nothing.
        pick: Candidate of a search's front or row of a fit's table instead, as ``evaluate`` takes it.
        target: Target to run on; by default onnxruntime:cpu, openvino:cpu for ``.xml``, torch:cpu for a run.
        batch: Images that the model is given at once.
        out: Folder of ``predictions.csv``; by default nothing is written.
        progress: Shown each ``Prediction`` as soon as it is known; told of a licence that forbids commercial use, and
            which schedule a search's folder made it.

    Raises:
        RecordError: The file was not exported by this program, is damaged, or changed after its check; there is no run.
        DataError: A folder holds no images.
        ScheduleError: The schedule does not fit, or is frozen into the file.
        TargetError: The target is unknown or not on this machine.

    Example:
        >>> predict("runs/birds/export/model.f32.xml", "photo.jpg")[0].label  # doctest: +SKIP
        'house_sparrow'
    """
    from tavt_kit.evaluation.answers import Predictor
    from tavt_kit.evaluation.record import predictions_csv

    progress = progress or Silent()
    paths = files_below(images)
    subject = open_subject(thing, schedule, target, batch, pick=pick, progress=progress)
    if (licence := licence_sentence(subject.card.licences)) is not None:
        progress.say(licence)
    with nullcontext() if out is None else held_folder(out) as folder:
        predictions = []
        for prediction in Predictor(subject.card, subject.session).files(paths, top, batch):
            predictions.append(prediction)
            progress.show(prediction)
        file = None
        if folder is not None and any(prediction.error is None for prediction in predictions):
            file = folder / "predictions.csv"
            atomic_text(file, predictions_csv(predictions))
        return Predictions(name_of(thing), tuple(predictions), licence, file)
