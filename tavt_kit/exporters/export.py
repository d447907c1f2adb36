"""export: write each form under a temporary name, check it, and only then give it its name.

A FAIL leaves nothing under the final name, an INCONCLUSIVE file is kept as ``*.unproven`` unless that is accepted, and
``exported.json`` and ``check.json`` say of every file how it was made and what was found.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.checks import CHECK_FILE, Artifact, CheckReport, Source, check, read_check, write_check
from tavt_kit.checks.compare import save_examples
from tavt_kit.checks.source import image_counter, images_beside
from tavt_kit.core.artifact_card import UNPROVEN, WEIGHTS_SUFFIX
from tavt_kit.core.budget import Verdict, worst
from tavt_kit.core.codec import encode
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import UNFINISHED, atomic_path, command_line, read_record, sha256_file, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, thin_out
from tavt_kit.errors import ExportError, OutputError, RecordError
from tavt_kit.exporters.options import Exported, Form, Plan
from tavt_kit.exporters.writer import Writer

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT


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
) -> Exported:
    """Write a model at its schedules in every form of the plan, and check each file against the model.

    A file that is there already, made and checked in the very same way, is kept.

    Args:
        adaptive: From ``load_model``.
        schedules: The token counts to freeze; several by the labels of the plan's forms, or as the presets of a
            switchable file.
        images: The model's images: ``train`` calibrates, another split checks.
        out: The folder.
        plan: What and how.
        run: Where the model came from, for the records.
        fresh: Make again what is there, and replace what was made in another way.
        progress: Told how far things are.

    Raises:
        ExportError: A converter or quantizer refuses the model.
        RecordError: ``out`` holds files made in another way, and ``fresh`` is not set.
        DataError: The images are of other classes, too many cannot be read, or there is no such split.
        OutputError: ``out`` cannot be written, or has too little space left.
    """
    progress = progress or Silent()
    images.require_classes(adaptive.require_card().classes)
    split = plan.split or images.held_out
    samples = thin_out(images.split(split), plan.limit)
    refuse_own_folder(out, run, plan.forms)
    with held_folder(out):
        named = {"": schedules} if isinstance(schedules, TokenSchedule) else schedules
        writer = Writer(adaptive, named, images, plan, progress)
        recipes = {form.file: _recipe(form, writer, plan, split) for form in plan.forms}
        entries, checks = keep(out, recipes, fresh=fresh)
        if plan.share and any(form.format == "onnx" and form.file not in entries for form in plan.forms):
            # The weights they share come of the first of them.
            for form in plan.forms:
                if form.format == "onnx":
                    entries.pop(form.file, None)
                    checks.pop(form.file, None)
        refuse_little_space(adaptive, out, [form for form in plan.forms if form.file not in entries])
        source = Source(adaptive, samples, split, plan.allow_unreadable, images_beside(images, split, plan.unlabelled))
        about = {**source.about(run, images), "gate": plan.gate.as_record()}
        with space_left(out), tempfile.TemporaryDirectory(prefix=f"{UNFINISHED}export-", dir=out) as temporary:
            for form in plan.forms:
                if form.file in entries:
                    if plan.accept_inconclusive:
                        entries[form.file] = promote(out, entries[form.file])
                        _write(out, entries, checks, about)
                    continue
                artifact = writer.write(form, Path(temporary))
                reports = []
                for part in artifact.at_presets():
                    count = image_counter(progress, part.name, len(samples) * (2 + plan.dense))
                    reports.append(check(part, source, plan.gate, dense=plan.dense, count=count))
                verdict = worst(report.verdict for report in reports)
                accept = plan.accept_inconclusive or all(report.is_taken for report in reports)
                status = status_of(verdict, accept=accept)
                entries[form.file] = _entry(form, artifact, reports, verdict, status) | {"recipe": recipes[form.file]}
                for report in reports:
                    if report.losses is not None:
                        save_examples(report.losses, source.preprocessing, out)
                checks[form.file] = [{**encode(report), **about} for report in reports]
                settle(artifact.files, out, status)
                _write(out, entries, checks, about)
        sweep(out, list(entries.values()))
        found = [one for form in plan.forms for one in checks[form.file]]
        return Exported(out, tuple(entries[form.file] for form in plan.forms), tuple(found))


def _entry(form: Form, artifact: Artifact, reports: list[CheckReport], verdict: Verdict, status: str) -> dict[str, Any]:
    """What ``exported.json`` says of a file."""
    card = artifact.card
    return {
        **{name: getattr(form, name) for name in ("file", "format", "precision")},
        "schedule": encode(card.schedule),
        "presets": encode(card.presets),
        "status": status,
        "verdict": str(verdict),
        "sha256": dict(reports[0].sha256),
        "bytes": sum(file.stat().st_size for file in artifact.files),
        "calibration": card.calibration,
    }


def _write(
    out: Path,
    entries: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, list[Mapping[str, Any]]],
    about: Mapping[str, Any],
) -> None:
    """Both records, after each file, so that a killed export loses one file at most."""
    host = HostFacts.gather().as_record()
    write_check(out / CHECK_FILE, [one for found in checks.values() for one in found], {"host": host})
    write_exported(out, list(entries.values()), {"source": about["source"], "host": host, "command": command_line()})


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
        "onnx": plan.onnx.as_record() if form.format == "onnx" else None,
        "tensorrt": plan.tensorrt or None,
        "share": (form.format == "onnx" and plan.share) or None,
        "pixels": plan.pixels,
        **({} if plan.unlabelled is None else {"unlabelled": str(plan.unlabelled)}),
    }


def refuse_little_space(adaptive: AdaptiveViT, out: Path, forms: Sequence[Form]) -> None:
    """Before any work: is there room for the files, and the f32 graph that the last of them is made from?

    Raises:
        OutputError: There is not.
    """
    weights = sum(weight.numel() * weight.element_size() for weight in adaptive.state_dict().values())
    share = {"f32": 1.0, "f16": 0.5, "bf16": 0.5, "int8": 0.27, "w8": 0.3}
    needed = sum(weights * share[form.precision] for form in forms) + (weights if forms else 0)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OutputError(
            f"{out} has {free / 1e6:.0f} MB left, but {len(forms)} files of this model need about "
            f"{needed / 1e6:.0f} MB; make room, or choose another `out`"
        )


@contextmanager
def space_left(out: Path) -> Iterator[None]:
    """Space may run out on the way too: whatever a converter calls that becomes an OutputError."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise OutputError(f"no space is left in {out}; make room, or choose another `out`") from None
        raise


