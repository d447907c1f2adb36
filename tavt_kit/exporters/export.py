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

from tavt_kit.checks import CHECK_FILE, Artifact, CheckReport, Source, check, write_check
from tavt_kit.checks.compare import save_examples
from tavt_kit.checks.source import image_counter
from tavt_kit.core.budget import Verdict, worst
from tavt_kit.core.codec import encode
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import UNFINISHED, command_line
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, thin_out
from tavt_kit.errors import ExportError, OutputError
from tavt_kit.exporters.exported import keep, promote, settle, status_of, sweep, write_exported
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
        source = Source(adaptive, samples, split, plan.allow_unreadable)
        about = _about(writer, source, plan, run)
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
                status = status_of(verdict, accept=plan.accept_inconclusive)
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
    presets = {name: list(schedule.counts) for name, schedule in card.presets.items()}
    return {
        "file": form.file,
        "format": form.format,
        "precision": form.precision,
        "schedule": list(card.schedule.counts),
        "presets": presets,
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
    }


def _about(writer: Writer, source: Source, plan: Plan, run: str) -> dict[str, Any]:
    """What every check of this export was made with."""
    return {**source.about(run, writer.images), "gate": plan.gate.as_record()}


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
