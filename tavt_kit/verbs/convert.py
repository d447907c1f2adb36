"""``fgvc-kit convert``: an official weight file becomes ``model.safetensors`` and ``model.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options

__all__ = ["convert_verb"]

File = Annotated[
    Path,
    typer.Argument(
        help="A .bin, .pt, .pth or .pth.tar of TAVT, FFVT, TransFG, Mix-ViT, PIM, ViTAE, ViT-pytorch or torchvision, "
        "Google's .npz, or a Hugging Face folder."
    ),
]
Heads = Annotated[
    str | None,
    typer.Option(
        help="Attention heads, where the file cannot tell; of a ViTAE one number for each stage, as in 1,1,4."
    ),
]
SlideStep = Annotated[
    int | None, typer.Option(min=1, help="Pixels from patch to patch in the overlapping split, such as 12.")
]
Positions = Annotated[str, typer.Option(help="How the position table is resized: official or timm.")]

FamilyOption = Annotated[
    str | None, typer.Option("--family", help="vit, ffvt or transfg, for Google's .npz. [default: vit]")
]
NumToken = Annotated[
    int | None, typer.Option(min=1, help="FFVT's tokens from each layer, where the classes cannot tell.")
]
NumSelects = Annotated[
    str | None, typer.Option(help="PIM's selected tokens of each level, such as 2048,512,128,32, where unknown.")
]


def convert_verb(
    file: File,
    out: options.Out,
    data: options.Data = None,
    image_size: options.ImageSize = None,
    heads: Heads = None,
    slide_step: SlideStep = None,
    positions: Positions = "official",
    family: FamilyOption = None,
    num_token: NumToken = None,
    num_selects: NumSelects = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Write a weight file as a run folder, which train, distill, search, eval and export take.

    The family is told by the names in the file; it is read without running anything in it, and loads whole or not at
    all. --data names the classes; without it they are numbered.
    """
    from tavt_kit.backbones import adapter_of
    from tavt_kit.checkpoints import save_model
    from tavt_kit.checkpoints.convert import FAMILIES, convert
    from tavt_kit.checkpoints.official import POSITION_RULES
    from tavt_kit.data import load_images
    from tavt_kit.verbs.options import BadOption

    rule = next((known for known in POSITION_RULES if known == positions), None)
    if rule is None:
        raise BadOption(f"--positions is {' or '.join(POSITION_RULES)}, got {positions!r}")
    if family is not None and family not in FAMILIES:
        raise BadOption(f"--family is {' or '.join(FAMILIES)}, got {family!r}")
    try:
        selects = None if num_selects is None else [int(count) for count in num_selects.split(",")]
    except ValueError:
        raise BadOption(f"--num-selects is numbers with commas, such as 2048,512,128,32, got {num_selects!r}") from None
    classes = None if data is None else load_images(data).classes
    model, card = convert(
        file, classes=classes, heads=_numbers(heads), slide_step=slide_step, image_size=image_size, positions=rule,
        family=family, num_token=num_token, num_selects=selects,
    )  # fmt: skip
    card = save_model(out, model, card)
    adapter = adapter_of(model)
    if as_json:
        print(json.dumps({"schema": "fgvc-kit/model", "version": 1, "folder": str(out), **card.as_record()}))
        return 0
    height, width = card.preprocessing["image_size"]
    print(
        f"{out}: {card.name}, {len(card.classes)} classes, {width}x{height} px, {adapter.tokens} tokens, "
        f"{adapter.layers} layers, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; "
        f"{card.provenance}"
    )
    return 0


def _numbers(heads: str | None) -> int | list[int] | None:
    """``12`` or ``1,1,4``."""
    from tavt_kit.verbs.options import BadOption

    if heads is None:
        return None
    parts = heads.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise BadOption(f"--heads is a whole number above 0, or several with commas between them, got {heads!r}")
    return int(heads) if len(parts) == 1 else [int(part) for part in parts]
