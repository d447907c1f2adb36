"""What ``bench`` can measure: run folders and models by name under schedules, and exported files."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.device import TargetDevice
from tavt_kit.errors import DataError, MissingDependency, RecordError, TavtError
from tavt_kit.model_card import ModelCard
from tavt_kit.schedule import TokenSchedule

if TYPE_CHECKING:
    from tavt_kit.adaptive import AdaptiveViT
    from tavt_kit.artifact_card import ArtifactCard
    from tavt_kit.preprocess import Preprocessing
    from tavt_kit.runtimes import Images, Lengths, Session
    from tavt_kit.runtimes.executed import ExecutedGraph

__all__ = ["Opened", "Opener", "default_folder"]

FILES = {".onnx": "onnxruntime:cpu", ".xml": "openvino:cpu"}
"""Exported files, and where they run unless told."""


def default_folder(thing: str) -> Path:
    """Where ``bench.json`` goes: beside the first thing where that is a file or folder."""
    path = Path(thing)
    if path.suffix in FILES and path.is_file():
        return path.parent
    return path if path.is_dir() else Path("runs/bench")


@dataclass(frozen=True, slots=True)
class Opened:
    """One candidate, ready to run."""

    name: str
    thing: str
    session: Session
    images: Images
    schedule: TokenSchedule | None
    macs: int | None
    size_bytes: int | None
    lengths: Lengths | None = None

    def executed(self) -> ExecutedGraph | None:
        """The kernels of a file on its target; ``None`` of a live model."""
        from tavt_kit.runtimes.executed import executed_graph

        if Path(self.thing).suffix not in FILES:
            return None
        return executed_graph(Path(self.thing), self.session.target, self.images, self.lengths)


@dataclass(slots=True)
class Opener:
    """Opens things on targets. As a context it owns the temporary exports.

    Args:
        targets: Texts; empty for the defaults.
        schedules: Texts, for models that are no files; empty for dense.
        presets: Names, for switchable files, which also take the schedules; empty for all presets of a file.
        weights, data, image_size, precision, score, pool, seed: As the flags of the command line.
    """

    targets: tuple[str, ...]
    schedules: tuple[str, ...]
    presets: tuple[str, ...]
    weights: str | None
    data: str | None
    image_size: int | None
    precision: str | None
    score: str | None
    pool: str | None
    seed: int
    inputs: str = "random"
    opened: list[Opened] = field(default_factory=list)
    _folder: Any = None

    def __enter__(self) -> Opener:
        self._folder = tempfile.TemporaryDirectory(prefix="fgvc-kit-bench-")
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def open_all(self, things: Sequence[str], on_open: Callable[[str], None]) -> list[Opened]:
        """Open every thing on every target that it can run on.

        Raises:
            TavtError: A thing cannot be read, or runs on none of the targets.
        """
        for thing in things:
            on_open(thing)
            if Path(thing).suffix in FILES:
                self._open_file(Path(thing))
            else:
                self._open_model(thing)
        return _told_apart(self.opened)

    def _target(self, text: str) -> TargetDevice:
        return TargetDevice.parse(text, precision=self.precision)

    def _open_file(self, path: Path) -> None:
        from tavt_kit.artifact_card import files_of
        from tavt_kit.runtimes import open_file
        from tavt_kit.sealed import refuse_changed

        card = _card(path)
        targets = [self._target(text) for text in self.targets or (FILES[path.suffix],)]
        if card is not None and not self.targets and self.precision is None:
            targets = [card.own_target(path)]
        able = [
            one for one in targets if (one.runtime, path.suffix) != ("onnxruntime", ".xml") and one.runtime != "torch"
        ]
        if card is not None:
            refuse_changed(path)
        cards = [card] if card is None or not card.is_switchable else self._settings(card)
        for target in able or targets:  # where none is able, opening says why
            session = open_file(path, target, cards[0].lengths if cards[0] is not None else None)
            height, width = session.input_shape[2:]
            size = (height or self.image_size, width or self.image_size)
            if size[0] is None or size[1] is None:
                raise DataError(f"{path.name} takes images of any size; give one by --image-size")
            images = self._images(target.batch, (size[0], size[1]), None if card is None else card.model.preprocessing)
            bytes_ = sum(part.stat().st_size for part in files_of(path) if part.is_file())
            for one in cards:
                name = f"{path.name} {one.setting}" if one is not None and one.is_switchable else path.name
                run = session if one is None or one.lengths is None else session.at(one.lengths)
                schedule, macs = (None, None) if one is None else (one.schedule, _macs(one))
                lengths = None if one is None else one.lengths
                self._add(name, str(path), run, images, schedule, macs, bytes_, lengths)

    def _settings(self, card: ArtifactCard) -> list[ArtifactCard]:
        """A switchable file's card at each preset and schedule asked for; at all of its presets where none is."""
        if not self.presets and not self.schedules:
            return [card.chosen(preset) for preset in card.presets]
        asked = [card.chosen(preset) for preset in self.presets]
        return asked + [card.chosen(schedule=schedule) for schedule in self.schedules]

    def _open_model(self, thing: str) -> None:
        from tavt_kit.checkpoints import open_model
        from tavt_kit.macs import count_macs
        from tavt_kit.runtimes import check_available

        targets = [self._target(text) for text in self.targets or ("openvino:cpu",)]
        for target in targets:
            check_available(target)
        model = open_model(
            thing,
            weights=self.weights or "hub",
            image_size=self.image_size,
            seed=self.seed,
            score=self.score,
            pool=self.pool,
        ).eval()
        preprocessing = _card_of(model).preprocessing
        size = (int(preprocessing["image_size"][0]), int(preprocessing["image_size"][1]))
        for text in self.schedules or ("dense",):
            schedule = TokenSchedule.parse(text, tokens=model.tokens, layers=model.layers, prefix=model.prefix)
            macs = count_macs(model, schedule)
            for target in targets:
                session = self._session(model, schedule, target, size)
                images = self._images(target.batch, size, preprocessing)
                label = Path(thing).name if Path(thing).is_dir() else thing
                self._add(f"{label} {text}", thing, session, images, schedule, macs, None)

    def _session(
        self, model: AdaptiveViT, schedule: TokenSchedule, target: TargetDevice, size: tuple[int, int]
    ) -> Session:
        from tavt_kit.adaptive import LeanViT
        from tavt_kit.runtimes import open_file, open_module

        if target.runtime != "onnxruntime":
            return open_module(LeanViT(model, schedule), target, (target.batch, 3, *size))
        from tavt_kit.artifact_card import ArtifactCard
        from tavt_kit.exporters.to_onnx import to_onnx

        path = Path(self._folder.name) / f"{len(self.opened)}.onnx"
        to_onnx(model, ArtifactCard(_card_of(model), schedule, model.tokens, model.prefix), path)
        return open_file(path, target)

    def _images(self, batch: int, size: tuple[int, int], preprocessing: Any) -> Images:
        """Real images where data is given and the preprocessing known, else random ones."""
        import numpy as np

        if self.data is None:
            from tavt_kit.bench import random_images

            return random_images((batch, 3, *size), np.random.default_rng(self.seed))
        from tavt_kit.data import load_arrays, load_images
        from tavt_kit.preprocess import Preprocessing

        if preprocessing is None:
            raise RecordError("a file without our metadata says nothing of preprocessing; leave out --data")
        found = load_images(self.data, seed=self.seed)
        split = next(name for name in ("test", "val", "train") if found.splits.get(name))
        how: Preprocessing = Preprocessing.from_record(preprocessing)
        images = load_arrays(found.splits[split], how, limit=batch, allow_unreadable=batch).images
        self.inputs = f"{found.name} ({split})"
        return np.resize(images, (batch, *images.shape[1:]))

    def _add(
        self,
        name: str,
        thing: str,
        session: Session,
        images: Images,
        schedule: TokenSchedule | None,
        macs: int | None,
        size_bytes: int | None,
        lengths: Lengths | None = None,
    ) -> None:
        several = len(self.targets) > 1
        label = f"{name} on {session.target.runtime}" if several else name
        self.opened.append(Opened(label, thing, session, images, schedule, macs, size_bytes, lengths))