def refuse_own_folder(out: Path, run: str, forms: Sequence[Form]) -> None:
    """A run must not be overwritten by its own export.

    Raises:
        ExportError: Safetensors would go into the very folder they come from.
    """
    same = bool(run) and Path(run).exists() and Path(out).resolve() == Path(run).resolve()
    if same and any(form.format == "safetensors" for form in forms):
        raise ExportError(f"{out} is the run itself, whose weights stay as they are; give safetensors another `out`")


EXPORTED_FILE = "exported.json"

Entry = Mapping[str, Any]


def status_of(verdict: Verdict, *, accept: bool) -> str:
    """``final``, ``unproven`` or ``refused``; ``accept`` says whether INCONCLUSIVE is good enough.

    Example:
        >>> status_of(Verdict.INCONCLUSIVE, accept=False)
        'unproven'
    """
    if verdict is Verdict.PASS or (accept and verdict is Verdict.INCONCLUSIVE):
        return "final"
    return "refused" if verdict is Verdict.FAIL else "unproven"


def settle(files: Sequence[Path], out: Path, status: str) -> None:
    """Move checked files to where their status puts them; older files of these names go.

    Args:
        files: Files under temporary names; the one that is opened last.
    """
    own = [file for file in files if file.suffix != WEIGHTS_SUFFIX]
    # A weight file is named after its content and may belong to several artifacts, so it only ever comes.
    for file in files if status != "refused" else ():
        if file.suffix == WEIGHTS_SUFFIX and not (out / file.name).exists():
            _link(file, out / file.name)
    # What is opened goes first and comes last, so that no pair of an old and a new half is ever seen.
    for file in reversed(own):
        for name in (file.name, f"{file.name}{UNPROVEN}"):
            (out / name).unlink(missing_ok=True)
    for file in own if status != "refused" else ():
        file.replace(out / (file.name if status == "final" else f"{file.name}{UNPROVEN}"))


