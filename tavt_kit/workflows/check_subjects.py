"""What ``check`` can judge: an exported file, logits made elsewhere, or a run that was trained again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tavt_kit.checks import Artifact
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.data import ImageSet
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["named", "open_run", "promote_file", "refuse_other_split", "schedule_from"]


@contextmanager
def named(artifact: Path) -> Iterator[Path]:
    """The artifact under a name that a runtime opens; an unproven one is copied for the time being."""
    from tavt_kit.core.artifact_card import files_of
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


def promote_file(artifact: Path) -> None:
    """Give an unproven artifact its final name, and say so in the record of its export."""
    from tavt_kit.core.artifact_card import files_of
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


def open_run(run: Path, schedule: TokenSchedule, target: TargetDevice | None) -> Artifact:
    """A run that was trained again, at the schedule of the old one, ready to be checked against that.

    Raises:
        RecordError: It is no run.
        ScheduleError: The schedule does not fit it.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.checks import Artifact
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE
    from tavt_kit.exporters.writer import describe
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    model = load_model(run)
    card = describe(model, schedule)
    lean = LeanViT(model, schedule).eval()
    session = open_module(lean, target or TargetDevice("torch", "cpu"), (1, 3, *card.image_size))
    return Artifact(run.name, card, session, (run / CARD_FILE, run / WEIGHTS_FILE), retrained=True)


def schedule_from(given: str | None, model: AdaptiveViT, against: Path) -> TokenSchedule:
    """The schedule that ``--schedule`` names: its text, that of an exported file, or what a search chose.

    Args:
        given: A text such as ``taper:0.2``, an exported file or a search's folder; ``None`` is the folder ``against``.
        model: Which it must fit.
        against: The old run.

    Raises:
        ScheduleError: It cannot be read, or does not fit the model.
        RecordError: The folder holds no search result.
    """
    from tavt_kit.core.artifact_card import SUFFIXES, read_metadata
    from tavt_kit.workflows.picked import schedule_for

    if given is not None and Path(given).suffix in SUFFIXES.values():
        found = read_metadata(Path(given)).schedule
        found.check(tokens=model.tokens, layers=model.layers, prefix=model.prefix)
        return found
    if given is None or Path(given).is_dir():
        return schedule_for(against if given is None else Path(given), model, None, None)
    return schedule_for(against, model, given, None)


def refuse_other_split(run: Path, images: ImageSet, data: str | None) -> None:
    """Refuse a run that was trained on another division of the data: it may know the pictures that check it.

    Raises:
        DataError: It was.
    """
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.data.splits import SPLIT_FILE
    from tavt_kit.errors import DataError

    if (run / SPLIT_FILE).is_file() and inherited_images(run, data).sha256 != images.sha256:
        raise DataError(
            f"both runs must divide the data in the same way, but {run} was trained on another division, so that it "
            "may know the pictures that check it; train it with the old run's data and seed"
        )
