"""What ``bench`` can measure: run folders and models by name under schedules, and exported files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, MissingDependency, RecordError, TavtError
from tavt_kit.workflows.bench_names import told_apart

if TYPE_CHECKING:
    from tavt_kit.bench.memory import FileJob, LiveJob
    from tavt_kit.core.artifact_card import ArtifactCard
    from tavt_kit.models.wrap import AdaptiveViT, LeanViT
    from tavt_kit.runtimes import Images, Session
    from tavt_kit.workflows.bench_images import Inputs
    from tavt_kit.workflows.bench_sweep import Sweep

__all__ = ["FILES", "Opened", "Opener", "default_folder", "macs_of"]

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
    """One candidate, ready to run.

    Args:
        name: Unique among the candidates of a bench once all are open.
        thing: What the user named.
        session: Loaded and compiled.
        images: (B, 3, H, W).
        job: How a fresh process would run it, to see its memory.
        schedule, macs, size_bytes: As of ``Benched``.
        classes: Width of the logits, or ``None`` where unknown.
        preprocessing: The record of a ``Preprocessing``, or ``None`` for a file of another program.
        source: Where its time by layer is found: the file, or the ``LeanViT``.
    """

    name: str
    thing: str
    session: Session
    images: Images
    job: FileJob | LiveJob
    schedule: TokenSchedule | None = None
    macs: int | None = None
    size_bytes: int | None = None
    classes: int | None = None
    preprocessing: Mapping[str, Any] | None = None
    source: Path | LeanViT | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.images.shape[2], self.images.shape[3]


@dataclass(slots=True)
class Opener:
    """Opens things on targets. As a context it owns the temporary exports.

    Args:
        targets: Texts; empty for the defaults.
        sweep: What is varied besides.
        schedules: Texts, for models that are no files; empty for dense.
        presets: Names, for switchable files, which also take the schedules; empty for all presets of a file.
        inputs: Where images come from.
        weights, score, pool, reduction, seed: As the flags of the command line.
    """

    targets: tuple[str, ...]
    sweep: Sweep
    schedules: tuple[str, ...]
    presets: tuple[str, ...]
    inputs: Inputs
    weights: str | None
    score: str | None
    pool: str | None
    reduction: str | None
    seed: int
    opened: list[Opened] = field(default_factory=list)
    _folder: Any = None

    def __enter__(self) -> Opener:
        self._folder = tempfile.TemporaryDirectory(prefix="fgvc-kit-bench-")
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def number(self, things: Sequence[str]) -> int:
        """How many candidates there will be at most, presets aside."""
        return len(things) * max(1, len(self.targets)) * max(1, len(self.schedules)) * self.sweep.combinations

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
        return told_apart(self.opened)

    def _open_file(self, path: Path) -> None:
        from tavt_kit.bench.memory import FileJob
        from tavt_kit.core.artifact_card import files_of
        from tavt_kit.core.sealed import refuse_changed
        from tavt_kit.runtimes import check_available, open_file

        card = _card(path)
        cards = [card] if card is None or not card.is_switchable else self._settings(card)
        if card is not None:
            refuse_changed(path)
        targets = self._file_targets(path, card)
        for target in targets:
            check_available(target)
        for target in targets:
            session = open_file(path, target, cards[0].lengths if cards[0] is not None else None)
            bytes_ = sum(part.stat().st_size for part in files_of(path) if part.is_file())
            for size, one in product(self._file_sizes(path, session), cards):
                how = None if one is None else one.preprocessing
                self.opened.append(
                    Opened(
                        f"{path.name} {one.setting}" if one is not None and one.is_switchable else path.name,
                        str(path),
                        session if one is None or one.lengths is None else session.at(one.lengths),
                        self.inputs.images(target.batch, size, how),
                        FileJob(path, target, size, None if one is None else one.lengths),
                        None if one is None else one.schedule,
                        None if one is None else macs_of(one),
                        bytes_,
                        session.classes,
                        how,
                        path,
                    )
                )

    def _file_targets(self, path: Path, card: ArtifactCard | None) -> list[TargetDevice]:
        """Those that can run the file; all of them where none can, because opening says why."""
        texts = self.targets or (FILES[path.suffix],)
        if card is not None and not self.targets and not self.sweep.precisions:
            own = card.own_target(path)
            texts = (f"{own.runtime}:{own.processor}:precision={own.precision}",)
        targets = self.sweep.targets(texts)
        able = [
            one for one in targets if (one.runtime, path.suffix) != ("onnxruntime", ".xml") and one.runtime != "torch"
        ]
        return able or targets

    def _file_sizes(self, path: Path, session: Session) -> list[tuple[int, int]]:
        """Those that were asked for and that the file takes; its own where it takes but one."""
        height, width = session.input_shape[2:]
        if height is None or width is None:
            if not self.sweep.sizes:
                raise DataError(f"{path.name} takes images of any size; give one by `image_size`")
            return [(height or size, width or size) for size in self.sweep.sizes]
        if any(size not in (height, width) for size in self.sweep.sizes):
            asked = ", ".join(str(size) for size in self.sweep.sizes)
            raise DataError(
                f"the size of {path.name} was fixed by its export: it takes {height}x{width} images, got `image_size` "
                f"{asked}; leave it out, or name the run it was exported from"
            )
        return [(height, width)]

    def _settings(self, card: ArtifactCard) -> list[ArtifactCard]:
        """A switchable file's card at each preset and schedule asked for; at all of its presets where none is."""
        if not self.presets and not self.schedules:
            return [card.chosen(preset) for preset in card.presets]
        asked = [card.chosen(preset) for preset in self.presets]
        return asked + [card.chosen(schedule=schedule) for schedule in self.schedules]

    def _open_model(self, thing: str) -> None:
        from tavt_kit.checkpoints import open_model
        from tavt_kit.runtimes import check_available

        targets = self.sweep.targets(self.targets or ("openvino:cpu",))
        for target in targets:
            check_available(target)
        for image_size in self.sweep.sizes or (None,):
            model = open_model(
                thing,
                weights=self.weights or "hub",
                image_size=image_size,
                seed=self.seed,
                score=self.score,
                pool=self.pool,
                reduction=self.reduction,
            ).eval()
            for text in self.schedules or ("dense",):
                for target in targets:
                    self._open_schedule(thing, model, text, target, image_size)

    def _open_schedule(
        self, thing: str, model: AdaptiveViT, text: str, target: TargetDevice, image_size: int | None
    ) -> None:
        from tavt_kit.bench.memory import LiveJob
        from tavt_kit.models.macs import count_macs

        card = _card_of(model)
        height, width = (int(side) for side in card.preprocessing["image_size"])
        schedule = TokenSchedule.parse(text, tokens=model.tokens, layers=model.layers, prefix=model.prefix)
        label = Path(thing).name if Path(thing).is_dir() else thing
        weights = self.weights or "hub"
        source = self._source(model, schedule, target)
        self.opened.append(
            Opened(
                f"{label} {text}",
                thing,
                _session(source, target, (height, width)),
                self.inputs.images(target.batch, (height, width), card.preprocessing),
                LiveJob(
                    thing, target, text, weights, image_size, self.seed, self.score, self.pool, reduction=self.reduction
                ),
                schedule,
                count_macs(model, schedule),
                None,
                len(card.classes),
                card.preprocessing,
                source,
            )
        )

    def _source(self, model: AdaptiveViT, schedule: TokenSchedule, target: TargetDevice) -> Path | LeanViT:
        """What runs: the module itself, or for onnxruntime a temporary export."""
        from tavt_kit.models.wrap import LeanViT

        if target.runtime != "onnxruntime":
            return LeanViT(model, schedule)
        from tavt_kit.bench.plain_file import write_plain

        path = Path(self._folder.name) / f"{len(self.opened)}.onnx"
        write_plain(model, schedule, path)
        return path


def _session(source: Path | LeanViT, target: TargetDevice, size: tuple[int, int]) -> Session:
    from tavt_kit.runtimes import open_file, open_module

    if isinstance(source, Path):
        return open_file(source, target)
    return open_module(source, target, (target.batch, 3, *size))


def _card_of(model: AdaptiveViT) -> ModelCard:
    card = model.card
    assert isinstance(card, ModelCard)  # what open_model promises
    return card


def _card(path: Path) -> Any:
    """The file's own metadata, or None where it is of another program."""
    from tavt_kit.core.artifact_card import read_metadata

    try:
        return read_metadata(path)
    except RecordError:
        return None


def macs_of(card: Any) -> int | None:
    """Multiply-adds of an artifact, counted on its architecture; None where torch is not installed."""
    try:
        from tavt_kit.checkpoints.architecture import sketch
        from tavt_kit.models.macs import count_macs
        from tavt_kit.models.wrap import wrap
    except (ImportError, MissingDependency):
        return None
    try:
        model = wrap(
            sketch(card.model.name, card.model.arguments), card.model.score, card.model.pool, card.model.reduction
        )
        return count_macs(model, card.schedule)
    except TavtError:
        return None
