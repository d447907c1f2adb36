"""``fgvc-kit eval``: accuracy, confusion matrix and recall of each class, of a run or an exported file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet, Sample
    from tavt_kit.model_card import ModelCard
    from tavt_kit.preprocess import Preprocessing

__all__ = ["eval_verb"]

Thing = Annotated[Path, typer.Argument(metavar="THING", help="A run folder, or an exported .onnx or .xml file.")]
Split = Annotated[str | None, typer.Option(help="train, val or test. [default: test if there is one, else val]")]
Target = Annotated[
    str | None, typer.Option(help="Where to run. [default: torch:cpu; of a file onnxruntime:cpu or openvino:cpu]")
]
Real = Annotated[
    Path | None, typer.Option(help="The real.json of reassessed-imagenet: ReaL accuracy too, on ImageNet's val.")
]

_BATCH = 32
_WIDEST = 12
"""Classes up to which the confusion matrix is printed; --json has all of it."""


def eval_verb(
    thing: Thing,
    data: options.Data = None,
    split: Split = None,
    schedule: options.Schedule = None,
    preset: options.Preset = None,
    target: Target = None,
    limit: options.Limit = None,
    real: Real = None,
    allow_unreadable: options.AllowUnreadable = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Count what a model has right: top-1 with its 95 % interval, recall of each class, and the confusion matrix.

    A run is evaluated on the split it was made with. Nothing is selected, and nothing is written.
    """
    from tavt_kit.data import thin_out

    subject = _open_file(thing, schedule, preset, target) if thing.suffix in (".onnx", ".xml") else None
    subject = subject or _open_run(thing, schedule, preset, target)
    images = _images(thing, data, subject.card)
    chosen = split or images.held_out
    samples = thin_out(images.split(chosen), limit)
    reassessed = None if real is None else _real_labels(real)
    read, guessed = _guess(samples, subject, allow_unreadable)
    truth = [sample.label for sample in read]
    record = {
        "schema": "fgvc-kit/eval",
        "version": 1,
        "thing": str(thing),
        "schedule": subject.schedule,
        "data": images.name,
        "skipped": len(samples) - len(truth),
        **_figures(truth, guessed, subject.card.classes, chosen),
    }
    if reassessed is not None:
        from tavt_kit.accuracy import Accuracy
        from tavt_kit.data.real_labels import count_real

        counts = count_real(read, guessed, reassessed)
        record["real"] = Accuracy.of_counts(*counts, split=chosen, metric="real").as_record()
    if as_json:
        print(json.dumps(record))
    else:
        _say(record)
    return 0


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is evaluated: its card, its schedule as text, and a session that maps inputs to logits."""

    card: ModelCard
    schedule: str
    session: Callable[[Any], Any]

    @property
    def preprocessing(self) -> Preprocessing:
        from tavt_kit.preprocess import Preprocessing

        return Preprocessing.from_record(self.card.preprocessing)


def _open_file(file: Path, schedule: str | None, preset: str | None, target: str | None) -> _Subject:
    """An exported file; neither torch nor timm is imported."""
    from tavt_kit.artifact_card import read_metadata
    from tavt_kit.device import TargetDevice
    from tavt_kit.runtimes import open_file
    from tavt_kit.sealed import refuse_changed

    card = read_metadata(file).chosen(preset, schedule)
    refuse_changed(file)
    device = card.own_target(file) if target is None else TargetDevice.parse(target)
    return _Subject(card.model, str(card.schedule), open_file(file, device.resolved(), card.lengths))


def _open_run(folder: Path, schedule: str | None, preset: str | None, target: str | None) -> _Subject:
    from tavt_kit.adaptive import LeanViT
    from tavt_kit.checkpoints import load_model
    from tavt_kit.device import TargetDevice
    from tavt_kit.errors import ScheduleError
    from tavt_kit.model_card import read_card
    from tavt_kit.runtimes import open_module
    from tavt_kit.schedule import TokenSchedule

    if preset is not None:
        raise ScheduleError(f"a preset belongs to a file exported with --switchable, got {folder}; give --schedule")
    device = TargetDevice.parse(target or "torch:cpu").resolved()
    model = load_model(folder)
    size = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    counts = model.schedule if schedule is None else TokenSchedule.parse(schedule, **size)
    shape = (_BATCH, 3, *model.backbone.image_size)
    card = read_card(folder if folder.is_dir() else folder.parent)
    return _Subject(card, str(counts), open_module(LeanViT(model, counts).eval(), device, shape))


def _images(thing: Path, data: str | None, card: ModelCard) -> ImageSet:
    """The pictures: of the run the thing lies in, else those given; their classes must be the model's."""
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.errors import DataError

    places = [place for place in (thing, *thing.parents[:2]) if (place / "split.json").is_file()]
    images = inherited_images(places[0] if places else thing, data)
    if images.classes != card.classes:
        raise DataError(
            f"the model knows the classes {', '.join(card.classes[:4])}... ({len(card.classes)}), but {images.name} "
            f"has {', '.join(images.classes[:4])}... ({len(images.classes)}); give the data it was trained on"
        )
    return images


