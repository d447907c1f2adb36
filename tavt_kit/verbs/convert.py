"""``fgvc-kit convert``: an official weight file becomes ``model.safetensors`` and ``model.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options


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
    image_size: options.ImageSize = None,
    heads: Annotated[
        str | None,
        typer.Option(
            help="Attention heads, where the file cannot tell; of a ViTAE one number for each stage, as in 1,1,4."
        ),
    ] = None,
    slide_step: Annotated[
        int | None, typer.Option(min=1, help="Pixels from patch to patch in the overlapping split, such as 12.")
    ] = None,
    positions: Annotated[str, typer.Option(help="How the position table is resized: official or timm.")] = "official",
    family: Annotated[str | None, typer.Option(help="vit, ffvt or transfg, for Google's .npz. [default: vit]")] = None,
    num_token: Annotated[
        int | None, typer.Option(min=1, help="FFVT's tokens from each layer, where the classes cannot tell.")
    ] = None,
    num_selects: Annotated[
        str | None, typer.Option(help="PIM's selected tokens of each level, such as 2048,512,128,32, where unknown.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="timm's name of the model, for a file in timm's names whose keys fit several.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="N|FILE", help="How many classes, or a file with a name in each line.")
    ] = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Write a weight file as a run folder, which train, distill, search, eval and export take.

    The family is told by the names in the file; it is read without running anything in it, and loads whole or not at
    all. --data or --classes names the classes; without them they are numbered.
    """
    from tavt_kit.checkpoints import save_model
    from tavt_kit.checkpoints.convert import convert
    from tavt_kit.checkpoints.official_vit import FAMILIES, POSITION_RULES
    from tavt_kit.core.lock import held_folder
    from tavt_kit.core.parsing import parse_numbers
    from tavt_kit.core.records import label_record
    from tavt_kit.errors import ParameterError
    from tavt_kit.models.backbones import make_adapter

    rule = next((known for known in POSITION_RULES if known == positions), None)
    if rule is None:
        raise ParameterError(f"--positions is {' or '.join(POSITION_RULES)}, got {positions!r}")
    if family is not None and family not in FAMILIES:
        raise ParameterError(f"--family is {' or '.join(FAMILIES)}, got {family!r}")
    counts = parse_numbers(heads, "heads", "12 or 1,1,4")
    model, card = convert(
        file, classes=_named(classes, data), heads=counts[0] if counts is not None and len(counts) == 1 else counts,
        slide_step=slide_step, image_size=image_size, positions=rule, family=family, num_token=num_token,
        num_selects=parse_numbers(num_selects, "num_selects", "2048,512,128,32"), name=name,
    )  # fmt: skip
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
