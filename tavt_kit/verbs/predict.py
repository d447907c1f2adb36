"""``fgvc-kit predict``: labels for pictures, from an exported file without torch, or from a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.export import say_licences

if TYPE_CHECKING:
    from tavt_kit.evaluation.predictions import Prediction, Predictor

__all__ = ["predict_verb"]

Thing = Annotated[Path, typer.Argument(metavar="THING", help="An exported .onnx or .xml file, or a run folder.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures of any kind Pillow reads.")]
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
    """Say what is in each picture, with probabilities.

    An exported file carries its labels and preprocessing; neither torch nor timm is needed to run it. Pictures that
    cannot be read are named on stderr and counted; a licence that forbids commercial use is named there too. Exits 2
    if no picture could be read.
    """
    predictor = _open(thing, schedule, preset, target)
    say_licences(predictor.card, None)
    bad = 0
    found: list[Prediction] = []
    for prediction in predictor.files(images, top):
        if prediction.error is not None:
            bad += 1
            print(f"fgvc-kit predict: {prediction.error}", file=sys.stderr)
        elif not as_json:
            ranked = ", ".join(f"{label} {100 * share:.1f} %" for label, share in prediction.ranked)
            print(f"{prediction.path}: {ranked}", flush=True)
        found.append(prediction)
    if as_json:
        print(json.dumps({"model": str(thing), "predictions": [one.as_record() for one in found], "unreadable": bad}))
    if bad:
        print(f"fgvc-kit predict: {bad} of {len(images)} pictures could not be read", file=sys.stderr)
    return 2 if bad == len(images) else 0


def _open(thing: Path, schedule: str | None, preset: str | None, target: str | None) -> Predictor:
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.errors import ScheduleError
    from tavt_kit.evaluation.predictions import Predictor, open_predictor

    device = None if target is None else TargetDevice.parse(target)
    if thing.suffix in (".onnx", ".xml"):
        return open_predictor(thing, device, preset, schedule)
    if preset is not None:
        raise ScheduleError(f"a preset belongs to a file exported with --switchable, got {thing}; give --schedule")
    from tavt_kit.checkpoints import load_model
    from tavt_kit.core.model_card import read_card
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    model = load_model(thing)
    card = read_card(thing if thing.is_dir() else thing.parent)
    sizes = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    lean = LeanViT(model, None if schedule is None else TokenSchedule.parse(schedule, **sizes)).eval()
    height, width = card.preprocessing["image_size"]
    return Predictor(card, open_module(lean, device or TargetDevice("torch", "cpu"), (1, 3, height, width)))
