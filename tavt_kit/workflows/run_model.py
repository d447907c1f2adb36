"""What most workflows begin and end with: the given model, its images and the schedule that is meant; a run folder."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.parsing import several
from tavt_kit.core.records import read_record, reading, write_record
from tavt_kit.errors import DataError, ParameterError, RecordError
from tavt_kit.workflows.schedules import model_for, read_front, schedule_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.core.progress import Progress
    from tavt_kit.data import ImageSet
    from tavt_kit.data.loading import Arrays
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.models.wrap import AdaptiveViT
    from tavt_kit.reports import Plot

Given: TypeAlias = "str | os.PathLike[str] | AdaptiveViT"
"""A run folder or the result of an earlier step, which knows where it lies; or a wrapped model with its card. Where a
workflow says so, also a timm model's name."""


FIT_FILE = "fit.json"


@dataclass(frozen=True, slots=True, repr=False)
class RunResult:
    """A folder that was written, which can be given wherever a path can, and the content of its record."""

    folder: Path
    record: Mapping[str, Any] = field(hash=False)

    def __fspath__(self) -> str:
        """Where it lies."""
        return str(self.folder)


class ReportedRun(RunResult):
    """A run folder that holds a report."""

    __slots__ = ()

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def plot(self) -> Plot:
        """The report's chart; the value of a notebook's cell is drawn."""
        from tavt_kit.reports import plot

        return plot(self.folder)


@dataclass(frozen=True, slots=True)
class Recommended:
    """What stands for a fit's folder where a run or a file can be given: an exported file and what it was made of."""

    file: Path
    run: Path
    configuration: Configuration


def recommended_of(given: object, progress: Progress | None = None, pick: str | None = None) -> Recommended | None:
    """What the fit in a folder recommends, which ``progress`` is told; None of anything else that a workflow is given.

    Another row of its table is picked as dense, dense-int8, best-smaller-image, fastest-tolerated, or an index.
    """
    if (fit_file := _fit_file(given)) is None:
        return None
    folder = fit_file.parent
    with reading(fit_file):
        record = read_record(fit_file, "fit")
        file, index, why = recommended_file(folder, record), record["recommended"], "what its fit recommends"
        indices = {role.lower().replace(" ", "-"): shown for role, shown in record["shown"].items()}
        if pick is not None:
            indices |= {str(index): index for index in range(len(record["rows"]))}
            if pick not in indices:
                raise RecordError(f"of the fit in {folder} `pick` takes {', '.join(indices)}, got {pick!r}")
            index, why = indices[pick], f"the row {pick} of its fit"
            file = folder / record["rows"][index]["file"]
        if file is None:
            raise RecordError(
                f"the fit in {folder} recommends nothing, so `pick` one of its rows ({', '.join(indices)}): "
                f"{record['advice']}"
            )
        row = record["rows"][index]
        recommended = Recommended(file, folder / row["run"], Configuration.from_record(row["configuration"]))
    if progress is not None:
        progress.say(f"{folder} stands for {why}: {row['name']}")
    return recommended


def run_of_fit(given: object) -> Path | None:
    """The run that a fit's folder stands for: what it recommends was made of it, else its dense row."""
    if (file := _fit_file(given)) is None:
        return None
    with reading(file):
        record = read_record(file, "fit")
        index = record["recommended"]
        row = record["rows"][record["shown"]["dense"] if index is None else index]
        return file.parent / str(row["run"])


def _fit_file(given: object) -> Path | None:
    """``fit.json`` of a fit's folder; None of anything else."""
    file = Path(given) / FIT_FILE if isinstance(given, str | os.PathLike) else None
    return file if file is not None and file.is_file() else None


