"""prune: heads, channels and layers taken from a trained model, and what is left saved as a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import OutputError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.reports.words import points_text
from tavt_kit.workflows.run_model import (
    Given,
    RunResult,
    images_of,
    load_given,
    name_of,
    read_derived,
    top1_on_val,
    write_derived,
)

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT


@dataclass(frozen=True, slots=True, repr=False)
class PruneResult(RunResult):
    """A run that was pruned, and the run it was cut from; None of a model that lay in none."""

    run: Path | None

    @property
    def top1(self) -> Accuracy:
        """Top-1 accuracy on val of what is left."""
        return Accuracy.from_record(self.record["after"]["top1"])

    @property
    def difference(self) -> PairedDifference:
        """After minus before, on the same images."""
        return PairedDifference.from_record(self.record["difference"])

    def to_frame(self) -> Frame:
        """Two lines, before and after: layers, multiply-adds, parameters and top-1."""
        both = ((when, self.record[when]) for when in ("before", "after"))
        return frame([{"when": when, **facts, "top1": facts["top1"]["value"]} for when, facts in both])

    def __repr__(self) -> str:
        change = points_text(self.difference.difference)
        return f"<PruneResult {self.folder}: top-1 {self.top1}, {change} points>"


@bounded
def prune(
    run: Given,
    out: Path | str,
    data: str | Path | None = None,
    *,
    mlp: float | None = None,
    heads: float | None = None,
    depth: int | None = None,
    importance: str = "taylor",
    round_to: int = 8,
    training_images: int = 256,
    limit: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Remove the heads, channels and layers that matter least, and save a smaller run.

    Of each layer the same share is left. What is lost has to be learned anew, by ``distill`` with the old run as its
    teacher. The same call on a finished folder reads what it wrote.

    Args:
        run: A run folder of train, distill, convert or prune, or a wrapped model with its card, which stays as it is.
        out: The run folder to write.
        data: Source of the images; by default what the run was trained on.
        mlp: Share of the feed-forward channels that is left, such as 0.5.
        heads: Share of the attention heads that is left.
        depth: Number of layers that are left.
        importance: magnitude or taylor.
        round_to: Channels are left in multiples of this.
        training_images: Training images that decide what matters.
        limit: Most images of val.
        fresh: Whether to prune again what ``out`` holds.
        progress: Told what is done.

    Raises:
        BudgetError: Nothing is to be pruned, or a share or depth that does not fit.
        UnknownName: No such importance.
        DataError: The images are of other classes, or one cannot be read.
        RecordError: ``out`` holds another run, or one that was pruned in another way.
        OutputError: ``out`` is the run itself, or cannot be written.

    Example:
        >>> prune("runs/birds", "runs/birds-half", mlp=0.5).difference.difference  # doctest: +SKIP
        -0.031
    """
    import torch

    from tavt_kit.data import load_arrays, load_bytes
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.evaluation.result import paired
    from tavt_kit.models.flops import count_macs
    from tavt_kit.models.wrap import wrap
    from tavt_kit.pruning import LabelledImages, Targets
    from tavt_kit.pruning import prune as cut
    from tavt_kit.pruning.prune import check_importance, pruned_card

    progress, out = progress or Silent(), Path(out)
    targets = Targets(mlp, heads, depth, round_to)
    check_importance(importance)
    model = load_given(run, copied=True)
    card, images = model.require_card(), images_of(model.folder, data)
    images.require_classes(card.classes)
    request = {
        "source_sha256": card.weights_sha256, "targets": asdict(targets), "importance": importance,
        "pictures": training_images, "data": images.sha256, "limit": limit,
    }  # fmt: skip
    if model.folder is not None and model.folder.resolve() == out.resolve():
        raise OutputError(f"{out} holds the model that is to be pruned; choose another `out`")
    if (done := read_derived(out, "prune", request, made="pruned", fresh=fresh)) is not None:
        with held_folder(out):  # which removes what a process left that was killed at its very end
            return PruneResult(out, done, model.folder)

    def evaluated(model: AdaptiveViT) -> tuple[dict[str, Any], Any]:
        """What a record says of a dense model, and which images of val it has right."""
        progress.update("evaluating")
        top1, right = top1_on_val(model, read, preprocessing)
        macs, parameters = count_macs(model, model.dense_schedule), sum(part.numel() for part in model.parameters())
        return {"layers": model.layers, "macs": macs, "parameters": parameters, "top1": top1}, right

    with held_folder(out):
        progress.update("reading images")
        preprocessing = Preprocessing.from_record(card.preprocessing)
        train = load_arrays(images.split("train"), preprocessing, limit=training_images)
        judge_by = LabelledImages(*map(torch.from_numpy, train))
        read = load_bytes(images.split("val"), preprocessing, limit=limit)
        before, right_before = evaluated(model)
        progress.update("pruning")
        bare = model.unwrap()
        pruned = cut(bare, targets, importance=importance, images=judge_by)
        small = wrap(bare, model.score, model.pool, model.reduction)
        after, right_after = evaluated(small)
        left = {"layers": list(pruned.kept), **{kind: list(units) for kind, units in pruned.units.items()}}
        record = {
            "request": request, "source": name_of(run), "left": left, "before": before, "after": after,
            "difference": paired(right_before, right_after).as_record(),
        }  # fmt: skip
        small_card = pruned_card(card, bare, pruned.kept, f"pruned by {importance}")
        return PruneResult(out, write_derived(out, "prune", record, images, small, small_card), model.folder)
