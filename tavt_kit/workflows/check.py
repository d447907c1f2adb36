"""check: is this file still that model? Asked of real images, of an exported file or of logits made elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.artifact_card import SUFFIXES, UNPROVEN, changed_since_check, files_of, read_metadata
from tavt_kit.core.budget import Verdict, worst
from tavt_kit.core.codec import encode
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, reading
from tavt_kit.errors import RecordError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import Given, images_of, load_given, recommended_of
from tavt_kit.workflows.schedules import schedule_for

if TYPE_CHECKING:
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.models.wrap import AdaptiveViT


@dataclass(frozen=True, slots=True, repr=False)
class FileCheck:
    """What a check says of one file; of a switchable file, of one of its presets.

    Top-1 accuracies are of the file, and of its source at the same schedule, in torch f32; the difference is file minus
    source, on the same images. The record is everything, as ``check.json`` has it.
    """

    artifact: str
    verdict: Verdict
    reason: str
    source_top1: Accuracy
    top1: Accuracy
    difference: PairedDifference
    record: Mapping[str, Any] = field(hash=False)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FileCheck:
        """From an entry of ``check.json``."""
        source, own = (Accuracy.from_record(record[key]) for key in ("source_top1", "artifact_top1"))
        difference = PairedDifference.from_record(record["difference"])
        return cls(record["artifact"], Verdict(record["verdict"]), record["reason"], source, own, difference, record)

    def __repr__(self) -> str:
        return f"<FileCheck {self.artifact}: {self.verdict}: {self.reason}>"


@dataclass(frozen=True, slots=True, repr=False)
class CheckResult:
    """What a check found of each file or preset; ``accepted`` is a PASS, or an INCONCLUSIVE that is taken."""

    checks: tuple[FileCheck, ...]
    notes: tuple[str, ...]
    accepted: bool
    record: Mapping[str, Any] = field(hash=False)

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks."""
        return worst(check.verdict for check in self.checks)

    def to_frame(self) -> Frame:
        """A line for each check: file, verdict, both accuracies and their difference with its 95 % interval."""
        return frame([
            {
                "artifact": check.artifact, "verdict": str(check.verdict), "source_top1": check.source_top1.value,
                "top1": check.top1.value, "difference": check.difference.difference, "low": check.difference.low,
                "high": check.difference.high, "n": check.top1.n,
            }
            for check in self.checks
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"<CheckResult {', '.join(f'{check.artifact}: {check.verdict}' for check in self.checks)}>"


@bounded
def check(
    thing: str | PathLike[str] | None,
    against: Given | None = None,
    *,
    schedule: str | None = None,
    predictions: Path | str | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    max_drop: float = 0.5,
    compare_dense: bool = True,
    accept_inconclusive: bool = False,
    unlabelled: str | Path | None = None,
    target: str | TargetDevice | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Compare an exported file with its source on the same real images, and write ``check.json``.

    The file sees the images through the preprocessing it carries. An f32 file must give its source's logits; others
    may lose ``max_drop`` points of top-1, decided by the paired 95 % interval; where labelled images are too few for
    that, how it answers the other splits and ``unlabelled`` images decides whether to take it (docs/check.md). A
    ``*.unproven`` file that is taken gets its final name; no file is removed.

    Args:
        thing: An ``.onnx`` or ``.xml`` file, one named ``*.unproven``, or the folder of a fit, whose file is meant;
            None where ``predictions`` are judged at a schedule.
        against: The run it was exported from; by default what ``exported.json`` beside ``thing`` names.
        schedule: Schedule for a switchable file or predictions: a preset, as text, or of an exported file or a search.
        predictions: An ``.npz`` file of logits made elsewhere, judged instead of running ``thing`` here.
        data: Source of the images; by default what ``against`` was trained on.
        split: Split of the check's images; test if there is one, else val.
        limit: Most images to use.
        max_drop: Points of top-1 that a file narrower than f32 may lose.
        compare_dense: Whether to compare with the dense model too.
        accept_inconclusive: Whether a file whose check has too few images to decide is taken.
        unlabelled: Folder of images without labels: the more they are, the smaller the loss that can be ruled out where
            labelled ones are few.
        target: Target of the file; by default its own runtime on the CPU.
        out: Folder of ``check.json``; by default where ``thing`` lies.
        progress: Told how far things are.

    Raises:
        RecordError: A file is not there, was not exported by this program, or ``against`` is no run.
        ScheduleError: The schedule does not fit, or is frozen into the file.
        DataError: The classes differ, or an image cannot be read.
        OutputError: ``out`` cannot be written.

    Example:
        >>> check("runs/birds/export/model.int8.xml", "runs/birds").verdict  # doctest: +SKIP
        <Verdict.PASS: 'PASS'>
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.checks import CHECK_FILE, Artifact, Gate, Predicted, Source, check_predicted, read_check, write_check
    from tavt_kit.checks import check as compare
    from tavt_kit.checks.compare import save_examples
    from tavt_kit.checks.source import image_counter, images_beside
    from tavt_kit.data import thin_out
    from tavt_kit.exporters.export import status_of
    from tavt_kit.runtimes import check_available

    progress = progress or Silent()
    thing, predictions = (None if path is None else Path(path) for path in (thing, predictions))
    if (fitted := recommended_of(thing, progress)) is not None:
        thing = fitted.file
    subject = _subject(thing, predictions)
    device = TargetDevice.parse(target) if isinstance(target, str) else target
    model, card = load_given(_recorded_source(subject) if against is None else against), None
    if device is not None:
        check_available(device)
    with _named(subject) as opened:
        if thing is not None:  # what is no file of this program leaves no folder behind
            card = read_metadata(opened).chosen(schedule)
            if model.folder is not None and card.image_size != model.backbone.image_size:  # of weights for several
                model = load_model(model.folder, image_size=card.image_size)
        images = images_of(model.folder, data)
        chosen = split or images.held_out
        beside = images_beside(images, chosen, None if unlabelled is None else Path(unlabelled))
        source, gate = Source(model, thin_out(images.split(chosen), limit), chosen, beside), Gate(drop=max_drop / 100)
        with held_folder(subject.parent if out is None else out) as folder:
            passes = 1 + compare_dense + (predictions is None)
            count = image_counter(progress, subject.name, len(source.samples) * passes)
            progress.update(f"checking {subject.name}")
            if predictions is not None:
                predicted = Predicted.read(predictions)
                counts = card.schedule if card is not None else _schedule(model, schedule or "dense")
                reports = [
                    check_predicted(predicted, source, gate, counts, card=card, dense=compare_dense, count=count)
                ]
                logits = "the logits" if thing is None else f"the logits of {thing.name}"
                note = f"{logits} were made elsewhere ({predicted.device}); nothing was run here but the source"
            else:
                changed = changed_since_check(opened, subject.parent)
                note = f"{changed}; this check takes the place of the old one" if changed else ""
                artifact = Artifact.open(opened, device, card)
                parts = artifact.at_presets() if schedule is None else (artifact,)
                reports = [compare(part, source, gate, dense=compare_dense, count=count) for part in parts]
            for report in reports:
                if report.losses is not None:
                    save_examples(report.losses, source.preprocessing, folder)
            notes = [note] if note else []
            about = {**source.about(str(model.folder or ""), images), "gate": gate.as_record(), "notes": notes}
            records = [{**encode(report), **about} for report in reports]
            # The checks of other files stay, older ones of this file go.
            path, names = folder / CHECK_FILE, {record["artifact"] for record in records}
            known = read_check(path)["checks"] if path.exists() else []
            others = [entry for entry in known if entry["artifact"] not in names]
            made = {"host": HostFacts.gather().as_record(), "command": command_line()}
            written = write_check(path, [*others, *records], made)
            accept = accept_inconclusive or all(report.is_taken for report in reports)
            status = status_of(worst(report.verdict for report in reports), accept=accept)
            # Of a switchable file, a check of one schedule says nothing of others.
            if status == "final" and thing is not None and predictions is None and schedule is None:
                _promote_file(thing)
            checks = tuple(FileCheck.from_record(record) for record in records)
            return CheckResult(checks, tuple(notes), status == "final", written)


def _recorded_source(subject: Path) -> str:
    """The run that a file was exported from, as the record beside it says."""
    from tavt_kit.exporters.export import EXPORTED_FILE, read_exported

    fitted = recommended_of(subject.parent.parent)
    if fitted is not None and fitted.file == subject:
        return str(fitted.run)
    file = subject.parent / EXPORTED_FILE
    if not file.is_file():
        raise RecordError(f"nothing beside {subject} names the run that it was exported from; give `against`")
    with reading(file):
        run = read_exported(subject.parent)["source"]["run"]
        if not isinstance(run, str) or not run:
            raise RecordError("it does not name the run that it was exported from; give `against`")
    return run


def _subject(thing: Path | None, predictions: Path | None) -> Path:
    """What is checked; what contradicts itself or is not there is refused before a model is read."""
    given = [path for path in (thing, predictions) if path is not None]
    if not given:
        raise RecordError("nothing to check: give an exported file, or `predictions`")
    if missing := [path for path in given if not path.exists()]:
        raise RecordError(f"there is no file {missing[0]} to check; export one first (fgvc-kit export)")
    if thing is not None and thing.is_dir():
        raise RecordError(
            f"an exported file is checked, got the folder {thing}; two runs are held against each other by `eval` of "
            "each, and `compare` of the two eval.json"
        )
    return given[0]


def _schedule(model: AdaptiveViT, given: str | None) -> TokenSchedule:
    """A schedule's text, that of an exported file, or what a search chose; None is the search of the model's folder."""
    if given is not None and Path(given).suffix in SUFFIXES.values():
        schedule = read_metadata(Path(given)).schedule
        schedule.check(model.layout)
        return schedule
    folder, text = (Path(given), None) if given is not None and Path(given).is_dir() else (model.folder, given)
    return Configuration.of(schedule_for(folder, model, text, None)).schedule


@contextmanager
def _named(artifact: Path) -> Iterator[Path]:
    """The artifact under a name that a runtime opens; an unproven one is copied for the time being."""
    if artifact.suffix != UNPROVEN:
        yield artifact
        return
    final = artifact.with_suffix("")
    with tempfile.TemporaryDirectory(prefix="fgvc-kit-check-") as temporary:
        for file in files_of(final):
            there = Path(f"{file}{UNPROVEN}")
            there = there if there.is_file() else file  # a weight file that several share has no second name
            if there.is_file():
                shutil.copyfile(there, Path(temporary) / file.name)
        yield Path(temporary) / final.name


def _promote_file(artifact: Path) -> None:
    """Give an unproven artifact its final name, and say so in the record of its export."""
    from tavt_kit.exporters.export import EXPORTED_FILE, read_exported, write_exported

    if artifact.suffix != UNPROVEN:
        return
    final = artifact.with_suffix("")
    for file in files_of(final):
        if Path(f"{file}{UNPROVEN}").is_file():
            Path(f"{file}{UNPROVEN}").replace(file)
    if (artifact.parent / EXPORTED_FILE).is_file():
        body = read_exported(artifact.parent)
        entries = [entry | ({"status": "final"} if entry["file"] == final.name else {}) for entry in body["artifacts"]]
        rest = {key: value for key, value in body.items() if key not in ("schema", "version", "artifacts")}
        write_exported(artifact.parent, entries, rest)
