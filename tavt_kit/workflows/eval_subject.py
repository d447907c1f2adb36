"""What ``eval`` runs: a run folder or an exported file made ready on a target, and the pictures it is asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.data import ImageSet
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.evaluation.pim_evaluation import HeadCounts

__all__ = ["Subject", "images_of", "open_subject"]


@dataclass(frozen=True, slots=True)
class Subject:
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


def open_subject(thing: Path, schedule: str | None, preset: str | None, target: str | None, batch: int) -> Subject:
    """Open a run folder, or an exported .onnx or .xml file.

    Raises:
        TavtError: It is neither, does not fit the schedule, or does not run on the target.
    """
    if thing.suffix in (".onnx", ".xml"):
        return _open_file(thing, schedule, preset, target)
    return _open_run(thing, schedule, preset, target, batch)


def _open_file(file: Path, schedule: str | None, preset: str | None, target: str | None) -> Subject:
    """An exported file; neither torch nor timm is imported."""
    from tavt_kit.core.artifact_card import read_metadata
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.sealed import refuse_changed
    from tavt_kit.runtimes import open_file

    card = read_metadata(file).chosen(preset, schedule)
    refuse_changed(file)
    device = card.own_target(file) if target is None else TargetDevice.parse(target)
    return Subject(card.model, str(card.schedule), open_file(file, device.resolved(), card.lengths))


def _open_run(folder: Path, schedule: str | None, preset: str | None, target: str | None, batch: int) -> Subject:
    from tavt_kit.checkpoints import load_model
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.model_card import read_card
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.errors import ScheduleError
    from tavt_kit.evaluation.pim_evaluation import HeadCounts, PimHeads
    from tavt_kit.models.backbones.pim import Pim
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    if preset is not None:
        raise ScheduleError(f"a preset belongs to a file exported with `switchable`, got {folder}; give `schedule`")
    device = TargetDevice.parse(target or "torch:cpu").resolved()
    model = load_model(folder)
    size = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    counts = model.schedule if schedule is None else TokenSchedule.parse(schedule, **size)
    shape = (batch, 3, *model.backbone.image_size)
    card = read_card(folder if folder.is_dir() else folder.parent)
    if isinstance(model.bare, Pim) and device.runtime == "torch":
        heads = HeadCounts(open_module(PimHeads(model, counts).eval(), device, shape), model.bare)
        return Subject(card, str(counts), heads, heads)
    return Subject(card, str(counts), open_module(LeanViT(model, counts).eval(), device, shape))


def images_of(thing: Path, data: str | None, card: ModelCard) -> ImageSet:
    """The pictures: of the run the thing lies in, else those given; their labels are indices into the model's classes.

    Raises:
        DataError: Their classes are others than the model's, or they lie in one folder without classes.
    """
    from tavt_kit.data.images import IMAGE_SUFFIXES, Sample
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.errors import DataError

    inside = list(Path(data).iterdir()) if data is not None and Path(data).is_dir() else []
    if not any(path.is_dir() for path in inside) and any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
        raise DataError(
            f"{data} holds pictures but no class folders, so it is not known what they show; label them with "
            f"`unlabelled` {data}"
        )
    places = [place for place in (thing, *thing.parents[:2]) if (place / "split.json").is_file()]
    images = inherited_images(places[0] if places else thing, data)
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
    places_of = [card.classes.index(name) for name in images.classes]
    splits = {
        name: tuple(Sample(sample.path, places_of[sample.label]) for sample in samples)
        for name, samples in images.splits.items()
    }
    return replace(images, classes=card.classes, splits=splits)
