"""distill: a fine-tuned model taught to work with dropped patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded, parse_duration, several
from tavt_kit.core.progress import Progress
from tavt_kit.errors import OutputError, ParameterError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import Given, images_of, load_given
from tavt_kit.workflows.train import TrainResult

if TYPE_CHECKING:
    from tavt_kit.core.schedule import TokenSchedule

CONTROL = "control"
"""Folder below a distilled run, of the same steps by the labels alone."""


@dataclass(frozen=True, slots=True, repr=False)
class DistillResult(TrainResult):
    """A run that was distilled."""

    def to_frame(self) -> Frame:
        """A line for each schedule: its multiply-adds, and top-1 on val before, after, and their difference."""
        rows = []
        for old, new in zip(*(self.record["results"][when] for when in ("before", "after")), strict=True):
            difference, (low, high) = new["difference"]["difference"], new["difference"]["ci95"]
            accuracies = {"before": old["accuracy"]["value"], "after": new["accuracy"]["value"]}
            about = {"schedule": new["name"], "macs": new["macs"]}
            rows.append({**about, **accuracies, "difference": difference, "low": low, "high": high})
        return frame(rows)


@bounded
def distill(
    model: Given,
    out: Path | str,
    data: str | Path | None = None,
    *,
    recipe: str | Path = "modern",
    schedule: str | TokenSchedule | Sequence[str | TokenSchedule] = (),
    schedules: str | PathLike[str] | None = None,
    teacher: Given | None = None,
    score: str | None = None,
    reduction: str | None = None,
    device: str | None = None,
    seed: int = 0,
    save_every: str | float = "60s",
    control: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> DistillResult:
    """Distil a fine-tuned model into itself with patch drop, so that dropped schedules keep its accuracy.

    Each step trains the full network by its family's loss, and the smallest and random sub-networks towards it (the
    sandwich rule); ``schedules`` takes the sub-networks from a search's front, so that distil, search, distil again
    trains what was found. Images and split are those the model was trained on; other data is refused. The accuracy of a
    fixed ladder of schedules on val is recorded before and after; ``evaluate_every`` selects by the mean over it.
    Writes a run folder, and continues one that was interrupted.

    Args:
        model: A run folder, for example of ``train``, or a wrapped model with its card, which stays as it is.
        out: The run folder to write.
        data: Source of the images, if they were moved.
        recipe: modern (AdamW), merge (for that ``reduction``, from a fine-tune), tavt (the official SGD with layer
            dropout, bound 0.2), or a TOML file.
        schedule: Sub-networks to train in place of random ones, as schedules or their texts.
        schedules: A search, its run folder or ``front.json``, whose schedules are such sub-networks, too.
        teacher: A run or wrapped model of the same classes to learn from beside the labels.
        score: Score that ranks the tokens; by default the model's.
        reduction: Such as drop or merge; by default the model's.
        device: cpu or cuda[:N]; a GPU by default if there is one.
        seed: Seed of everything random.
        save_every: Time between two saved states.
        control: Whether to take the same steps by the labels alone, with no sub-network: what fine-tuning gives without
            distillation. In ``out/control`` of a distilled run it stands beside it in the report.
        fresh: Whether to start again whatever ``out`` holds.
        progress: Told of the stages, their steps and losses.
        changes: Values in place of the recipe's, by the names that ``distill_recipe`` takes: ``steps``, ``bound``,
            ``lr``, ``limit``, ...

    Raises:
        ParameterError: A value that would do nothing.
        UnknownName: No recipe of that name.
        ScheduleError: A schedule does not fit the model.
        DataError: The images are others than the model's.
        TrainingError: Training diverges, or ``out`` holds a run of another recipe.
        OutputError: ``out`` is the model's own folder, or cannot be written.
        KeyboardInterrupt: The state was saved; the same call continues it.

    Example:
        >>> distill("runs/birds", "runs/birds-distilled", steps=300, bound=0.4).to_frame()  # doctest: +SKIP
    """
    from tavt_kit.distill.recipes import distill_recipe

    chosen = distill_recipe(str(recipe), seed=seed, **changes)
    texts = several(schedule)
    if texts or schedules is not None:
        _refuse_idle(changes, ("bound", "sampling"), "schedules are given, and decide what is drawn")
    if teacher is None:
        _refuse_idle(changes, ("teacher_weight", "taught"), "no `teacher` is given")
    if control:
        _refuse_idle(
            {**changes, "schedule": texts or None, "schedules": schedules, "teacher": teacher},
            ("schedule", "schedules", "teacher", "bound", "sampling", "sub_networks"),
            "a `control` learns from its labels alone",
        )
        chosen = replace(chosen, sampling="dense")
    seconds = parse_duration(str(save_every))
    from tavt_kit.checkpoints import load_model
    from tavt_kit.distill import distill as fit
    from tavt_kit.workflows.schedules import listed_schedules

    folder, adaptive = Path(out), load_given(model, copied=True)
    if adaptive.folder is not None and adaptive.folder.resolve() == folder.resolve():
        raise OutputError(f"{out} holds the model that is to be distilled; choose another `out`")
    adaptive.check_droppable()
    adaptive.score, adaptive.reduction = score or adaptive.score, reduction or adaptive.reduction
    front = None if schedules is None else Path(schedules)
    chosen = replace(chosen, schedules=listed_schedules(adaptive, [str(text) for text in texts], front))
    master = None if teacher is None else load_given(teacher, copied=True)
    if chosen.image_sizes and chosen.schedules:
        raise ParameterError(
            "`schedules` are counts of one image size, and `image_sizes` asks for several; leave one of them out"
        )
    sizes = [size for size in chosen.image_sizes if size != adaptive.backbone.image_size[1]]
    if sizes and adaptive.folder is None:
        raise ParameterError("`image_sizes` needs a model from a run folder; save it, and give the folder")
    twins = [load_model(str(adaptive.folder), image_size=size) for size in sizes]
    for twin in twins:
        twin.score, twin.reduction = adaptive.score, adaptive.reduction
    images = images_of(adaptive.folder, data)
    with held_folder(folder):
        record = fit(
            adaptive, images, folder, chosen, teacher=master, twins=twins, device=device, fresh=fresh,
            progress=progress, save_seconds=seconds or 60.0,
        )  # fmt: skip
    return DistillResult(folder, record)


def _refuse_idle(changes: Mapping[str, Any], names: Sequence[str], because: str) -> None:
    """A value that would do nothing is a mistake."""
    for name in names:
        if changes.get(name) is not None:
            raise ParameterError(f"`{name}={changes[name]}` would do nothing, because {because}; leave one of them out")
