"""average: one network of several that began with the same weights, such as fine-tunes for several image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import CheckpointError, OutputError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.reports.words import points_text
from tavt_kit.workflows.run_model import RunResult, images_of, read_derived, top1_on_val, write_derived

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT


@dataclass(frozen=True, slots=True, repr=False)
class AverageResult(RunResult):
    """A run whose weights are the mean of others'; the record is the content of ``average.json``."""

    def to_frame(self) -> Frame:
        """A line for each network that went in: its image size, its top-1 on val, and the mean's there."""
        return frame([
            {
                "run": row["run"], "image_size": row["image_size"], "top1": row["top1"]["value"],
                "average_top1": row["average_top1"]["value"], "difference": row["difference"]["difference"],
            }
            for row in self.record["rows"]
        ])  # fmt: skip

    def __repr__(self) -> str:
        rows = ((points_text(row["difference"]["difference"]), row["image_size"]) for row in self.record["rows"])
        return f"<AverageResult {self.folder}: {', '.join(f'{points} points at {px} px' for points, px in rows)}>"


@bounded
def average(
    runs: Sequence[str | Path],
    out: str | Path,
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> AverageResult:
    """Make one network whose weights are the mean of several runs', such as fine-tunes for several image sizes.

    Nothing is trained. The runs must have begun with the same fine-tuned weights (``train ... --weights RUN``): then
    the mean answers about as each of them at its own size, and bears merging better (Wortsman et al., Model soups,
    ICML 2022; docs/results/proof.md). Top-1 on val is told of each run and of the mean at its size, in pairs. The mean
    knows all of their sizes, so that a search may choose among them. The same call on a finished folder reads what it
    wrote.

    Args:
        runs: Two or more run folders of one architecture and the same classes; of other image sizes, if you like.
        out: The run folder to write; its image size is the largest of theirs.
        data: Source of the images; by default what the first run was trained on.
        limit: Most images of val.
        fresh: Whether to average again whatever ``out`` holds.
        progress: Told what is done.

    Raises:
        CheckpointError: Fewer than two runs, or of different architectures.
        RecordError: A run or its split is missing, or ``out`` holds another run.
        DataError: The images are gone, or of other classes.
        OutputError: ``out`` is one of the runs, or cannot be written.

    Example:
        >>> average(["runs/birds", "runs/birds-84"], "runs/birds-all")  # doctest: +SKIP
        <AverageResult runs/birds-all: +0.2 points at 112 px, +1.2 points at 84 px>
    """
    from tavt_kit.checkpoints import load_model, save_model
    from tavt_kit.data import load_bytes
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.evaluation.result import paired

    progress, out, folders = progress or Silent(), Path(out), [Path(run) for run in runs]
    if len(folders) < 2:
        raise CheckpointError(f"a mean is of two runs or more, got {len(folders)}; name them before `out`")
    if any(folder.resolve() == out.resolve() for folder in folders):
        raise OutputError(f"{out} is one of the runs; choose another `out`")
    models = [load_model(folder) for folder in folders]
    mean = _mean(models, folders)
    card, images = mean.require_card(), images_of(folders[0], data)
    images.require_classes(card.classes)
    request = {
        "weights_sha256": [model.require_card().weights_sha256 for model in models],
        "data": images.sha256, "limit": limit,
    }  # fmt: skip
    with held_folder(out):
        if (known := read_derived(out, "average", request, made="averaged", fresh=fresh)) is not None:
            return AverageResult(out, known)
        rows = []
        with TemporaryDirectory() as temporary:
            save_model(temporary, mean, card)
            for folder, model in zip(folders, models, strict=True):
                progress.update(f"evaluating beside {folder}")
                preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
                resized = load_model(temporary, image_size=preprocessing.image_size)
                read = load_bytes(images.split("val"), preprocessing, limit=limit)
                own, average = (top1_on_val(network, read, preprocessing) for network in (model, resized))
                rows.append({
                    "run": str(folder), "image_size": preprocessing.image_size[1], "top1": own[0],
                    "average_top1": average[0], "difference": paired(own[1], average[1]).as_record(),
                })  # fmt: skip
        record = write_derived(out, "average", {"request": request, "rows": rows}, images, mean, card)
        return AverageResult(out, record)


def _mean(models: Sequence[AdaptiveViT], folders: Sequence[Path]) -> AdaptiveViT:
    """A network of the largest size with the mean of all weights, and a card that knows all sizes."""
    import torch

    from tavt_kit.checkpoints import load_model

    sizes = [model.backbone.image_size for model in models]
    largest = max(range(len(models)), key=lambda index: sizes[index])
    card = models[largest].require_card()
    states = []
    for folder, model in zip(folders, models, strict=True):
        own = model.require_card()
        if (own.family, own.name, own.classes) != (card.family, card.name, card.classes):
            raise CheckpointError(
                f"{folder} is a {own.name} of {len(own.classes)} classes, and {folders[largest]} a {card.name} of "
                f"{len(card.classes)}: a mean is of one architecture and the same classes; leave one of them out"
            )
        same = model if model.backbone.image_size == sizes[largest] else load_model(folder, image_size=sizes[largest])
        states.append(same.state_dict())
        shapes = {name: tensor.shape for name, tensor in states[-1].items()}
        if shapes != {name: tensor.shape for name, tensor in states[0].items()}:
            raise CheckpointError(
                f"{folder} and {folders[0]} have weights of other shapes, as after pruning; leave one of them out"
            )
    mean = load_model(folders[largest])
    mean.load_state_dict({
        name: torch.stack([state[name] for state in states]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in states[largest].items()
    })  # fmt: skip
    mean.schedule = mean.dense_schedule
    others = {size[1] for size in sizes} | {size for model in models for size in model.require_card().image_sizes}
    mean.card = replace(
        card, image_sizes=tuple(sorted(others - {sizes[largest][1]})), schedule=None, weights_sha256="",
        provenance=f"{card.provenance}; mean of the weights of {len(models)} runs".lstrip("; "),
    )  # fmt: skip
    return mean
