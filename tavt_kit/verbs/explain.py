"""``fgvc-kit explain``: what a model looks at, drawn over images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images, or folders of them.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Class = Annotated[str | None, typer.Option("--class", help="Of PIM's heat map. [default: of each image the likeliest]")]
Most = Annotated[int, typer.Option("--limit", min=1, help="Explain at most this many images.")]


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
    how probable a class is at every place. One PNG an image, a contact sheet of all, and explained.json with the
    numbers, which a report shows. Images that cannot be read are named and counted; exits 2 if none could be read.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.explain import ExplainedImage, explain

    class Lines(ConsoleProgress):
        """A line for each image: on stdout what was drawn, on stderr why not."""

        def show(self, value: object) -> None:
            assert isinstance(value, ExplainedImage)
            if value.error is not None:
                self.say(f"fgvc-kit explain: {value.error}")
            elif not as_json:
                print(f"{value.path}: {value.caption}; {value.file}", flush=True)

    with Lines() as progress:
        found = explain(run, images, out, schedule=schedule, class_name=class_name, limit=limit, progress=progress)
    if found.unreadable:
        count = len(found.images)
        print(f"fgvc-kit explain: {found.unreadable} of {count} images could not be read", file=sys.stderr)
    if found.record is None:
        return 2
    if as_json:
        about = {key: found.record[key] for key in ("schema", "version")}
        print(json.dumps({**about, "folder": str(out), **found.record}))
    else:
        more = f" ({found.left_out} more images were left out; see --limit)" if found.left_out else ""
        print(f"{found.sheet}: {found.drawn} images{more}")
    return 0
