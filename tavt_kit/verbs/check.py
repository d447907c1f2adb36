"""``fgvc-kit check``: is this file still that model? Asked of real images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.command_line import command_line
from tavt_kit.verbs import options
from tavt_kit.verbs.export import Accept, CheckSplit, Dense, Drop, FileTarget, print_checks

if TYPE_CHECKING:
    from tavt_kit.checks import CheckReport, Gate, Source
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.data import ImageSet

__all__ = ["check_verb"]

Thing = Annotated[
    Path | None,
    typer.Argument(metavar="[THING]", help="An .onnx or .xml file, *.unproven, or a run that was trained again."),
]
Against = Annotated[Path, typer.Option(help="The run it was exported from, or the old run.")]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="Of a run, a switchable file, or --predictions: a schedule, an exported file, or a search's folder."
    ),
]
Predictions = Annotated[
    Path | None, typer.Option(help="An .npz file of logits made elsewhere, judged instead of running THING here.")
]
CheckOut = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of check.json. [default: where THING lies]")]


def check_verb(
    against: Against,
    thing: Thing = None,
    schedule: Schedule = None,
    preset: options.Preset = None,
    predictions: Predictions = None,
    data: options.Data = None,
    split: CheckSplit = None,
    limit: options.Limit = None,
    drop: Drop = 0.5,
    dense: Dense = True,
    accept_inconclusive: Accept = False,
    target: FileTarget = None,
    allow_unreadable: options.AllowUnreadable = 0,
    out: CheckOut = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Compare an exported file with its source on the same real images, and write check.json.

    The file sees the images through the preprocessing it carries. An f32 file must give its source's logits; others may
    lose --drop points of top-1, decided by the paired 95 % interval. So may logits made on another device
    (--predictions) and a run trained again, which is compared with the old one at the same --schedule. A *.unproven
    file that passes gets its final name; no file is removed. Exits 1 unless the verdict is PASS, or INCONCLUSIVE and
    accepted.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.checks import Gate, Source
    from tavt_kit.checks.losses import save_examples
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.records import make_folder
    from tavt_kit.core.verdict import worst
    from tavt_kit.data import thin_out
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.exporters.exported import status_of
    from tavt_kit.verbs.progress import watching
    from tavt_kit.workflows.check_subjects import promote_file

    subject = _subject(thing, predictions, preset)
    place = thing or predictions
    assert place is not None  # _subject refuses to have neither
    folder = make_folder(out or (place if place.is_dir() else place.parent))
    device = None if target is None else TargetDevice.parse(target)
    model = load_model(against)
    images = inherited_images(against if against.is_dir() else against.parent, data)
    chosen = split or images.held_out
    source = Source(model, thin_out(images.split(chosen), limit), chosen, allow_unreadable)
    gate = Gate(drop=drop / 100)
    request = _Request(against, images, data, schedule, preset, predictions, device, dense)
    with watching(f"checking {place.name}") as tell:
        done, total = 0, len(source.samples) * (1 + dense + (predictions is None))

        def progress(count: int) -> None:
            nonlocal done
            done += count
            tell(f"checking {place.name}", min(1.0, done / total))

        reports, notes = subject(thing, source, gate, request, progress)
    about = {**_about(against, source, images, gate), "notes": notes}
    for report in reports:
        if report.losses is not None:
            save_examples(report.losses, source.preprocessing, folder)
    records = [{**report.as_record(), **about} for report in reports]
    _write(folder, records)
    status = status_of(worst(report.verdict for report in reports), accept=accept_inconclusive)
    at_all = schedule is None and preset is None  # of a switchable file, a check of one schedule says nothing of others
    if status == "final" and thing is not None and predictions is None and (at_all or thing.is_dir()):
        promote_file(thing)
    for note in notes:
        print(f"fgvc-kit check: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(records[0] if len(records) == 1 else records))
    else:
        print_checks(records)
    return 0 if status == "final" else 1


@dataclass(frozen=True, slots=True)
class _Request:
    """The flags that decide how a subject is opened."""

    against: Path
    images: ImageSet
    data: str | None
    schedule: str | None
    preset: str | None
    predictions: Path | None
    target: TargetDevice | None
    dense: bool


_Found = tuple[list["CheckReport"], list[str]]
_Check = Callable[[Path | None, "Source", "Gate", _Request, Callable[[int], None]], _Found]


def _subject(thing: Path | None, predictions: Path | None, preset: str | None) -> _Check:
    """Which of the checks below is meant; what contradicts itself or is not there is refused."""
    from tavt_kit.errors import RecordError, ScheduleError

    if thing is None and predictions is None:
        raise RecordError("nothing to check: give an exported file, a run that was trained again, or --predictions")
    for path in (thing, predictions):
        if path is not None and not path.exists():
            raise RecordError(f"there is no file {path} to check; export one first (fgvc-kit export)")
    if preset is not None and (thing is None or thing.is_dir()):
        raise ScheduleError(f"a preset belongs to a file exported with --switchable, got {thing or predictions}")
    if predictions is not None:
        if thing is not None and thing.is_dir():
            raise RecordError(f"--predictions are of an exported file or of --schedule, got the folder {thing}")
        return _check_predictions
    return _check_run if thing is not None and thing.is_dir() else _check_file


def _check_file(
    thing: Path | None, source: Source, gate: Gate, request: _Request, progress: Callable[[int], None]
) -> _Found:
    from tavt_kit.checks import Artifact, check
    from tavt_kit.core.sealed import changed_since_check
    from tavt_kit.workflows.check_subjects import named

    assert thing is not None
    with named(thing) as file:
        changed = changed_since_check(file, thing.parent)
        opened = Artifact.open(file, request.target, preset=request.preset, schedule=request.schedule)
        whole = request.preset is None and request.schedule is None
        parts = opened.at_presets() if whole else (opened,)
        reports = [check(part, source, gate, dense=request.dense, progress=progress) for part in parts]
    return reports, [f"{changed}; this check takes the place of the old one"] if changed else []


def _check_run(
    thing: Path | None, source: Source, gate: Gate, request: _Request, progress: Callable[[int], None]
) -> _Found:
    from tavt_kit.checks import check
    from tavt_kit.workflows.check_subjects import open_run, refuse_other_split, schedule_from

    assert thing is not None
    schedule = schedule_from(request.schedule, source.adaptive, request.against)
    artifact = open_run(thing, schedule, request.target)
    refuse_other_split(thing, request.images, request.data)
    report = check(artifact, source, gate, dense=request.dense, progress=progress)
    return [report], [f"{thing} has the very weights of {request.against}"] if report.same_weights else []


def _check_predictions(
    thing: Path | None, source: Source, gate: Gate, request: _Request, progress: Callable[[int], None]
) -> _Found:
    from tavt_kit.checks import Predicted, check_predicted
    from tavt_kit.core.artifact_card import read_metadata
    from tavt_kit.workflows.check_subjects import named, schedule_from

    assert request.predictions is not None
    predicted = Predicted.read(request.predictions)
    card = None
    if thing is not None:
        with named(thing) as file:
            card = read_metadata(file).chosen(request.preset, request.schedule)
        schedule = card.schedule
    else:
        schedule = schedule_from(request.schedule or "dense", source.adaptive, request.against)
    of = f" of {thing.name}" if thing is not None else ""
    report = check_predicted(predicted, source, gate, schedule, card=card, dense=request.dense, progress=progress)
    return [report], [f"the logits{of} were made elsewhere ({predicted.device}); nothing was run here but the source"]


def _about(against: Path, source: Source, images: ImageSet, gate: Gate) -> dict[str, Any]:
    """What the check was made with."""
    return {
        "source": {
            "run": str(against),
            "name": source.card.name,
            "score": source.card.score,
            "weights_sha256": source.card.weights_sha256,
        },
        "data": {"name": images.name, "split": source.split, "images": len(source.samples), "sha256": images.sha256},
        "gate": gate.as_record(),
    }


def _write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Put the checks into ``check.json``, beside those of other files and in place of older ones of this file."""
    from tavt_kit.checks import CHECK_FILE, read_check, write_check
    from tavt_kit.core.host import HostFacts

    path = folder / CHECK_FILE
    others = read_check(path)["checks"] if path.exists() else []
    names = {record["artifact"] for record in records}
    entries = [*(entry for entry in others if entry["artifact"] not in names), *records]
    write_check(path, entries, {"host": HostFacts.gather().as_record(), "command": command_line()})
