"""convert: an official weight file as a model of the kit, its family told by its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import create, fit
from tavt_kit.checkpoints.build import card_for
from tavt_kit.checkpoints.folder import is_run, load_model, read_weight_file, save_model
from tavt_kit.checkpoints.foreign import is_folder, read_folder, read_timm
from tavt_kit.checkpoints.official_pim import read_pim
from tavt_kit.checkpoints.official_vit import (
    FAMILIES,
    ConvertOptions,
    Official,
    read_google,
    read_mixvit_hybrid,
    read_npz,
    read_vit_family,
)
from tavt_kit.checkpoints.official_vitae import read_vitae
from tavt_kit.core.model_card import Licence, ModelCard
from tavt_kit.errors import CheckpointError, ParameterError, TavtError

_Reader = Callable[[Mapping[str, Tensor], ConvertOptions], Official | None]
_READERS: tuple[_Reader, ...] = (read_vit_family, read_mixvit_hybrid, read_pim, read_vitae)
"""Readers of torch files: each gives ``None`` for a file of another family, and raises CheckpointError where tensors
are missing, have no place or need an option to explain them, DataError for an image size the patches do not allow."""


def convert(
    file: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | Sequence[int] | None = None,
    slide_step: int | None = None,
    image_size: int | None = None,
    family: str | None = None,
    num_token: int | None = None,
    num_selects: int | Sequence[int] | None = None,
    name: str | None = None,
) -> tuple[nn.Module, ModelCard]:
    """Read an official weight file, or a Hugging Face folder of a ViT, DeiT or DINOv2, into a model.

    Torch files (``.bin``, ``.pth``, ``.pt``, ``.pth.tar``): ViT-pytorch and TAVT, FFVT, TransFG, Mix-ViT (pure and
    hybrid), PIM, ViTAE and ViTAEv2 (of a checkpoint with averaged weights, those), and timm's Vision Transformers in
    timm's own names; these in ``.safetensors`` too. NumPy files (``.npz``): Google's ViT. A run's own
    ``model.safetensors`` is read with the card beside it.

    Args:
        file: Read safely; nothing in it is run.
        classes: Names of its classes in order; ``class 0``, ``class 1``, ... where not known.
        heads: Attention heads, where the width is not that of ViT-B, L or H. ViTAEs of no official size have one number
            for the normal cells of each stage, then one for each of the reduction cells.
        slide_step: Pixels from one patch to the next, for the overlapping split.
        image_size: Edge of the model's input; the position table is resized as the official loaders do, that of files
            in timm's names as timm does. The size that fits the table by default.
        family: ``"ffvt"`` or ``"transfg"`` makes one of Google's file; its fusion layer (and FFVT's final norm) start
            at random, as in the official loaders. Other files tell their family.
        num_token: FFVT's tokens from each layer, which no file tells; from the number of classes where that is known.
        num_selects: Tokens that PIM selects of each level, where their sum is not that of an official configuration.
        name: timm's name of the model, for a file in timm's names that does not say it itself.

    Returns:
        The bare model in eval mode, and its card (without a hash: nothing is written yet).

    Raises:
        CheckpointError: The file cannot be read, is of no known family, or does not hold together.
        DataError: An image size the split does not allow.
        UnknownName: timm has no model of that name.

    Example:
        >>> model, card = convert("ViT-B_16.npz", image_size=448)  # doctest: +SKIP
    """
    if family is not None and family not in FAMILIES:
        raise ParameterError(f"`family` is {' or '.join(FAMILIES)}, got {family!r}")
    counts = (heads,) if heads is None or isinstance(heads, int) else tuple(heads)
    if any(count is not None and count < 1 for count in counts):
        raise ParameterError(f"`heads` is a whole number above 0, or several with commas between them, got {heads}")
    path = Path(file).expanduser()
    one, several = (heads, None) if heads is None or isinstance(heads, int) else (None, tuple(heads))
    named = None if classes is None else tuple(classes)
    selects = None if num_selects is None else (num_selects,) if isinstance(num_selects, int) else tuple(num_selects)
    options = ConvertOptions(one, slide_step, image_size, family, num_token, named, selects, several, name)
    if is_run(path):
        taken = ("image_size", "classes")
        said = [f.name for f in fields(options) if f.name not in taken and getattr(options, f.name) is not None]
        if known := [f"`{'heads' if name == 'stage_heads' else name}`" for name in said]:
            raise CheckpointError(f"{path} is a run, whose model.json tells everything; leave {', '.join(known)} out")
        run = load_model(path, image_size=image_size)
        card = run.require_card()
        if named is not None and len(named) != len(card.classes):
            raise CheckpointError(f"{path} is a run of {len(card.classes)} classes, but {len(named)} are named")
        return run.unwrap(), replace(card, classes=named or card.classes, weights_sha256="")
    if is_folder(path):
        found, labels = read_folder(path, options)
        classes = classes or labels
    else:
        found = _read(path, options)
    try:
        model = create(found.name, found.arguments)
    except TavtError:
        raise
    except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:  # sizes that no model has
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"the shapes in {path} make no {found.name}: {reason}; nothing was loaded") from error
    random = {n: tensor for n, tensor in model.state_dict().items() if n.startswith(found.untrained)}
    fit(model, {**found.tensors, **random}, str(path))
    if classes is not None and len(classes) != (count := int(found.arguments["num_classes"])):
        raise CheckpointError(
            f"{path} has a head of {count} classes, but {len(classes)} are named; give the data it was trained on"
        )
    provenance = f"converted from {path.name}, of {found.origin}"
    if found.left_out:
        provenance += f", without {len(found.left_out)} tensors that only training uses"
    if found.untrained:
        provenance += f"; random at the start: {', '.join(start.rstrip('.') for start in found.untrained)}"
    licence = Licence(path.name, "unknown", "a file given by the user")
    card = card_for(found.name, found.arguments, model, classes, provenance, (licence,))
    return model, replace(card, preprocessing=found.preprocessing.as_record()) if found.preprocessing else card


def convert_checkpoint(file: str | Path, out: str | Path, **options: Any) -> ModelCard:
    """``convert`` a file, by the same options, and write the run folder that ``load_model`` and every verb takes.

    Returns:
        The card as written, with its hash.

    Raises:
        TavtError: As ``convert`` and ``save_model``.

    Example:
        >>> convert_checkpoint("CUB_checkpoint.bin", "out", num_token=12)  # doctest: +SKIP
    """
    return save_model(out, *convert(file, **options))


def _read(path: Path, options: ConvertOptions) -> Official:
    if path.suffix == ".npz":
        arrays = read_npz(path)
        found, names, averaged = read_google(arrays, options), sorted(arrays), False
    else:
        file = read_weight_file(path)
        timms = partial(read_timm, folder=path.parent, architecture=file.architecture)
        readers: tuple[_Reader, ...] = (*_READERS, timms)
        found = next((each for reader in readers if (each := reader(file.tensors, options))), None)
        names, averaged = sorted(file.tensors), file.averaged
    if found is None:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise CheckpointError(f"{path} is of no family that is known here: it holds {some}")
    if options.family not in (None, found.family):
        raise CheckpointError(f"{path} is of the family {found.family}, so it cannot be read as {options.family}")
    if options.name is not None and found.family != "timm":
        raise CheckpointError(f"{path} is of {found.origin}, whose names tell the model; leave `name` out")
    return replace(found, origin=f"{found.origin}, its averaged weights") if averaged else found
