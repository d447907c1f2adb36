"""``fgvc-kit predict``: labels for images, from an exported file without torch, or from a run."""

from __future__ import annotations

import json
import sys

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings


def predict_verb(
    thing: options.Thing,
    images: options.Images,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Images that cannot be read are named on stderr and counted; exits 2 if none could be read.

    --dense is short for --schedule dense.
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
        result = predict(thing, images, progress=progress, **read_settings("predict", settings))
    if as_json:
        print(json.dumps(result.record))
    elif result.file is not None:
        print(result.file)
    if result.unreadable:
        print(f"fgvc-kit predict: {result.unreadable} of {len(result)} images could not be read", file=sys.stderr)
    return 2 if result.unreadable == len(result) else 0
