"""Running an artifact and its source over the same real images."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.checks.batch_sizes import Attempts, check_batches, further_sizes
from tavt_kit.checks.claims import choice_of, false_claim, stored_precision
from tavt_kit.checks.compare import Answers, columns, figures_of, losses_of, relative_error
from tavt_kit.checks.pixels import OwnPixels
from tavt_kit.checks.report import BatchCheck, CheckReport, Gate, Judgement, judge
from tavt_kit.checks.small_sets import decide, further_answers
from tavt_kit.checks.source import Count, Predicted, Source
from tavt_kit.core.accuracy import bits_text
from tavt_kit.core.artifact_card import ArtifactCard, files_of, read_metadata
from tavt_kit.core.budget import Verdict, facts_of
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import sha256_file
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.answers import require_width
from tavt_kit.evaluation.metrics import likeliest
from tavt_kit.runtimes import open_file

_log = logging.getLogger(__name__)

_COARSE = 0.05  # of the largest logit: int8 and half precision round differently in another batch
_MOST_TIED = 0.05  # more images than this do not hang on the last bits by chance


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file ready to run, by a session on a target; the last of ``files`` is the one that is opened."""

    name: str
    card: ArtifactCard
    session: Any
    files: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path, target: TargetDevice | None = None, card: ArtifactCard | None = None) -> Artifact:
        """Open an ``.onnx`` or ``.xml`` file, by default on its own runtime; the card has the counts to run it at.

        Raises RecordError where it was not exported by this program, TavtError where the runtime cannot load it.
        """
        card = card or read_metadata(path).chosen(None)
        session = open_file(path, target or card.own_target(path), card.lengths)
        return cls(_name(path.name, card), card, session, files_of(path))

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
        """Whether it must give its source's very logits: the same model, stored in f32 and run in f32."""
        return bool(self.card.precision == self.session.target.precision == "f32")


def check(
    artifact: Artifact, source: Source, gate: Gate, *, dense: bool = True, count: Count | None = None
) -> CheckReport:
    """Compare an artifact with its source at the artifact's schedule, and dense as well if asked.

    Each sees the images through the preprocessing it carries, or as they are where it holds that inside.

    Raises:
        ScheduleError: The artifact's schedule does not fit the source.
        DataError: The classes differ, or too many images cannot be read.
    """
    card, adaptive = artifact.card, source.adaptive
    order = columns(card.classes, source.card.classes, artifact.name)
    card.schedule.check(adaptive.layout)
    before = source.logits(card.schedule, count)
    file = artifact.files[-1] if artifact.files else None
    own = OwnPixels.of(file, card) if file is not None and card.pixels is not None else None
    seen = Preprocessing.from_record(card.preprocessing) if own is None else None
    attempts = Attempts(artifact.session, len(order))
    after = source.answers(attempts, seen, count)
    require_width(after, artifact.card.classes)
    answers = Answers(source.labels, before, after[:, order])
    known: dict[int, bool] = {}

    def near_ties(strayed: list[int], n: int) -> set[int]:
        """Which images strayed because the source's own choice hangs on the last bits; asked only where few strayed."""
        if not 0 < len(strayed) <= max(2, _MOST_TIED * n):
            return set()
        from tavt_kit.checks.near_ties import NEAR_TIE, margins

        if new := [index for index in strayed if index not in known]:
            narrow = margins(adaptive, card.schedule, source.at(new) if own is None else own.at(source, new))
            known.update({index: bool(margin < NEAR_TIE) for index, margin in zip(new, narrow, strict=True)})
        return {index for index in strayed if known[index]}

    strayed = np.flatnonzero(answers.errors() > gate.tolerance).tolist()
    moved = []
    if own and artifact.exact and strayed:
        session = source.session(card.schedule)
        for index in strayed:  # does the source answer as the artifact does, once it sees the artifact's pixels?
            again = session(own.at(source, [index]))
            if relative_error(answers.artifact[index][None], again, answers.scale)[0] <= gate.tolerance:
                moved.append(index)
    tied = sorted(near_ties([i for i in strayed if i not in moved], answers.n)) if artifact.exact else []
    tolerance = gate.tolerance if artifact.exact else max(gate.tolerance, _COARSE)
    executed = artifact.session.target
    hashes = {each.name: sha256_file(each) for each in artifact.files}
    same_batches = check_batches(
        attempts, source, seen, after, tolerance=tolerance, scale=answers.scale,
        near_ties=near_ties if artifact.exact else None,
        further=() if file is None else further_sizes(file, hashes[file.name]),
    )  # fmt: skip
    choice = choice_of(file, card) if file is not None and same_batches.passed else None
    stored = None if file is None else stored_precision(file)
    fault = false_claim(card, source, stored=stored, executed=executed, choice=choice)
    pixels = None if own is None else own.compare(source, len(moved))
    if pixels is not None:
        fault = fault or pixels.fault
    judgement = judge(answers, gate, same_batches, exact=artifact.exact, tied=tied, moved=moved, fault=fault)
    decision = None
    if judgement.verdict is Verdict.INCONCLUSIVE and source.further:
        parts = further_answers(source, attempts, seen, order, card.schedule)
        proven = facts_of(difference=answers.against(answers.source))["drop"].high
        decision = decide({source.split: answers, **parts}, gate.drop, proven)
        judgement = replace(judgement, reason=f"{judgement.reason}; {decision.sentence}")
    if pixels is not None and not fault:
        judgement = replace(judgement, reason=f"{judgement.reason}; {pixels.sentence}")
    return _report(
        answers, source, gate, judgement, adaptive.dense_schedule if dense else None, count,
        artifact=artifact.name, sha256=hashes, precision=card.precision, executed=str(executed),
        schedule=card.schedule.counts, tied=len(tied), batches=same_batches, token_choice=choice, pixels=pixels,
        same_weights=card.model.weights_sha256 == source.card.weights_sha256, decision=decision,
    )  # fmt: skip


