"""Running an artifact and its source over the same real images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.artifact_card import ArtifactCard, files_of, read_metadata
from tavt_kit.checks.compare import Answers, columns, relative_error
from tavt_kit.checks.judge import Gate, judge, may_be_tied
from tavt_kit.checks.report import BatchCheck, CheckReport
from tavt_kit.checks.source import BATCH, Progress, Source
from tavt_kit.device import TargetDevice
from tavt_kit.preprocess import Preprocessing
from tavt_kit.records import sha256_file
from tavt_kit.runtimes import open_file

__all__ = ["Artifact", "check"]

_log = logging.getLogger(__name__)

OTHERS = (1, 5)
"""Batch sizes that are compared with it, on the first images."""

_COARSE = 0.05  # of the largest logit: int8 and half precision round differently in another batch


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file ready to run.

    Args:
        name: What it is called in records.
        card: What it says of itself.
        session: It, on a target; of a file or, for safetensors, of a module.
        files: All of its files.
    """

    name: str
    card: ArtifactCard
    session: Any
    files: tuple[Path, ...]

    @classmethod
    def open(
        cls,
        path: Path,
        target: TargetDevice | None = None,
        name: str | None = None,
        preset: str | None = None,
        schedule: str | None = None,
    ) -> Artifact:
        """Open an ``.onnx`` or ``.xml`` file.

        Args:
            path: The file.
            target: Where to run it; by default its own runtime on the CPU, in f32 where it is not quantized.
            name: Instead of the file's.
            preset: Of a switchable file: at which of its presets it is run.
            schedule: Of a switchable file: at which token counts, as text.

        Raises:
            RecordError: It was not exported by this program.
            ScheduleError: The schedule is frozen into it, or does not fit it.
            UnknownName: It has no such preset.
            TavtError: The runtime cannot load it.
        """
        card = read_metadata(path).chosen(preset, schedule)
        session = open_file(path, card.own_target(path) if target is None else target, card.lengths)
        return cls(name or _name(path.name, card), card, session, files_of(path))

    def at_presets(self) -> tuple[Artifact, ...]:
        """A switchable artifact at each of its presets, by one loaded file; of any other itself."""
        file = self.files[-1].name
        cards = [self.card.chosen(preset) for preset in self.card.presets]
        return tuple(
            replace(self, name=_name(file, card), card=card, session=self.session.at(card.schedule.counts))
            for card in cards
        ) or (self,)

    @property
    def exact(self) -> bool:
        """Whether it must give its source's very logits: stored in f32 and run in f32."""
        return self.card.precision == "f32" and self.session.target.precision == "f32"


def check(
    artifact: Artifact, source: Source, gate: Gate, *, dense: bool = True, progress: Progress | None = None
) -> CheckReport:
    """Compare an artifact with its source.

    The artifact sees the pictures through the preprocessing it carries, the source through its own; classes are
    compared by name; the source runs at the artifact's schedule, and dense as well if asked.

    Args:
        artifact: What is to be shipped.
        source: Where it should come from.
        gate: What it may lose.
        dense: Whether to compare it with the dense source too.
        progress: Called with the number of images after each batch of each model.

    Raises:
        ScheduleError: The artifact's schedule does not fit the source.
        DataError: The classes differ, or too many pictures cannot be read.
    """
    card, adaptive = artifact.card, source.adaptive
    order = columns(card.classes, source.card.classes, artifact.name)
    card.schedule.check(tokens=adaptive.tokens, layers=adaptive.layers, prefix=adaptive.prefix)
    before = source.logits(card.schedule, progress)
    seen = Preprocessing.from_record(card.preprocessing)
    attempts = _Attempts(artifact.session, len(order))
    after, _ = source.answers(attempts, seen, progress)
    answers = Answers(source.labels, before, after[:, order])
    tied = _tied(answers, artifact, source, gate)
    tolerance = gate.tolerance if artifact.exact else max(gate.tolerance, _COARSE)
    same_batches = _check_batches(attempts, source.first(seen, max(OTHERS)), after, tolerance, answers.scale)
    judgement = judge(answers, gate, same_batches, exact=artifact.exact, tied=tied)
    report = CheckReport(
        artifact=artifact.name,
        sha256={file.name: sha256_file(file) for file in artifact.files},
        precision=card.precision,
        executed=str(artifact.session.target),
        schedule=card.schedule.counts,
        verdict=judgement.verdict,
        reason=judgement.reason,
        source_top1=answers.top1(before, source.split),
        artifact_top1=answers.top1(answers.artifact, source.split),
        difference=answers.against(before),
        agreement=answers.agreement,
        largest_difference=float(np.abs(answers.artifact - before).max()) if answers.finite else None,
        scale=answers.scale,
        strayed=int((answers.errors() > gate.tolerance).sum()),
        tied=len(tied),
        batches=same_batches,
        images_to_decide=judgement.images_to_decide,
        same_weights=card.model.weights_sha256 == source.card.weights_sha256,
    )
    if dense:
        logits = source.logits(adaptive.dense_schedule, progress)
        against = answers.against(logits)
        report = replace(report, dense_top1=answers.top1(logits, source.split), against_dense=against)
    _log.info("%s", report.sentence)
    return report


def _name(file: str, card: ArtifactCard) -> str:
    return f"{file} ({card.setting})" if card.is_switchable else file


class _Attempts:
    """A session that answers NaN where its runtime refuses a batch, and remembers the refusal: that is a verdict."""

    def __init__(self, session: Callable[[NDArray[np.float32]], NDArray[np.float32]], classes: int) -> None:
        self._session, self._classes = session, classes
        self.refusal: str | None = None

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return self._session(images)
        except Exception as error:  # each runtime has its own; none of them must hide behind a traceback
            if self.refusal is None:
                line = next(iter(str(error).strip().splitlines()), type(error).__name__)
                self.refusal = f"it cannot run a batch of {len(images)}: {line[:200]}"
            return np.full((len(images), self._classes), np.nan, np.float32)


def _tied(answers: Answers, artifact: Artifact, source: Source, gate: Gate) -> list[int]:
    """The images that strayed because the source's own choice hangs on the last bits; asked where few strayed."""
    if not artifact.exact or artifact.card.is_dense:
        return []
    strayed = np.flatnonzero(answers.errors() > gate.tolerance)
    if not may_be_tied(len(strayed), answers.n):
        return []
    from tavt_kit.checks.near_ties import NEAR_TIE, margins

    narrow = margins(source.adaptive, artifact.card.schedule, source.at(strayed.tolist()))
    return [int(place) for place, margin in zip(strayed, narrow, strict=True) if margin < NEAR_TIE]


def _check_batches(
    attempts: _Attempts, images: NDArray[np.float32], main: NDArray[np.float32], tolerance: float, scale: float
) -> BatchCheck:
    """The first images again, one by one and five at once. In each size most must repeat what the main pass said."""
    sizes, largest, reason = (min(BATCH, len(main)), *OTHERS), 0.0, ""
    for size in OTHERS:
        parts = [images[i : i + size] for i in range(0, min(len(images), 3 * size), size)]
        again = np.concatenate([attempts(part) for part in parts])
        errors = relative_error(again, np.nan_to_num(main[: len(again)]), scale)
        largest = max(largest, float(errors.max()))
        # One image may hang on the last bits (see near_ties); a batch that is baked in or mixed up spoils most of them.
        if 2 * (errors > tolerance).sum() > len(errors):
            reason = f"at batch {size} the same image gets logits that differ by {errors.max():.2g} of the largest"
    return BatchCheck(sizes, largest, not (reason or attempts.refusal), attempts.refusal or reason)