def _real_labels(file: Path) -> list[frozenset[int]]:
    """Read before anything is evaluated, so that a wrong file costs no time."""
    from tavt_kit.data.real_labels import read_real

    return read_real(file)


def _guess(samples: Sequence[Sample], subject: _Subject, allow_unreadable: int) -> tuple[list[Sample], list[int]]:
    """The pictures that could be read, and the class predicted for each."""
    from tavt_kit.data import batches
    from tavt_kit.errors import MeasurementError

    read: list[Sample] = []
    guessed: list[int] = []
    for part in batches(samples, subject.preprocessing, batch=_BATCH, allow_unreadable=allow_unreadable):
        logits = subject.session(part.images)
        if not abs(logits).max() < float("inf"):
            raise MeasurementError("the model's logits are not finite; evaluate it in f32")
        read += [samples[index] for index in part.indices]
        guessed += logits.argmax(axis=1).tolist()
    return read, guessed


def _figures(truth: Sequence[int], guessed: Sequence[int], classes: Sequence[str], split: str) -> dict[str, Any]:
    """Top-1, the confusion matrix (rows: truth) and, for each class with pictures, its recall."""
    from tavt_kit.accuracy import Accuracy

    matrix = [[0] * len(classes) for _ in classes]
    for true, said in zip(truth, guessed, strict=True):
        matrix[true][said] += 1
    right = sum(row[i] for i, row in enumerate(matrix))
    recall = {
        name: Accuracy.of_counts(row[i], sum(row), split=split, metric=f"recall[{name}]").as_record()
        for i, (name, row) in enumerate(zip(classes, matrix, strict=True))
        if sum(row)
    }
    top1 = Accuracy.of_counts(right, len(truth), split=split)
    return {"top1": top1.as_record(), "classes": list(classes), "confusion": matrix, "recall": recall}


def _say(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tavt_kit.accuracy import Accuracy

    print(f"{record['thing']} under {record['schedule']}: top-1 {Accuracy.from_record(record['top1'])}")
    if "real" in record:
        print(f"ReaL accuracy {Accuracy.from_record(record['real'])}")
    if record["skipped"]:
        print(f"{record['skipped']} pictures could not be read and were skipped")
    classes, wide = record["classes"], len(record["classes"]) <= _WIDEST
    table = Table(title="rows: truth; columns: prediction" if wide else None)
    table.add_column("class")
    table.add_column("recall, % [95 %]", justify="right")
    for i in range(len(classes)) if wide else ():
        table.add_column(str(i), justify="right")
    for i, (name, row) in enumerate(zip(classes, record["confusion"], strict=True)):
        recall = record["recall"].get(name)
        shares = (recall["value"], *recall["ci95"]) if recall else None
        shown = "no picture" if shares is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share for share in shares))
        table.add_row(escape(f"{i} {name}"), escape(shown), *(map(str, row) if wide else ()))
    Console().print(table)
