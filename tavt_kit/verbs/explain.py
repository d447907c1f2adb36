"""``fgvc-kit explain``: what a model looks at, drawn over pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from PIL import Image

    from tavt_kit.adaptive import AdaptiveViT
    from tavt_kit.explaining import Explained
    from tavt_kit.model_card import ModelCard

__all__ = ["explain_verb"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Class = Annotated[
    str | None, typer.Option("--class", help="Of PIM's heat map. [default: of each picture the likeliest]")
]
Most = Annotated[int, typer.Option("--limit", min=1, help="Explain at most this many pictures.")]

_FILE, _SCHEMA, _VERSION = "explain.json", "fgvc-kit/explain", 1


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
    how probable a class is at every place. One PNG a picture, a contact sheet of all, and explain.json with the
    numbers. Pictures that cannot be read are named and counted; exits 2 if none could be read.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.errors import DataError
    from tavt_kit.explaining.drawing import contact_sheet, draw_explained
    from tavt_kit.records import atomic_path, make_folder, write_record
    from tavt_kit.schedule import TokenSchedule

    files = _files(images)
    model = load_model(run)
    card: ModelCard = model.card  # type: ignore[assignment]
    label = _label(card, class_name)
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
        entry = _entry(card, path, name, explained)
        caption = f"{entry['prediction']} {100 * entry['probability']:.0f} %"
        with atomic_path(out / name) as temporary:
            draw_explained(picture, explained, caption).save(temporary)
        rows.append((picture, explained, caption))
        entries.append(entry)
        if not as_json:
            print(f"{path}: {caption}; {out / name}", flush=True)
    if unread:
        print(f"fgvc-kit explain: {unread} of {len(files[:limit])} pictures could not be read", file=sys.stderr)
    if not rows:
        return 2
    with atomic_path(out / "sheet.png") as temporary:
        contact_sheet(rows).save(temporary)
    body = {"run": str(run), "schedule": str(model.schedule), "images": entries, "unreadable": unread}
    write_record(out / _FILE, _SCHEMA, _VERSION, body)
    if as_json:
        print(json.dumps({"schema": _SCHEMA, "version": _VERSION, "folder": str(out), **body}))
    else:
        left = len(files) - limit
        more = f" ({left} more pictures were left out; see --limit)" if left > 0 else ""
        print(f"{out / 'sheet.png'}: {len(rows)} pictures{more}")
    return 0


def _files(given: Sequence[Path]) -> list[Path]:
    """The pictures given, and those of folders, sorted."""
    from tavt_kit.data.images import IMAGE_SUFFIXES
    from tavt_kit.errors import DataError

    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise DataError(f"{path} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder")
            found += inside
        else:
            found.append(path)
    return found


def _label(card: ModelCard, name: str | None) -> int | None:
    from tavt_kit.errors import UnknownName

    if name is None:
        return None
    if name not in card.classes:
        shown = ", ".join(card.classes[:6]) + (", ..." if len(card.classes) > 6 else "")
        raise UnknownName(f"--class is one of the model's classes ({shown}), got {name!r}")
    return card.classes.index(name)


def _explained(model: AdaptiveViT, card: ModelCard, path: Path, label: int | None) -> tuple[Image.Image, Explained]:
    import torch
    from PIL import Image

    from tavt_kit.explaining import explain
    from tavt_kit.preprocess import Preprocessing, normalise, open_image, resize_crop

    preprocessing = Preprocessing.from_record(card.preprocessing)
    pixels = resize_crop(open_image(path), preprocessing)
    found = explain(model, torch.from_numpy(normalise(pixels, preprocessing)), label)
    return Image.fromarray(pixels.transpose(1, 2, 0).copy()), found


def _entry(card: ModelCard, path: Path, name: str, explained: Explained) -> dict[str, Any]:
    best = int(explained.probabilities.argmax())
    return {
        "image": str(path),
        "file": name,
        "prediction": card.classes[best],
        "probability": round(float(explained.probabilities[best]), 6),
        "class": card.classes[explained.label],
        "grid": list(explained.grid),
        "maps": {heat.name: [[round(float(x), 6) for x in row] for row in heat.values] for heat in explained.heats},
        "kept": {mark.name: list(mark.patches) for mark in explained.kept},
        "taken": {mark.name: list(mark.patches) for mark in explained.taken},
    }
