"""A run that is made of others without training: what was made before is read again, and the card is written last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.records import label_record, read_record, reading, write_record
from tavt_kit.errors import RecordError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.data import ImageSet
    from tavt_kit.data.loading import Arrays
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.models.wrap import AdaptiveViT


def read_derived(
    out: Path, kind: str, request: Mapping[str, Any], *, made: str, fresh: bool
) -> Mapping[str, Any] | None:
    """The record of the same call's run in ``out``; None where there is none, or it is to be made afresh.

    Args:
        kind: Kind of the record, the name of its file, and the verb that writes it.
        request: Everything that decides the run; the record repeats it.
        made: What was done to it, for messages: ``pruned``.
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
    write_record(out / f"{kind}.json", kind, dict(record))
    inherit_split(out, images)
    save_model(out, model, card)
    return label_record(kind, dict(record))


def top1_on_val(
    model: AdaptiveViT, read: Arrays, preprocessing: Preprocessing
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """The record of a dense model's top-1 on these images of val, and which of them it has right."""
    from tavt_kit.evaluation.evaluator import Evaluator

    right = Evaluator(model, *read, preprocessing).correct(model.dense_schedule)
    return Accuracy.of_counts(int(right.sum()), len(right), split="val").as_record(), right
