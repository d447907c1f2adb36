"""``fgvc-kit explain``: what a model looks at, drawn over images."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

Class = Annotated[str | None, typer.Option("--class", help="Of PIM's heat map. [default: of each image the likeliest]")]


def explain_verb(
    run: options.Run,
    images: options.Images,
    class_name: Class = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Images that cannot be read are named and counted; exits 2 if none could be read.

    --dense is short for --schedule dense.
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
        result = explain(run, images, class_name=class_name, progress=progress, **read_settings("explain", settings))
    if result.unreadable:
        count = len(result.images)
        print(f"fgvc-kit explain: {result.unreadable} of {count} images could not be read", file=sys.stderr)
    if result.record is None:
        return 2
    if as_json:
        about = {key: result.record[key] for key in ("schema", "version")}
        print(json.dumps({**about, "folder": str(result.folder), **result.record}))
    else:
        more = f" ({result.left_out} more images were left out; see --limit)" if result.left_out else ""
        print(f"{result.sheet}: {result.drawn} images{more}")
    return 0