def _link(file: Path, path: Path) -> None:
    """A second name for a file; a copy of it where the file system has no such thing."""
    try:
        path.hardlink_to(file)
    except OSError:
        with atomic_path(path) as temporary:
            shutil.copyfile(file, temporary)


def promote(out: Path, entry: Entry) -> dict[str, Any]:
    """Give an unproven artifact its final name after all; the entry as it is then."""
    if entry["status"] == "unproven":
        for name in entry["sha256"]:  # in the order of ``settle``
            if not name.endswith(WEIGHTS_SUFFIX):
                (out / f"{name}{UNPROVEN}").replace(out / name)
    return {**entry, "status": "final" if entry["status"] == "unproven" else entry["status"]}


def write_exported(out: Path, entries: Sequence[Entry], body: Mapping[str, Any]) -> None:
    """Write ``exported.json``.

    Args:
        entries: One for each file: ``file format precision schedule status verdict sha256 bytes calibration recipe``.
    """
    write_record(out / EXPORTED_FILE, "exported", {**body, "artifacts": [dict(entry) for entry in entries]})


def sweep(out: Path, entries: Sequence[Entry]) -> None:
    """Remove weight files that no entry has any more."""
    used = {name for entry in entries if entry["status"] != "refused" for name in entry["sha256"]}
    for file in out.glob(f"model*-????????{WEIGHTS_SUFFIX}"):
        if file.name not in used:
            file.unlink()


def read_exported(out: Path) -> dict[str, Any]:
    """Read ``exported.json``.

    Raises:
        RecordError: It is not there, or is no export.
    """
    return read_record(out / EXPORTED_FILE, "exported")


def keep(out: Path, recipes: Mapping[str, Entry], *, fresh: bool) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
    """What lies in the folder and stays: files of other names, and those made in the very same way.

    Returns:
        Entries of ``exported.json`` and of ``check.json``, by file name; a switchable file has a check for each preset.

    Raises:
        RecordError: A file was made in another way, and ``fresh`` is not set; the message lists the differences.
    """
    entries: dict[str, Entry] = {}
    checks: dict[str, list[Entry]] = {}
    if not (out / EXPORTED_FILE).exists():
        return entries, checks
    found: dict[str, list[Entry]] = {}
    for entry in read_check(out / CHECK_FILE)["checks"]:
        found.setdefault(str(entry["artifact"]).partition(" (")[0], []).append(entry)
    for entry in read_exported(out)["artifacts"]:
        name = entry["file"]
        if name in recipes and (fresh or not _stays(out, entry, recipes[name])):
            continue
        if name in found:
            entries[name], checks[name] = entry, found[name]
    return entries, checks


def _stays(out: Path, entry: Entry, recipe: Entry) -> bool:
    """Whether a file made in the same way is there, whole."""
    old = entry["recipe"]
    changed = sorted(key for key, value in recipe.items() if old.get(key) != value)
    if changed:
        listed = "; ".join(f"{key} was {_short(old.get(key))} and is {_short(recipe[key])}" for key in changed)
        raise RecordError(
            f"{out / entry['file']} was exported in another way ({listed}); choose another `out`, or `fresh` to "
            "replace it"
        )
    suffix = UNPROVEN if entry["status"] == "unproven" else ""
    files = {
        out / (name if name.endswith(WEIGHTS_SUFFIX) else f"{name}{suffix}"): digest
        for name, digest in entry["sha256"].items()
    }
    return entry["status"] != "refused" and all(f.is_file() and sha256_file(f) == d for f, d in files.items())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
