"""export: write each form under a temporary name, check it, and only then give it its name.

A FAIL leaves nothing under the final name, an INCONCLUSIVE file is kept as ``*.unproven`` unless that is accepted, and
``exported.json`` and ``check.json`` say of every file how it was made and what was found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.checks import CHECK_FILE, Gate, Source, check, write_check
from tavt_kit.data import ImageSet, thin_out
from tavt_kit.device import TargetDevice
from tavt_kit.errors import ExportError
from tavt_kit.exporters.exported import keep, promote, settle, status_of, write_exported
from tavt_kit.exporters.forms import Form
from tavt_kit.exporters.quantize import DEFAULT_IMAGES
from tavt_kit.exporters.writer import Tell, Writer, silent
from tavt_kit.host import HostFacts
from tavt_kit.records import make_folder
from tavt_kit.schedule import TokenSchedule

if TYPE_CHECKING:
    from tavt_kit.adaptive import AdaptiveViT

__all__ = ["Exported", "Plan", "export"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to export and how to judge it.

    Args:
        forms: The files.
        gate: What they may lose.
        split: Of the check's images; ``None`` takes ``test``, else ``val``.
        limit: Images of the check; ``None`` takes all.
        calibrate: Training images that int8 is calibrated on.
        dense: Whether to compare with the dense model too.
        accept_inconclusive: Whether an INCONCLUSIVE file gets its final name.
        allow_unreadable: Pictures that may be skipped.
        target: Where the files are run; ``None`` for each one's own runtime on the CPU.
    """

    forms: tuple[Form, ...]
    gate: Gate = Gate()
    split: str | None = None
    limit: int | None = None
    calibrate: int = DEFAULT_IMAGES
    dense: bool = True
    accept_inconclusive: bool = False
    allow_unreadable: int = 0
    target: TargetDevice | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export left.

    Args:
        folder: Where.
        entries: One for each form, as ``exported.json`` has them.
        checks: Their checks, as ``check.json`` has them.
    """

    folder: Path
    entries: tuple[Mapping[str, Any], ...]
    checks: tuple[Mapping[str, Any], ...]

    @property
    def settled(self) -> bool:
        """Whether every file got its final name."""
        return all(entry["status"] == "final" for entry in self.entries)


def export(
    adaptive: AdaptiveViT,
    schedule: TokenSchedule,
    images: ImageSet,
    out: Path,
    plan: Plan,
    *,
    run: str = "",
    fresh: bool = False,
    tell: Tell = silent,
) -> Exported:
    """Write a model at a schedule in every form of the plan, and check each file against the model.

    A file that is there already, made and checked in the very same way, is kept.

    Args:
        adaptive: From ``load_model``.
        schedule: The token counts to freeze.
        images: The model's pictures: ``train`` calibrates, another split checks.
        out: The folder.
        plan: What and how.
        run: Where the model came from, for the records.
        fresh: Make again what is there, and replace what was made in another way.
        tell: Told how far things are.

    Raises:
        ExportError: A converter or quantizer refuses the model.
        RecordError: ``out`` holds files made in another way, and ``fresh`` is not set.
        DataError: Too many pictures cannot be read, or there is no such split.
        OutputError: ``out`` cannot be written.
    """
    split = plan.split or images.held_out
    samples = thin_out(images.split(split), plan.limit)
    _refuse_own_folder(out, run, plan)
    make_folder(out)
    writer = Writer(adaptive, schedule, images, plan.calibrate, plan.allow_unreadable, plan.target, tell)
    recipes = {form.file: _recipe(form, writer, plan, split) for form in plan.forms}
    entries, checks = keep(out, recipes, fresh=fresh)
    source = Source(adaptive, samples, split, plan.allow_unreadable)
    about = _about(writer, source, plan, run)
    for form in plan.forms:
        if form.file in entries:
            if plan.accept_inconclusive:
                entries[form.file] = promote(out, entries[form.file])
                _write(out, entries, checks, about)
            continue
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as temporary:
            artifact = writer.write(form, Path(temporary))
            report = check(artifact, source, plan.gate, dense=plan.dense, progress=_counter(tell, form, source, plan))
            status = status_of(report.verdict, accept=plan.accept_inconclusive)
            size = sum(file.stat().st_size for file in artifact.files)
            settle(artifact.files, out, status)
        checks[form.file] = {**report.as_record(), **about}
        entries[form.file] = {
            "file": form.file,
            "format": form.format,
            "precision": form.precision,
            "schedule": list(schedule.counts),
            "status": status,
            "verdict": str(report.verdict),
            "sha256": dict(report.sha256),
            "bytes": size,
            "calibration": artifact.card.calibration,
            "recipe": recipes[form.file],
        }
        _write(out, entries, checks, about)
    return Exported(out, tuple(entries[f.file] for f in plan.forms), tuple(checks[f.file] for f in plan.forms))


def _write(
    out: Path,
    entries: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    """Both records, after each file, so that a killed export loses one file at most."""
    host = HostFacts.gather().as_record()
    write_check(out / CHECK_FILE, list(checks.values()), {"host": host})
    write_exported(out, list(entries.values()), {"source": about["source"], "host": host})


def _refuse_own_folder(out: Path, run: str, plan: Plan) -> None:
    """A run must not be overwritten by its own export."""
    same = bool(run) and Path(run).exists() and Path(out).resolve() == Path(run).resolve()
    if same and any(form.format == "safetensors" for form in plan.forms):
        raise ExportError(f"{out} is the run itself, whose weights stay as they are; give safetensors another --out")


def _recipe(form: Form, writer: Writer, plan: Plan, split: str) -> dict[str, Any]:
    """What a file and its verdict depend on."""
    card = writer.card_of(form)
    return {
        "model": card.model.name,
        "weights": card.model.weights_sha256,
        "preprocessing": dict(card.preprocessing),
        "score": card.model.score,
        "pool": card.model.pool,
        "schedule": str(card.schedule),
        "precision": card.precision,
        "calibration": None if card.calibration is None else dict(card.calibration),
        "data": writer.images.sha256,
        "split": split,
        "limit": plan.limit,
        "gate": plan.gate.as_record(),
        "dense": plan.dense,
        "target": None if plan.target is None else str(plan.target),
    }


def _about(writer: Writer, source: Source, plan: Plan, run: str) -> dict[str, Any]:
    """What every check of this export was made with."""
    card, images = source.card, writer.images
    return {
        "source": {"run": run, "name": card.name, "score": card.score, "weights_sha256": card.weights_sha256},
        "data": {
            "name": images.name,
            "split": source.split,
            "images": len(source.samples),
            "sha256": images.sha256,
        },
        "gate": plan.gate.as_record(),
    }


def _counter(tell: Tell, form: Form, source: Source, plan: Plan) -> Callable[[int], None]:
    """Counts images of the passes over artifact, source and dense source; what was run before is not run again."""
    done, total = 0, len(source.samples) * (2 + plan.dense)

    def count(images: int) -> None:
        nonlocal done
        done += images
        tell(f"checking {form.file}", min(1.0, done / total))

    return count