def check_predicted(
    predicted: Predicted,
    source: Source,
    gate: Gate,
    schedule: TokenSchedule,
    *,
    card: ArtifactCard | None = None,
    dense: bool = True,
    count: Count | None = None,
) -> CheckReport:
    """Compare logits that were made elsewhere with the source; their accuracy decides, whatever their precision.

    Raises:
        DataError: They are of other images or classes.
        ScheduleError: The schedule does not fit the source.
    """
    adaptive = source.adaptive
    schedule.check(adaptive.layout)
    after = predicted.aligned(source)
    answers = Answers(source.labels, source.logits(schedule, count), after)
    batches = BatchCheck((), 0.0, passed=True)
    fault = "" if card is None else false_claim(card, source)
    judgement = judge(answers, gate, batches, exact=False, fault=fault)
    return _report(
        answers, source, gate, judgement, adaptive.dense_schedule if dense else None, count,
        artifact=predicted.name, sha256=predicted.sha256, precision="unknown" if card is None else card.precision,
        executed=predicted.device, schedule=schedule.counts, tied=0, batches=batches,
        same_weights=card is None or card.model.weights_sha256 == source.card.weights_sha256,
    )  # fmt: skip


def _report(
    answers: Answers,
    source: Source,
    gate: Gate,
    judgement: Judgement,
    dense: TokenSchedule | None,
    count: Count | None,
    **facts: Any,
) -> CheckReport:
    """The report with what the answers tell, beside other facts; compared with the source at ``dense`` if given."""
    names, split = source.card.classes, source.split
    if dense is not None:
        logits = source.logits(dense, count)
        paths = [sample.path for sample in source.samples]
        facts["dense_top1"], facts["against_dense"] = answers.top1(logits, split), answers.against(logits)
        facts["losses"] = losses_of(replace(answers, source=logits), paths, names, split)
    report = CheckReport(
        verdict=judgement.verdict,
        reason=judgement.reason,
        images_to_decide=judgement.images_to_decide,
        source_top1=answers.top1(answers.source, split),
        artifact_top1=answers.top1(answers.artifact, split),
        difference=answers.against(answers.source),
        agreement=answers.agreement,
        largest_difference=float(np.abs(answers.artifact - answers.source).max()) if answers.finite else None,
        scale=answers.scale,
        strayed=int((answers.errors() > gate.tolerance).sum()),
        figures=figures_of(answers, names, split),
        correct=bits_text(likeliest(answers.artifact) == answers.labels),
        **facts,
    )
    _log.info("%s", report.sentence)
    return report


def _name(file: str, card: ArtifactCard) -> str:
    return f"{file} ({card.setting})" if card.is_switchable else file