def recommended_file(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The file that a fit's folder with this ``fit.json`` ships; None where nothing keeps to its budget."""
    index = record["recommended"]
    return None if index is None else folder / "recommended" / f"model{Path(record['rows'][index]['file']).suffix}"


def files_below(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Images, and those below folders; raises DataError where a folder holds none."""
    from tavt_kit.data.folders import images_below

    paths = map(Path, several(images))
    return [file for path in paths for file in (images_below(path) if path.is_dir() else [path])]


def name_of(given: Given) -> str:
    """As the user named it; a wrapped model by its card."""
    return os.fspath(given) if isinstance(given, str | os.PathLike) else given.require_card().name


def load_given(given: Given, *, copied: bool = False) -> AdaptiveViT:
    """The model of a run folder; of a wrapped model another wrap with its options, card and schedule, in eval mode.

    A fit's folder stands for the run that its recommended file was made of; where there is none, for its dense row's.
    Weights of a wrapped model, which must have a card, are shared unless it is ``copied``.
    """
    if isinstance(given, str | os.PathLike):
        from tavt_kit.checkpoints import load_model

        return load_model(run_of_fit(given) or given)
    given.require_card()
    if copied:
        return copy.deepcopy(given).cpu().eval()
    other = given.again()
    other.schedule = given.schedule
    return other.eval()


def open_given(
    given: Given,
    *,
    weights: str | None = None,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    seed: int = 0,
    new_head: bool = False,
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
    copied: bool = False,
) -> AdaptiveViT:
    """As ``load_given``, of a name too, and with other options than the model's own.

    The weights (``hub`` by default) are those of a model given by name, as ``build`` takes them; the classes name the
    head of one, or of a run whose head may be replaced (``new_head``).
    """
    if isinstance(given, str | os.PathLike):
        from tavt_kit.checkpoints import open_model

        return open_model(
            os.fspath(run_of_fit(given) or given), weights=weights or "hub", classes=classes,
            image_size=image_size, seed=seed, new_head=new_head, score=score, pool=pool, reduction=reduction,
        ).eval()  # fmt: skip
    for name, value in (("weights", weights), ("image_size", image_size)):
        if value is not None:
            raise ParameterError(
                f"`weights` and `image_size` are for a model given by name or folder, and a wrapped model keeps its "
                f"own, got `{name}` {value}; leave it out"
            )
    model = load_given(given, copied=copied)
    model.score, model.pool = score or model.score, pool or model.pool
    model.reduction = reduction or model.reduction
    return model


def images_of(folder: Path | None, data: str | Path | None) -> ImageSet:
    """The images and the split that a run was made with, or those given: where the images were moved to, maybe."""
    from tavt_kit.data import load_images
    from tavt_kit.data.sources import inherited_images

    spec = None if data is None else str(data)
    if folder is not None:
        return inherited_images(folder, spec)
    if spec is None:
        raise DataError("a model that lies in no run folder does not say on which data it was made; give `data` too")
    return load_images(spec)


def model_at(
    run: Given, schedule: str | Choice | None, progress: Progress, pick: str | None = None
) -> tuple[AdaptiveViT, Configuration]:
    """A run's model at the schedule that is meant: the given or picked one, else what a search in that folder chose.

    A choice may be of another image size or score, and is taken whole; ``progress`` is told of it. Without a search the
    model keeps the schedule it has: the dense one, unless its card names another. ``pick`` is a candidate of the
    search's front, or a row of a fit's table.
    """
    if schedule is None and (fitted := recommended_of(run, progress, pick)) is not None:
        run, schedule, pick = fitted.run, fitted.configuration.choice, None
    model = load_given(run)
    folder = model.folder if isinstance(run, str | os.PathLike) else None  # the caller's own keeps its schedule
    if schedule is None and pick is None:
        front = None if folder is None else read_front(folder)
        if front is None:
            return model, Configuration(model.schedule)
        if front.get("chosen") is None:
            progress.say(f"the search in {folder} chose no schedule, so the model runs under {model.schedule}")
            return model, Configuration(model.schedule)
    meant = Configuration.of(schedule_for(folder, model, schedule, pick))
    model = model_for(folder, model, {"": meant})
    model.schedule = meant.schedule
    runs = replace(meant, precision=None)  # in which precision it runs is the target's matter
    if schedule is None:
        whose = "which its search chose; the schedule dense drops nothing" if pick is None else f"as `pick` {pick} says"
        progress.say(f"{folder} runs under {runs}, {whose}")
    return model, runs


def read_derived(
    out: Path, kind: str, request: Mapping[str, Any], *, made: str, fresh: bool
) -> Mapping[str, Any] | None:
    """The record of the same call's run in ``out``; None where there is none, or it is to be made afresh.

    Its kind is the name of its file and the verb that writes it; it repeats the request, which decides the run. What
    was ``made``, such as pruned, is for messages.
    """
    from tavt_kit.checkpoints import is_run

    file = out / f"{kind}.json"
    if not is_run(out):
        return None
    if not file.is_file():
        raise RecordError(f"{out} is a run that {kind} did not write; choose another `out`")
    if fresh:
        return None
    with reading(file):
        known = read_record(file, kind)
        recorded = dict(known["request"])
    if differing := [name for name, value in request.items() if recorded.get(name) != value]:
        raise RecordError(
            f"{out} was {made} with another {', '.join(differing)}; choose another `out`, or start again with "
            "`fresh=True`"
        )
    return known


def write_derived(
    out: Path, kind: str, record: Mapping[str, Any], images: ImageSet, model: AdaptiveViT, card: ModelCard
) -> Mapping[str, Any]:
    """Write record, split and model, in place of what ``out`` holds; the record with its schema.

    The card comes last: a folder without one is no run yet, and the same command starts again.
    """
    from tavt_kit.checkpoints import save_model
    from tavt_kit.data import inherit_split

    for name in ("model.json", "model.safetensors", "split.json"):
        (out / name).unlink(missing_ok=True)
    written = write_record(out / f"{kind}.json", kind, dict(record))
    inherit_split(out, images)
    save_model(out, model, card)
    return written


def top1_on_val(
    model: AdaptiveViT, read: Arrays, preprocessing: Preprocessing
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """The record of a dense model's top-1 on these images of val, and which of them it has right."""
    from tavt_kit.evaluation.evaluator import Evaluator

    right = Evaluator(model, *read, preprocessing).correct(model.dense_schedule)
    return Accuracy.of_counts(int(right.sum()), len(right), split="val").as_record(), right
