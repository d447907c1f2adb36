"""predict: labels for images, from an exported file without torch, or from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tavt_kit.core.model_card import licence_sentence
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import ScheduleError
from tavt_kit.evaluation.frames import frame
from tavt_kit.workflows.run_model import Given, model_at, name_of

if TYPE_CHECKING:
    import pandas

    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.evaluation.predictions import Prediction, Predictor

__all__ = ["Predictions", "predict"]


@dataclass(frozen=True, slots=True, repr=False)
class Predictions(Sequence["Prediction"]):
    """What a model says of images, in their order; of an unreadable one the reason.

    Args:
        model: The file or run that was asked, or the model's name.
        predictions: One for each image; the result itself is a sequence of them, too.
        licence: What must be said of commercial use, or None.
    """

    model: str
    predictions: tuple[Prediction, ...]
    licence: str | None

    @property
    def unreadable(self) -> int:
        """Images that could not be read."""
        return sum(one.error is not None for one in self.predictions)

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        found = [one.as_record() for one in self.predictions]
        return {"model": self.model, "predictions": found, "unreadable": self.unreadable}

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
                {"image": one.path, "rank": rank, "label": label, "probability": share}
                for one in self.predictions
                for rank, (label, share) in enumerate(one.ranked, 1)
            ]
        )

    def __repr__(self) -> str:
        return f"<Predictions of {self.model}: {len(self)} images, {self.unreadable} unreadable>"


def predict(
    thing: Given,
    images: Path | str | Sequence[Path | str],
    *,
    top: int = 5,
    schedule: str | Choice | None = None,
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
        top: How many classes to name.
        schedule: Schedule of a run or a switchable file, such as ``taper:0.2``; ``dense`` drops nothing.
        preset: Preset of a switchable file.
        target: Where to run: by default onnxruntime:cpu, openvino:cpu for ``.xml``, torch:cpu for a run.
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
    progress = progress or Silent()
    predictor = _open(thing, schedule, preset, target, progress)
    licence = licence_sentence(predictor.card.licences)
    if licence is not None:
        progress.say(licence)
    paths = [Path(images)] if isinstance(images, Path | str) else [Path(path) for path in images]
    found = []
    for prediction in predictor.files(paths, top):
        progress.show(prediction)
        found.append(prediction)
    return Predictions(name_of(thing), tuple(found), licence)


def _open(
    thing: Given,
    schedule: str | Choice | None,
    preset: str | None,
    target: str | TargetDevice | None,
    progress: Progress,
) -> Predictor:
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.evaluation.predictions import Predictor, open_predictor

    device = TargetDevice.parse(target) if isinstance(target, str) else target
    if isinstance(thing, str | PathLike) and Path(thing).suffix in (".onnx", ".xml"):
        return open_predictor(Path(thing), device, preset, None if schedule is None else str(schedule))
    if preset is not None:
        raise ScheduleError(
            f"a preset belongs to a file exported with `switchable`, got {name_of(thing)}; give `schedule`"
        )
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    model, _ = model_at(thing, schedule, progress)
    card = model.require_card()
    height, width = card.preprocessing["image_size"]
    target = device or TargetDevice("torch", "cpu")
    return Predictor(card, open_module(LeanViT(model).eval(), target, (1, 3, height, width)))
