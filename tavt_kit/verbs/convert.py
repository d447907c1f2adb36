"""``fgvc-kit convert``: an official weight file becomes ``model.safetensors`` and ``model.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings


def convert_verb(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .bin, .pt, .pth, .pth.tar or .safetensors of TAVT, FFVT, TransFG, Mix-ViT, PIM, ViTAE, "
            "ViT-pytorch or timm, Google's .npz, a Hugging Face folder, or a run."
        ),
    ],
    out: options.Out,
    data: options.Data = None,
    classes: Annotated[
        str | None, typer.Option(metavar="N|FILE", help="How many classes, or a file with a name in each line.")
    ] = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """The run folder is what train, distill, search, eval and export take.

    --data or --classes names the classes; without them they are numbered.
    """
    from tavt_kit.checkpoints import save_model
    from tavt_kit.checkpoints.convert import convert
    from tavt_kit.core.lock import held_folder
    from tavt_kit.core.records import label_record
    from tavt_kit.models.backbones import make_adapter

    model, card = convert(file, classes=_named(classes, data), **read_settings("convert", settings))
    with held_folder(out):
        card = save_model(out, model, card)
    adapter = make_adapter(model)
    if as_json:
        print(json.dumps(label_record("model", {"folder": str(out), **card.as_record()})))
        return 0
    height, width = card.preprocessing["image_size"]
    print(
        f"{out}: {card.name}, {len(card.classes)} classes, {width}x{height} px, {adapter.tokens} tokens, "
        f"{adapter.layers} layers, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; "
        f"{card.provenance}"
    )
    return 0


def _named(classes: str | None, data: str | None) -> Sequence[str] | None:
    """The classes' names: those of a data set, the lines of a file, or as many numbered ones."""
    from tavt_kit.data import load_images
    from tavt_kit.errors import ParameterError

    if data is not None:
        if classes is not None:
            raise ParameterError("the classes are given once, by --data or by --classes; leave one out")
        return load_images(data).classes
    if classes is None:
        return None
    if classes.isascii() and classes.isdecimal() and int(classes) > 0:
        return [f"class {number}" for number in range(int(classes))]
    try:
        lines = Path(classes).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ParameterError(
            f"--classes is a number above 0 or a file with a name in each line, got {classes!r}: {reason}"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ParameterError(f"--classes is a file with a name in each line, but {classes} has none")
    return names
