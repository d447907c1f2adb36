"""The time by layer of the dense and of the chosen model on the target, for the report of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tavt_kit.bench import random_images
from tavt_kit.bench.graphs import whole_graph
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TavtError
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes.by_layer import layer_times
from tavt_kit.search.final import Final
from tavt_kit.verbs.progress import watching
from tavt_kit.workflows.search_joint import target_of, variant_of
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject

if TYPE_CHECKING:
    from tavt_kit.core.device import TargetDevice

__all__ = ["layers_measured"]


def layers_measured(subject: Subject, request: Request, final: Final) -> dict[TokenSchedule, Mapping[str, Any]]:
    """Records of ``LayerTimes``, or of the ``reason`` why there are none; nothing where the target is not here.

    Args:
        subject: The model.
        request: Names the target.
        final: What was chosen; nothing is measured where its latencies were not.
    """
    target = request.target
    if target is None or request.profile is not None or not final.measured:
        return {}
    shown = [subject.space.dense, *([] if final.pick is None else [final.pick.schedule])]
    found = {}
    with watching("timing the layers in whole runs") as tell:
        for schedule in dict.fromkeys(shown):
            tell(f"timing the layers of {schedule} in whole runs", None)
            found[schedule] = _measured(subject, target, schedule, request.seed)
    return found


def _measured(subject: Subject, target: TargetDevice, schedule: TokenSchedule, seed: int) -> Mapping[str, Any]:
    import numpy as np

    model, target = variant_of(subject, schedule), target_of(target, schedule)
    images = random_images((target.batch, 3, *model.backbone.image_size), np.random.default_rng(seed))
    try:
        source = LeanViT(model, schedule) if target.runtime == "torch" else whole_graph(model, schedule, target)
        return layer_times(source, target, images, schedule).as_record()
    except TavtError as error:  # a search is not lost for this
        return {"reason": str(error)}
