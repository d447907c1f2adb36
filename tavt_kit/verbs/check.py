"""``fgvc-kit check``: is this file still that model? Asked of real images."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.export import Accept, CheckSplit, Dense, Drop, FileTarget, print_checks

__all__ = ["check_verb"]

ArtifactFile = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An .onnx or .xml file, or *.unproven.")]
Against = Annotated[Path, typer.Option(help="The run it was exported from.")]
CheckOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of check.json. [default: where the artifact lies]")
]


def check_verb(
    artifact: ArtifactFile,
    against: Against,
    data: options.Data = None,
    split: CheckSplit = None,
    limit: options.Limit = None,
    drop: Drop = 0.5,
    schedule: options.Schedule = None,
    preset: options.Preset = None,
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
    lose --drop points of top-1, decided by the paired 95 % interval. A *.unproven file that passes gets its final name;
    no file is removed. Exits 1 unless the verdict is PASS, or INCONCLUSIVE and accepted.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.checks import Artifact, Gate, Source, check
    from tavt_kit.data import thin_out
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.device import TargetDevice
    from tavt_kit.errors import RecordError
    from tavt_kit.exporters.exported import status_of
    from tavt_kit.records import make_folder
    from tavt_kit.verbs.progress import watching
    from tavt_kit.verdict import worst

    if not artifact.is_file():
        raise RecordError(f"there is no file {artifact} to check; export one first (fgvc-kit export)")
    folder = make_folder(out or artifact.parent)
    model = load_model(against)
    images = inherited_images(against if against.is_dir() else against.parent, data)
    chosen = split or images.held_out
    source = Source(model, thin_out(images.split(chosen), limit), chosen, allow_unreadable)
    gate = Gate(drop=drop / 100)
    with _named(artifact) as file, watching(f"checking {file.name}") as tell:
        device = None if target is None else TargetDevice.parse(target)
        opened = Artifact.open(file, device, preset=preset, schedule=schedule)
        whole = preset is None and schedule is None
        parts = opened.at_presets() if whole else (opened,)
        done, total = 0, len(source.samples) * (2 + dense) * len(parts)

        def progress(count: int) -> None:
            nonlocal done
            done += count
            tell(f"checking {file.name}", min(1.0, done / total))

        reports = [check(part, source, gate, dense=dense, progress=progress) for part in parts]
    about = {
        "source": {
            "run": str(against),
            "name": source.card.name,
            "score": source.card.score,
            "weights_sha256": source.card.weights_sha256,
        },
        "data": {"name": images.name, "split": chosen, "images": len(source.samples), "sha256": images.sha256},
        "gate": gate.as_record(),
    }
    records = [{**report.as_record(), **about} for report in reports]
    _write(folder, records)
    status = status_of(worst(report.verdict for report in reports), accept=accept_inconclusive)
    if status == "final" and whole:
        _promote(artifact)
    if as_json:
        print(json.dumps(records[0] if len(records) == 1 else records))
    else:
        print_checks(records)
        if not reports[0].same_weights:
            print(f"{artifact.name} was made from other weights than those of {against}")
    return 0 if status == "final" else 1


@contextmanager
def _named(artifact: Path) -> Iterator[Path]:
    """The artifact under a name that a runtime opens; an unproven one is linked or copied for the time being."""
    from tavt_kit.artifact_card import files_of
    from tavt_kit.exporters.exported import UNPROVEN

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


def _promote(artifact: Path) -> None:
    """Give an unproven artifact its final name, and say so in the record of its export."""
    from tavt_kit.artifact_card import files_of
    from tavt_kit.errors import RecordError
    from tavt_kit.exporters.exported import UNPROVEN, promote, read_exported, write_exported

    if artifact.suffix != UNPROVEN:
        return
    folder, name = artifact.parent, artifact.with_suffix("").name
    try:
        body = read_exported(folder)
    except RecordError:
        body = {"artifacts": []}
    if all(entry["file"] != name for entry in body["artifacts"]):
        for file in files_of(artifact.with_suffix("")):
            if Path(f"{file}{UNPROVEN}").is_file():
                Path(f"{file}{UNPROVEN}").replace(file)
        return
    entries = [promote(folder, entry) if entry["file"] == name else entry for entry in body["artifacts"]]
    rest = {key: value for key, value in body.items() if key not in ("schema", "version", "artifacts")}
    write_exported(folder, entries, rest)


def _write(folder: Path, records: list[dict[str, Any]]) -> None:
    """Put the checks into ``check.json``, beside those of other files and in place of older ones of this file."""
    from tavt_kit.checks import CHECK_FILE, read_check, write_check
    from tavt_kit.host import HostFacts

    path = folder / CHECK_FILE
    others = read_check(path)["checks"] if path.exists() else []
    names = {record["artifact"] for record in records}
    entries = [*(entry for entry in others if entry["artifact"] not in names), *records]
    write_check(path, entries, {"host": HostFacts.gather().as_record()})
