"""``fgvc-kit predict``: labels for images, from an exported file without torch, or from a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options

Thing = Annotated[Path, typer.Argument(metavar="THING", help="An exported .onnx or .xml file, or a run folder.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images of any kind Pillow reads.")]
Top = Annotated[int, typer.Option(min=1, help="How many classes to name.")]
Target = Annotated[
    str | None,
    typer.Option(help="Where to run. [default: onnxruntime:cpu, openvino:cpu for .xml, torch:cpu for a run]"),
]


def predict_verb(
    thing: Thing,
    images: Images,
    top: Top = 5,
    schedule: options.Schedule = None,
    preset: options.Preset = None,
    target: Target = None,
    as_json: options.Json = False,
) -> int:
    """Say what is in each image, with probabilities.

    An exported file carries its labels and preprocessing; neither torch nor timm is needed to run it. Images that
    cannot be read are named on stderr and counted; a licence that forbids commercial use is named there too. Exits 2
    if no image could be read.
    """
    from tavt_kit.evaluation.answers import Prediction
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.predict import predict

    class Lines(ConsoleProgress):
        """A line for each image: on stdout what is in it, on stderr why nobody knows."""

        def show(self, value: object) -> None:
            assert isinstance(value, Prediction)
            if value.error is not None:
                self.say(f"fgvc-kit predict: {value.error}")
            elif not as_json:
                ranked = ", ".join(f"{label} {100 * share:.1f} %" for label, share in value.ranked)
                print(f"{value.path}: {ranked}", flush=True)

    with Lines() as progress:
        found = predict(thing, images, top=top, schedule=schedule, preset=preset, target=target, progress=progress)
    if as_json:
        print(json.dumps(found.record))
    if found.unreadable:
        print(f"fgvc-kit predict: {found.unreadable} of {len(found)} images could not be read", file=sys.stderr)
    return 2 if found.unreadable == len(found) else 0
