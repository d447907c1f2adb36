"""PIM over a pretrained backbone: the backbone's weights are loaded, everything that PIM plugs in starts at random."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import create
from tavt_kit.checkpoints.fitting import fit
from tavt_kit.checkpoints.hub import create_from_hub
from tavt_kit.core.model_card import Licence
from tavt_kit.errors import CheckpointError
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.backbones.pim_levels import whole_backbone

_INSIDE = "backbone."


def is_plug_in(name: str) -> bool:
    """Whether the architecture is a PIM; all of their names begin alike."""
    return name.startswith("pim_")


def is_backbone_file(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no name is that of a part of PIM, so that the tensors can only be a backbone's."""
    return not any(name.startswith((_INSIDE, "pyramid.", "classifiers.", "combiner.")) for name in tensors)


def backbone_from_hub(name: str, arguments: Mapping[str, Any], *, seed: int) -> tuple[nn.Module, str, Licence]:
    """A PIM over timm's own weights of its backbone; returns and raises as ``create_from_hub``."""
    model: Any = create(name, arguments, seed=seed)
    make = partial(_make_whole, model)
    whole, provenance, licence = create_from_hub(model.backbone_name, {}, seed=seed, make=make)
    _copy(whole, model, provenance)
    return model, _say(model, provenance, seed), licence


def fill_backbone(model: Pim, tensors: Mapping[str, Tensor], source: str, *, seed: int = 0) -> str:
    """Load a whole timm model's tensors into a PIM's backbone; position tables are resized as timm does.

    Args:
        model: Receives them, in place; as it was if they do not fit.
        tensors: By timm's names; a classifier may be missing or of any classes, nothing else may be.
        source: What to call the file in messages.
        seed: What the model was created with, for the sentence.

    Returns:
        A sentence on what is loaded and what is random.

    Raises:
        CheckpointError: Tensors are missing, left over or of another shape.
    """
    whole = _make_whole(model, model.backbone_name, {})
    fit(whole, tensors, source, new_head=True)
    _copy(whole, model, source)
    return _say(model, f"{model.backbone_name} from the file {source}", seed)


def _make_whole(
    model: Pim, name: str, arguments: Mapping[str, Any], *, pretrained_file: str | None = None, **options: Any
) -> nn.Module:
    """The backbone before anything was cut off, with a classifier, which PIM does without."""
    options.pop("seed", None)
    if pretrained_file is not None:
        options["pretrained_cfg_overlay"] = {"file": pretrained_file}
    given = {**model.backbone_options, **arguments, **options}
    return whole_backbone(name, model.image_size, model.in_chans, given)


def _copy(whole: nn.Module, model: Pim, source: str) -> None:
    """Every tensor that PIM's backbone has, of the whole one; what PIM cuts off is left out."""
    given, own = whole.state_dict(), model.backbone.state_dict()
    if absent := sorted(set(own) - set(given)):
        raise CheckpointError(f"{source} lacks {', '.join(absent[:4])} of PIM's backbone; nothing was loaded")
    model.backbone.load_state_dict({name: given[name] for name in own}, strict=True)


def _say(model: Pim, provenance: str, seed: int) -> str:
    parts = [
        name for name, part in model.named_children() if name != _INSIDE[:-1] and any(True for _ in part.parameters())
    ]
    return f"backbone: {provenance}; {', '.join(parts)} random (seed {seed})"