def _told_apart(opened: Sequence[Opened]) -> list[Opened]:
    """Names that several have say their folder too, and where that does not help a number."""
    several = {name for name, count in Counter(one.name for one in opened).items() if count > 1}
    found, taken = list[Opened](), set[str]()
    for one in opened:
        label = f"{Path(one.thing).absolute().parent.name}/{one.name}" if one.name in several else one.name
        unique = next(text for text in (label, *_numbered(label)) if text not in taken)
        taken.add(unique)
        found.append(replace(one, name=unique))
    return found


def _numbered(label: str) -> list[str]:
    return [f"{label} #{number}" for number in range(2, 1000)]


def _card_of(model: AdaptiveViT) -> ModelCard:
    card = model.card
    assert isinstance(card, ModelCard)  # what open_model promises
    return card


def _card(path: Path) -> Any:
    """The file's own metadata, or None where it is of another program."""
    from tavt_kit.artifact_card import read_metadata

    try:
        return read_metadata(path)
    except RecordError:
        return None


def _macs(card: Any) -> int | None:
    """Multiply-adds of an artifact, counted on its architecture; None where torch is not installed."""
    try:
        from tavt_kit.adaptive import wrap
        from tavt_kit.checkpoints.architecture import sketch
        from tavt_kit.macs import count_macs
    except (ImportError, MissingDependency):
        return None
    try:
        model = wrap(sketch(card.model.name, card.model.arguments), card.model.score, card.model.pool)
        return count_macs(model, card.schedule)
    except TavtError:
        return None
