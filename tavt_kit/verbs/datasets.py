"""``fgvc-kit datasets``: the data sets known by name, and what is in a folder or list."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet


def datasets_verb(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]", help="elpv, textile, a folder, NAME:FOLDER or a CSV list.")
    ] = None,
    get: Annotated[bool, typer.Option("--get", help="Fetch it, once; its licence is said first.")] = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> int:
    """List the data sets that are known by name, or show the classes and splits of one.

    Images of elpv and textile are fetched with pip, checked by SHA-256 and kept in FGVC_KIT_CACHE
    (~/.cache/tavt_kit by default).
    """
    from tavt_kit.data import KNOWN, load_images
    from tavt_kit.data.published import FACTS
    from tavt_kit.errors import DataError

    if words and len(words) > 1:
        raise DataError(f"one data set is shown at a time, got {' '.join(words)}")
    if not words:
        if get:
            raise DataError(f"--get needs a name: {', '.join(KNOWN)}")
        rows = [_row(known) for known in KNOWN]
        layouts = [
            {"name": name, "classes": facts.classes, "sizes": dict(facts.sizes),
             "licence": facts.as_licence().as_record()}
            for name, facts in FACTS.items()
        ]  # fmt: skip
        print(json.dumps({"datasets": rows, "layouts": layouts}, indent=1)) if as_json else _print_rows(rows, layouts)
        return 0
    name = words[0]
    if name in KNOWN:
        row = _row(name)
        if not (get or row["fetched"]):
            raise DataError(
                f"{name} is not on this machine; `fgvc-kit datasets {name} --get` fetches {row['megabytes']} MB"
            )
        if not as_json:
            licence = row["licence"]
            print(f"{licence['name']}: {licence['licence']}.\n{licence['source']}.\n{row['note']}")
    images = load_images(name, seed=seed)
    if not as_json:
        _print_contents(images)
        return 0
    contents = {
        "name": images.name,
        "root": str(images.root),
        "made": images.made,
        "seed": images.seed,
        "sha256": images.sha256,
        "classes": images.classes,
        "splits": {split: images.counts(split) for split in images.splits},
        "licence": images.licence.as_record() if images.licence else None,
        "note": images.note,
    }
    print(json.dumps(contents, indent=1))
    return 0


def _row(name: str) -> dict[str, Any]:
    from tavt_kit.data import KNOWN
    from tavt_kit.data.packages import PACKAGES, wheel_path

    known, package = KNOWN[name], PACKAGES[KNOWN[name].package]
    path = wheel_path(known.package)
    return {
        "name": name,
        "about": known.about,
        "pictures": known.images,
        "classes": known.classes,
        "licence": package.licence.as_record(),
        "note": known.note,
        "megabytes": package.megabytes,
        "fetched": path.is_file(),
        "file": str(path),
        "page": package.page,
    }


def _print_rows(rows: list[dict[str, Any]], layouts: list[dict[str, Any]]) -> None:
    from tavt_kit.verbs.console import console_of, table_of

    console = console_of()
    known = (
        (row["name"], f"{row['pictures']:,}", str(row["classes"]), row["licence"]["licence"], f"{row['megabytes']} MB",
         "yes" if row["fetched"] else "no", row["about"])
        for row in rows
    )  # fmt: skip
    titles = ("data", "pictures", "classes", "licence", "size", "here", "what")
    console.print(table_of(titles, known, left=("licence", "what")))
    for row in rows:
        console.print(f"{row['name']}: {row['note']}", soft_wrap=True)
    parts = ("train", "val", "test")
    sizes = ([f"{row['sizes'][part]:,}" if part in row["sizes"] else "" for part in parts] for row in layouts)
    read = (
        (row["name"], str(row["classes"]), *size, row["licence"]["licence"])
        for row, size in zip(layouts, sizes, strict=True)
    )
    console.print(table_of(("layout", "classes", *parts, "licence"), read, left=("licence",)))
    console.print(
        "Those of the second table are read where you unpacked them: --data NAME:FOLDER. This kit fetches none.",
        soft_wrap=True,
    )
    console.print(
        "Any folder of class folders, or a CSV list with the columns path,label[,split], is taken as well.",
        soft_wrap=True,
    )


def _print_contents(images: ImageSet) -> None:
    from rich.markup import escape

    from tavt_kit.verbs.console import console_of, table_of

    columns = [images.counts(split) for split in images.splits]
    rows = ((name, *(str(counts[label]) for counts in columns)) for label, name in enumerate(images.classes))
    table = table_of(("class", *images.splits), rows)
    table.add_row("all", *(f"{sum(counts):,}" for counts in columns), style="bold")
    console = console_of()
    console.print(table)
    seed = "" if images.seed is None else f", seed {images.seed}"
    console.print(escape(f"{len(images):,} images in {images.root}; split: {images.made}{seed}"), soft_wrap=True)
