"""``fgvc-kit models get``: public weights, fetched with their licence shown and their hash checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.errors import ParameterError

if TYPE_CHECKING:
    from tavt_kit.checkpoints.hub import Fetched
    from tavt_kit.checkpoints.public import Public


def get_weights(names: list[str], out: Path | None, as_json: bool) -> int:
    """Fetch the weights of one name, or list what there is.

    Raises:
        TavtError: As ``checkpoints.public.get``; also where a person has to fetch them.
    """
    from tavt_kit.checkpoints.public import find, get, known
    from tavt_kit.core.records import label_record
    from tavt_kit.data.packages import cache_folder
    from tavt_kit.verbs.console_progress import ConsoleProgress

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
    print(json.dumps(label_record("weights", body), indent=1)) if as_json else _print_fetched(entry, fetched)
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
    from rich.table import Table

    from tavt_kit.verbs.console import console_of

    table = Table("name", "what", "licence", "how", show_edge=False)
    for entry in entries.values():
        how = f"by hand: {entry.page}" if entry.page else "none released" if entry.instead else "fetched"
        table.add_row(entry.name, entry.about, entry.licence if not entry.instead else "", how)
    console = console_of(200)
    console.print(table)
    console.print(
        "and every model of timm with weights (`fgvc-kit models`), a tag after a dot if wanted", soft_wrap=True
    )
