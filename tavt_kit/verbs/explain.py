"""``fgvc-kit explain``: what a model looks at, drawn over pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.command_line import command_line
from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from PIL import Image

    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.evaluation.looking import Explained
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["explain_verb"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Class = Annotated[
    str | None, typer.Option("--class", help="Of PIM's heat map. [default: of each picture the likeliest]")
]
Most = Annotated[int, typer.Option("--limit", min=1, help="Explain at most this many pictures.")]

_FILE, _SCHEMA, _VERSION = "explained.json", "fgvc-kit/explained", 1
_SHEET = "sheet.png"


def explain_verb(
    run: Run,
    images: Images,
    out: Out = Path("explained"),
    schedule: options.Schedule = None,
    class_name: Class = None,
    limit: Most = 64,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Draw what a model looks at: attention rollout, the patches each layer keeps, and what its family chooses.

    FFVT: the tokens that are fused from each layer; TransFG: the patch of each head; Mix-ViT's hybrid: its parts; PIM:
    how probable a class is at every place. One PNG a picture, a contact sheet of all, and explained.json with the
    numbers, which a report shows. Pictures that cannot be read are named and counted; exits 2 if none could be read.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.core.records import atomic_path, make_folder, write_record
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.errors import DataError
    from tavt_kit.evaluation.map_drawing import contact_sheet, draw_explained

    files = _files(images)
    model = load_model(run)
    card: ModelCard = model.card  # type: ignore[assignment]
    label = _label(model, card, class_name)
    sizes = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    model.schedule = TokenSchedule.parse(schedule or "dense", **sizes)
    rows: list[tuple[Image.Image, Explained, str]] = []
    entries: list[dict[str, Any]] = []
    unread = 0
    for path in files[:limit]:
        try:
            picture, explained = _explained(model, card, path, label)
        except DataError as error:
            unread += 1
            print(f"fgvc-kit explain: {error}", file=sys.stderr)
            continue
        make_folder(out)
        name = f"{len(rows):03d}-{path.stem}.png"
        caption = _caption(card, explained)
        with atomic_path(out / name) as temporary:
            draw_explained(picture, explained, caption).save(temporary, optimize=True)
        rows.append((picture, explained, f"{path.name}: {caption}"))
        entries.append(_entry(card, path, out / name, explained))
        if not as_json:
            print(f"{path}: {caption}; {out / name}", flush=True)
    if unread:
        print(f"fgvc-kit explain: {unread} of {len(files[:limit])} pictures could not be read", file=sys.stderr)
    if not rows:
        return 2
    with atomic_path(out / _SHEET) as temporary:
        contact_sheet(rows).save(temporary, optimize=True)
    body = {
        "run": str(run),
        "model": card.name,
        "weights_sha256": card.weights_sha256,
        "schedule": str(model.schedule),
        "sheet": _written(out / _SHEET),
        "images": entries,
        "unreadable": unread,
        "command": command_line(),
    }
    write_record(out / _FILE, _SCHEMA, _VERSION, body)
    if as_json:
        print(json.dumps({"schema": _SCHEMA, "version": _VERSION, "folder": str(out), **body}))
    else:
        left = len(files) - limit
        more = f" ({left} more pictures were left out; see --limit)" if left > 0 else ""
        print(f"{out / _SHEET}: {len(rows)} pictures{more}")
    return 0


def _files(given: Sequence[Path]) -> list[Path]:
    """The pictures given, and those of folders, sorted."""
    from tavt_kit.data.folders import pictures_below

    return [file for path in given for file in (pictures_below(path) if path.is_dir() else [path])]


def _written(file: Path) -> dict[str, str]:
    from tavt_kit.core.records import sha256_file

    return {"file": file.name, "sha256": sha256_file(file)}


def _label(model: AdaptiveViT, card: ModelCard, name: str | None) -> int | None:
    from tavt_kit.errors import UnknownName
    from tavt_kit.models.backbones.pim import Pim

    if name is None:
        return None
    if name not in card.classes:
        shown = ", ".join(card.classes[:6]) + (", ..." if len(card.classes) > 6 else "")
        raise UnknownName(f"--class is one of the model's classes ({shown}), got {name!r}")
    if not isinstance(model.bare, Pim):
        raise ParameterError(
            f"--class is of PIM's heat map, but {card.name} shows nothing of one class; leave --class out"
        )
    return card.classes.index(name)


def _explained(model: AdaptiveViT, card: ModelCard, path: Path, label: int | None) -> tuple[Image.Image, Explained]:
    import torch
    from PIL import Image

    from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
    from tavt_kit.evaluation.looking import explain

    preprocessing = Preprocessing.from_record(card.preprocessing)
    pixels = resize_crop(open_image(path), preprocessing)
    found = explain(model, torch.from_numpy(normalise(pixels, preprocessing)), label, card.classes)
    return Image.fromarray(pixels.transpose(1, 2, 0).copy()), found


def _caption(card: ModelCard, explained: Explained) -> str:
    best = int(explained.probabilities.argmax())
    return f"{card.classes[best]} {100 * explained.probabilities[best]:.0f} %"


def _entry(card: ModelCard, path: Path, file: Path, explained: Explained) -> dict[str, Any]:
    best = int(explained.probabilities.argmax())
    return {
        "image": str(path),
        **_written(file),
        "shows": list(explained.titles),
        "prediction": card.classes[best],
        "probability": round(float(explained.probabilities[best]), 6),
        "class": card.classes[explained.label],
        "grid": list(explained.grid),
        "maps": {heat.name: [[round(float(x), 6) for x in row] for row in heat.values] for heat in explained.heats},
        "kept": {mark.name: list(mark.patches) for mark in explained.kept},
        "taken": {mark.name: list(mark.patches) for mark in explained.taken},
    }
