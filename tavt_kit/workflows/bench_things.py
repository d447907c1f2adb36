"""What ``bench`` can measure: models under schedules and exported files, on targets; opened, and named apart."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, product
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.core.artifact_card import ArtifactCard, files_of, read_metadata, require_unchanged
from tavt_kit.core.configuration import Choice
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, RecordError, TavtError
from tavt_kit.workflows.run_model import Given, name_of, open_given

if TYPE_CHECKING:
    from tavt_kit.bench.memory import FileJob
    from tavt_kit.core.progress import Progress
    from tavt_kit.models.wrap import AdaptiveViT
    from tavt_kit.runtimes import FileSession, Images, Session

FILES = {".onnx": "onnxruntime:cpu", ".xml": "openvino:cpu"}
"""Exported files, and where they run unless told."""


def default_folder(thing: Given) -> Path:
    """Where ``bench.json`` goes: beside the first thing where that is a file or folder, or was read from one."""
    path = Path(thing) if isinstance(thing, str | os.PathLike) else thing.folder
    if path is not None and path.suffix in FILES and path.is_file():
        return path.parent
    return path if path is not None and path.is_dir() else Path("runs/bench")


@dataclass(frozen=True, slots=True)
class BenchCandidate:
    """One candidate, ready to run, whose name is unique among those of a bench.

    By its ``job`` a fresh process would run the file, to see its memory; ``None`` of a live model.
    """

    name: str
    thing: str
    session: Session
    images: Images
    job: FileJob | None
    schedule: TokenSchedule | None = None
    macs: int | None = None
    size_bytes: int | None = None
    reduction: str | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.images.shape[2], self.images.shape[3]


@dataclass(slots=True)
class Opener:
    """Opens things on targets, with each value of what is varied; an empty tuple leaves it to the thing.

    The ``folder`` is for temporary exports; ``schedules`` are of models that are no files, and of switchable files.
    """

    folder: Path
    targets: tuple[str, ...] = ()
    schedules: tuple[str | Choice, ...] = ()
    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    reductions: tuple[str, ...] = ()
    weights: str = "hub"
    seed: int = 0
    opened: list[BenchCandidate] = field(default_factory=list)

    def _targets_of(self, thing: Given) -> list[TargetDevice]:
        """The targets that the thing runs on; all of a file where none can run it, as opening it says why."""
        from tavt_kit.runtimes import check_available, runtimes_of

        file = _file(thing)
        usual = "openvino:cpu" if file is None else FILES[file.suffix]
        if file is not None and not self.precisions and (card := card_of(file)) is not None:
            own = card.own_target(file)
            usual = f"{own.runtime}:{own.processor}:precision={own.precision}"
        texts, precisions = self.targets or (usual,), self.precisions or (None,)
        values = product(texts, precisions, self.threads or (None,), self.batches or (None,))
        parsed = (TargetDevice.parse(text, precision=bits, threads=t, batch=b) for text, bits, t, b in values)
        targets = list(dict.fromkeys(parsed))
        if file is not None:
            able = runtimes_of(file.suffix)
            targets = [target for target in targets if target.runtime in able] or targets
        for target in targets:
            check_available(target)
        return targets

    def open_all(self, things: Sequence[Given], progress: Progress) -> list[BenchCandidate]:
        """Open every thing on its targets; TavtError where one is not here, or a thing runs on none of the targets."""
        for thing, targets in [(thing, self._targets_of(thing)) for thing in things]:  # before anything is opened
            progress.update(f"opening {name_of(thing)}")
            if (file := _file(thing)) is None:
                self._open_model(thing, targets)
            else:
                self._open_file(file, targets)
        return _named_apart(self.opened)

    def _open_file(self, path: Path, targets: Sequence[TargetDevice]) -> None:
        from tavt_kit.bench.memory import FileJob
        from tavt_kit.runtimes import open_file

        card = card_of(path)
        cards = [card]
        if card is not None and card.is_switchable:  # at what is asked for, or at all of its presets
            cards = [card.chosen(str(schedule)) for schedule in self.schedules or card.presets]
        if card is not None:
            require_unchanged(path)
        bytes_ = sum(part.stat().st_size for part in files_of(path) if part.is_file())
        for target in targets:
            session = open_file(path, target, cards[0].lengths if cards[0] is not None else None)
            for size, own in product(self._file_sizes(path, session), cards):
                name, at, lengths = path.name, session, None if own is None else own.lengths
                if own is not None and lengths is not None:
                    name, at = f"{path.name} {own.setting}", session.at(lengths)
                images, job = self._images(target.batch, size), FileJob(path, target, size, lengths)
                schedule, macs = (None, None) if own is None else (own.schedule, macs_of(own))
                self.opened.append(BenchCandidate(name, str(path), at, images, job, schedule, macs, bytes_))

    def _file_sizes(self, path: Path, session: FileSession) -> list[tuple[int, int]]:
        """Those that were asked for and that the file takes; its own where it takes but one."""
        if session.pixels:
            raise DataError(
                f"{path.name} prepares its images itself, whose sizes would be in its time; bench the same model with "
                "its preprocessing outside"
            )
        height, width = session.input_shape[2:]
        if height is None or width is None:
            if not self.sizes:
                raise DataError(f"{path.name} takes images of any size; give one by `image_size`")
            return [(height or size, width or size) for size in self.sizes]
        if any(size not in (height, width) for size in self.sizes):
            raise DataError(
                f"the size of {path.name} was fixed by its export: it takes {height}x{width} images, got `image_size` "
                f"{', '.join(map(str, self.sizes))}; leave it out, or name the run it was exported from"
            )
        return [(height, width)]

    def _open_model(self, thing: Given, targets: Sequence[TargetDevice]) -> None:
        is_named = isinstance(thing, str | os.PathLike)
        weights = self.weights if is_named else None
        for size, reduction in product(dict.fromkeys(self.sizes) or (None,), dict.fromkeys(self.reductions) or (None,)):
            model = open_given(thing, weights=weights, image_size=size, seed=self.seed, reduction=reduction)
            own = "dense" if is_named or model.schedule == model.dense_schedule else model.schedule
            for schedule, target in product(self.schedules or (own,), targets):
                self._open_schedule(name_of(thing), model, schedule, target)

    def _open_schedule(self, name: str, model: AdaptiveViT, given: str | Choice, target: TargetDevice) -> None:
        from tavt_kit.exporters.to_onnx import to_onnx
        from tavt_kit.models.flops import count_macs
        from tavt_kit.models.wrap import LeanViT
        from tavt_kit.runtimes import open_file, open_module, runtime_of
        from tavt_kit.runtimes.out_of_memory import memory_for

        label = f"{Path(name).name if Path(name).is_dir() else name} {given}"
        height, width = model.require_card().preprocessing["image_size"]
        schedule = given if isinstance(given, TokenSchedule) else TokenSchedule.parse(str(given), model.layout)
        session: Session
        with memory_for(f"when {label} was opened on {target}; name fewer candidates or a smaller batch"):
            if runtime_of(target.runtime).takes == "onnx":
                export = self.folder / f"{len(self.opened)}.onnx"
                to_onnx(model, ArtifactCard(model.require_card(), schedule, model.tokens, model.prefix), export)
                session = open_file(export, target)
            else:
                session = open_module(LeanViT(model, schedule), target, (target.batch, 3, height, width))
        self.opened.append(
            BenchCandidate(
                label, name, session, self._images(target.batch, (height, width)), None, schedule,
                count_macs(model, schedule), reduction=model.reduction,
            )
        )  # fmt: skip

    def _images(self, batch: int, size: tuple[int, int]) -> Images:
        import numpy as np

        from tavt_kit.bench import random_images

        return random_images((batch, 3, *size), np.random.default_rng(self.seed))


def _file(thing: Given) -> Path | None:
    """The path of an exported file; ``None`` of everything else."""
    path = Path(thing) if isinstance(thing, str | os.PathLike) else None
    return path if path is not None and path.suffix in FILES else None


def card_of(path: Path) -> ArtifactCard | None:
    """The card of an exported file; None of a file of another program."""
    try:
        return read_metadata(path)
    except RecordError:
        return None


def macs_of(card: ArtifactCard) -> int | None:
    """Multiply-adds of an artifact, counted on its architecture; None where torch is not installed."""
    try:
        from tavt_kit.checkpoints.architecture import sketch
        from tavt_kit.models.flops import count_macs
        from tavt_kit.models.wrap import wrap

        made = card.model
        return count_macs(wrap(sketch(made.name, made.arguments), made.score, made.pool, made.reduction), card.schedule)
    except (ImportError, TavtError):
        return None


def _parts(candidate: BenchCandidate) -> tuple[str, ...]:
    """What can differ between candidates of one thing, in the order in which a name says it."""
    target = candidate.session.target
    return (
        candidate.reduction or "", f"on {target.runtime}", target.processor, target.mode, target.precision,
        f"threads={target.threads}", f"batch={target.batch}", f"{candidate.image_size[0]}px",
    )  # fmt: skip


def _named_apart(candidates: Sequence[BenchCandidate]) -> list[BenchCandidate]:
    """The candidates, each with a name of its own.

    Of those with one name, each says where and how it runs as far as that differs; then its folder; then a number.
    """
    namesakes: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for candidate in candidates:
        namesakes[candidate.name].append(_parts(candidate))
    names = []
    for candidate in candidates:
        columns = zip(_parts(candidate), zip(*namesakes[candidate.name], strict=True), strict=True)
        names.append(" ".join([candidate.name, *(part for part, all_ in columns if part and len(set(all_)) > 1)]))
    renamed: dict[str, BenchCandidate] = {}
    for candidate, name in zip(candidates, names, strict=True):
        label = f"{Path(candidate.thing).absolute().parent.name}/{name}" if names.count(name) > 1 else name
        unique = next(text for text in chain([label], (f"{label} #{n}" for n in count(2))) if text not in renamed)
        renamed[unique] = replace(candidate, name=unique)
    return list(renamed.values())
