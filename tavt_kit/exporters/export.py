"""export: write each form under a temporary name, check it, and only then give it its name.

A FAIL leaves nothing under the final name, an INCONCLUSIVE file is kept as ``*.unproven`` unless that is accepted, and
``exported.json`` and ``check.json`` say of every file how it was made and what was found.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.checks import CHECK_FILE, Source, check, read_check, write_check
from tavt_kit.checks.compare import save_examples
from tavt_kit.checks.source import image_counter, images_beside
from tavt_kit.core.artifact_card import UNPROVEN, WEIGHTS_SUFFIX
from tavt_kit.core.budget import Verdict, worst
from tavt_kit.core.codec import encode
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import (
    UNFINISHED,
    atomic_path,
    command_line,
    no_room,
    read_record,
    reading,
    sha256_file,
    write_record,
)
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, thin_out
from tavt_kit.errors import ExportError, OutputError, RecordError
from tavt_kit.exporters.options import Form, Plan
from tavt_kit.exporters.preprocessing import OPSET
from tavt_kit.exporters.writer import Writer

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT

EXPORTED_FILE = "exported.json"
Entry = Mapping[str, Any]


def export(
    adaptive: AdaptiveViT,
    schedules: TokenSchedule | Mapping[str, TokenSchedule],
    images: ImageSet,
    out: Path,
    plan: Plan,
    *,
    run: str = "",
    fresh: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Entry], list[Entry]]:
    """Write a model at its schedules in every form of the plan, and check each file against it, as ``tk.export``.

    Args:
        schedules: The token counts to freeze; several by the labels of the plan's forms, or as the presets of a
            switchable file.

    Returns:
        Records of the files, as ``exported.json`` has them, and those of the checks; of a switchable file one for each
        preset.
    """
    progress = progress or Silent()
    images.require_classes(adaptive.require_card().classes)
    split = plan.split or images.held_out
    samples = thin_out(images.split(split), plan.limit)
    if run and Path(run).exists() and out.resolve() == Path(run).resolve():
        if any(form.format == "safetensors" for form in plan.forms):
            raise ExportError(
                f"{out} is the run itself, whose weights stay as they are; give safetensors another `out`"
            )
    with held_folder(out):
        named = {"": schedules} if isinstance(schedules, TokenSchedule) else schedules
        writer = Writer(adaptive, named, images, plan, progress)
        recipes = {form.file: _recipe(form, writer, plan, split) for form in plan.forms}
        entries, checks = _keep(out, recipes, fresh=fresh)
        _refuse_little_space(adaptive, out, [form.precision for form in plan.forms if form.file not in entries])
        source = Source(adaptive, samples, split, images_beside(images, split, plan.unlabelled))
        about = {**source.about(run, images), "gate": plan.gate.as_record()}

        def write_records() -> None:
            """After each file, so that a killed export loses one file at most."""
            host = HostFacts.gather().as_record()
            write_check(out / CHECK_FILE, [entry for made in checks.values() for entry in made], {"host": host})
            facts = {"source": about["source"], "host": host, "command": command_line()}
            write_exported(out, list(entries.values()), facts)

        with _space_left(out), tempfile.TemporaryDirectory(prefix=f"{UNFINISHED}export-", dir=out) as temporary:
            for form in plan.forms:
                if form.file in entries:
                    if plan.accept_inconclusive:
                        entries[form.file] = promote(out, entries[form.file])
                        write_records()
                    continue
                artifact = writer.write(form, Path(temporary))
                reports = []
                for part in artifact.at_presets():
                    count = image_counter(progress, part.name, len(samples) * (2 + plan.dense))
                    reports.append(check(part, source, plan.gate, dense=plan.dense, count=count))
                verdict = worst(report.verdict for report in reports)
                accept = plan.accept_inconclusive or all(report.is_taken for report in reports)
                status = status_of(verdict, accept=accept)
                entries[form.file] = {
                    **{name: getattr(form, name) for name in ("file", "format", "precision")},
                    "schedule": encode(artifact.card.schedule),
                    "presets": encode(artifact.card.presets),
                    "status": status,
                    "verdict": str(verdict),
                    "sha256": dict(reports[0].sha256),
                    "bytes": sum(file.stat().st_size for file in artifact.files),
                    "calibration": artifact.card.calibration,
                    "recipe": recipes[form.file],
                }
                for report in reports:
                    if report.losses is not None:
                        save_examples(report.losses, source.preprocessing, out)
                checks[form.file] = [{**encode(report), **about} for report in reports]
                _settle(artifact.files, out, status)
                write_records()
        # Weight files that no file has any more go.
        used = {name for entry in entries.values() if entry["status"] != "refused" for name in entry["sha256"]}
        for weights in out.glob(f"model*-????????{WEIGHTS_SUFFIX}"):
            if weights.name not in used:
                weights.unlink()
        files = [form.file for form in plan.forms]
        return [entries[file] for file in files], [entry for file in files for entry in checks[file]]


def _recipe(form: Form, writer: Writer, plan: Plan, split: str) -> dict[str, Any]:
    """What a file and its verdict depend on."""
    card = writer.card_of(form)
    return {
        "model": card.model.name,
        "weights": card.model.weights_sha256,
        "preprocessing": dict(card.preprocessing),
        "score": card.model.score,
        "pool": card.model.pool,
        **({} if card.model.reduction == "drop" else {"reduction": card.model.reduction}),
        "schedule": str(card.schedule),
        "presets": {name: str(schedule) for name, schedule in card.presets.items()} or None,
        "precision": card.precision,
        "calibration": None if card.calibration is None else dict(card.calibration),
        "data": writer.images.sha256,
        "split": split,
        "limit": plan.limit,
        "gate": plan.gate.as_record(),
        "dense": plan.dense,
        "target": None if plan.target is None else str(plan.target),
        "onnx": {"exporter": None, "opset": OPSET} if form.format == "onnx" and plan.pixels else None,
        "pixels": plan.pixels,
        **({} if plan.unlabelled is None else {"unlabelled": str(plan.unlabelled)}),
    }


def _refuse_little_space(adaptive: AdaptiveViT, out: Path, precisions: Sequence[str]) -> None:
    """Before any work: is there room for the files, and the f32 graph that the last of them is made from?"""
    weights = sum(weight.nbytes for weight in adaptive.state_dict().values())
    share = {"f32": 1.0, "f16": 0.5, "bf16": 0.5, "int8": 0.27}
    needed = weights * (sum(share[precision] for precision in precisions) + bool(precisions))
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OutputError(
            f"{out} has {free / 1e6:.0f} MB left, but {len(precisions)} files of this model need about "
            f"{needed / 1e6:.0f} MB; make room, or choose another `out`"
        )


@contextmanager
def _space_left(out: Path) -> Iterator[None]:
    """Space may run out on the way too: whatever a converter calls that becomes an OutputError."""
    try:
        yield
    except Exception as error:
        if reason := no_room(error):
            raise OutputError(f"no space is left in {out} ({reason}); make room, or choose another `out`") from None
        raise


def status_of(verdict: Verdict, *, accept: bool) -> str:
    """``final``, ``unproven`` or ``refused``; ``accept`` says whether INCONCLUSIVE is good enough.

    Example:
        >>> status_of(Verdict.INCONCLUSIVE, accept=False)
        'unproven'
    """
    if verdict is Verdict.PASS or (accept and verdict is Verdict.INCONCLUSIVE):
        return "final"
    return "refused" if verdict is Verdict.FAIL else "unproven"


def _settle(files: Sequence[Path], out: Path, status: str) -> None:
    """Move checked files (the one that is opened last) to where their status puts them; older ones of the names go."""
    own = [file for file in files if file.suffix != WEIGHTS_SUFFIX]
    # A weight file is named after its content and may belong to several artifacts, so it only ever comes.
    for file in files if status != "refused" else ():
        if file.suffix == WEIGHTS_SUFFIX and not (out / file.name).exists():
            try:
                (out / file.name).hardlink_to(file)
            except OSError:  # the file system has no such thing
                with atomic_path(out / file.name) as temporary:
                    shutil.copyfile(file, temporary)
    # What is opened goes first and comes last, so that no pair of an old and a new half is ever seen.
    for file in reversed(own):
        for name in (file.name, f"{file.name}{UNPROVEN}"):
            (out / name).unlink(missing_ok=True)
    for file in own if status != "refused" else ():
        file.replace(out / (file.name if status == "final" else f"{file.name}{UNPROVEN}"))


def promote(out: Path, entry: Entry) -> dict[str, Any]:
    """Give an unproven artifact its final name after all; the entry as it is then."""
    if entry["status"] == "unproven":
        for name in entry["sha256"]:  # in the order of ``settle``
            if not name.endswith(WEIGHTS_SUFFIX):
                (out / f"{name}{UNPROVEN}").replace(out / name)
    return {**entry, "status": "final" if entry["status"] == "unproven" else entry["status"]}


def write_exported(out: Path, entries: Sequence[Entry], body: Mapping[str, Any]) -> None:
    """Write ``exported.json``: an entry for each file, and the keys of ``body``."""
    write_record(out / EXPORTED_FILE, "exported", {**body, "artifacts": [dict(entry) for entry in entries]})


def read_exported(out: Path) -> dict[str, Any]:
    """Read ``exported.json``. Raises RecordError: it is not there, or is no export."""
    return read_record(out / EXPORTED_FILE, "exported")


def _keep(out: Path, recipes: Mapping[str, Entry], *, fresh: bool) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
    """What lies in the folder and stays: files of other names, and those made in the very same way.

    Returns:
        Entries of ``exported.json`` and of ``check.json``, by file name.
    """
    entries: dict[str, Entry] = {}
    checks: dict[str, list[Entry]] = {}
    if not (out / EXPORTED_FILE).exists():
        return entries, checks
    checked: dict[str, list[Entry]] = {}
    with reading(out / CHECK_FILE):
        for entry in read_check(out / CHECK_FILE)["checks"]:
            checked.setdefault(str(entry["artifact"]).partition(" (")[0], []).append(entry)
    with reading(out / EXPORTED_FILE):
        for entry in read_exported(out)["artifacts"]:
            name = entry["file"]
            if name in recipes:
                if fresh:
                    continue
                _refuse_other_recipe(out / name, entry["recipe"], recipes[name])
                suffix = UNPROVEN if entry["status"] == "unproven" else ""
                files = {
                    out / (file if file.endswith(WEIGHTS_SUFFIX) else f"{file}{suffix}"): digest
                    for file, digest in entry["sha256"].items()
                }
                whole = all(file.is_file() and sha256_file(file) == digest for file, digest in files.items())
                if entry["status"] == "refused" or not whole:
                    continue
            if name in checked:
                entries[name], checks[name] = entry, checked[name]
    return entries, checks


def _refuse_other_recipe(file: Path, old: Entry, recipe: Entry) -> None:
    def short(value: object) -> str:
        text = str(value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    if changed := sorted(key for key, value in recipe.items() if old.get(key) != value):
        listed = "; ".join(f"{key} was {short(old.get(key))} and is {short(recipe[key])}" for key in changed)
        raise RecordError(
            f"{file} was exported in another way ({listed}); choose another `out`, or `fresh` to replace it"
        )
