"""``fgvc-kit eval``: what a run or an exported file has right, class by class, and how sure it is of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.workflows.evaluate import EvalResult, Labelled

__all__ = ["eval_verb"]

Thing = Annotated[Path, typer.Argument(metavar="THING", help="A run folder, or an exported .onnx or .xml file.")]
Split = Annotated[str | None, typer.Option(help="train, val or test. [default: test if there is one, else val]")]
Target = Annotated[
    str | None, typer.Option(help="Where to run. [default: torch:cpu; of a file onnxruntime:cpu or openvino:cpu]")
]
Wanted = Annotated[
    str | None,
    typer.Option(
        "--precision-wanted", help="Of the accepted answers, such as 95%: the threshold is chosen on val, told on test."
    ),
]
Unlabelled = Annotated[
    Path | None, typer.Option(help="A folder of pictures without labels: a CSV of labels and probabilities instead.")
]
Batch = Annotated[int, typer.Option(min=1, help="Images that the model is given at once.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder for eval.json, PNGs and CSVs. [default: nothing is written]"),
]


def eval_verb(
    thing: Thing,
    data: options.Data = None,
    split: Split = None,
    schedule: options.Schedule = None,
    preset: options.Preset = None,
    target: Target = None,
    batch: Batch = 32,
    limit: options.Limit = None,
    precision_wanted: Wanted = None,
    unlabelled: Unlabelled = None,
    out: Out = None,
    allow_unreadable: options.AllowUnreadable = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Count what a model has right: accuracies with 95 % intervals, every class, confusions, calibration.

    A run is evaluated on the split it was made with. With --out: eval.json, the confusion matrix and the reliability
    diagram as PNG, the matrix, the classes and every picture as CSV. PIM's heads are counted too, of a run on torch.
    --unlabelled writes predictions.csv (to stdout without --out), and exits 2 if no picture could be read.
    """
    from tavt_kit.verbs.console_progress import ConsoleProgress
    from tavt_kit.workflows.evaluate import evaluate, label_images

    if unlabelled is not None and split is not None:
        raise ParameterError("--split needs labels, but --unlabelled has none; leave one of them out")
    with ConsoleProgress() as progress:
        if unlabelled is not None:
            labelled = label_images(
                thing, unlabelled, data=data, schedule=schedule, preset=preset, target=target, batch=batch,
                limit=limit, precision_wanted=precision_wanted, out=out, allow_unreadable=allow_unreadable,
                progress=progress,
            )  # fmt: skip
        else:
            found = evaluate(
                thing, data, split=split, schedule=schedule, preset=preset, target=target, batch=batch, limit=limit,
                precision_wanted=precision_wanted, out=out, allow_unreadable=allow_unreadable,
                progress=progress,
            )  # fmt: skip
    if unlabelled is not None:
        return _show_labelled(labelled, as_json)
    _show(found, as_json)
    return 0


def _show(found: EvalResult, as_json: bool) -> None:
    from tavt_kit.evaluation.files import EVAL_FILE
    from tavt_kit.verbs.eval_view import say_evaluation

    if as_json:
        print(json.dumps(found.record))
        return
    say_evaluation(found.record)
    if found.folder is not None:
        beside = ", ".join(one["file"] for one in found.record["files"])
        print(f"{found.folder / EVAL_FILE}, and beside it {beside}")


def _show_labelled(found: Labelled, as_json: bool) -> int:
    """The table on stdout, or where it lies; 2 if no picture could be read."""
    from tavt_kit.verbs.eval_view import threshold_words

    bad, count = found.unreadable, len(found.predictions)
    for one in bad:
        print(f"fgvc-kit eval: {one.error}", file=sys.stderr)
    if bad:
        print(f"fgvc-kit eval: {len(bad)} of {count} pictures could not be read", file=sys.stderr)
    if len(bad) == count:
        return 2
    if found.threshold is not None:
        words = f"{threshold_words(found.threshold.as_record())}; here {found.accepted} of {count - len(bad)}"
        print(words, file=sys.stdout if found.folder and not as_json else sys.stderr)
    if as_json:
        print(json.dumps(found.record))
    elif found.folder is not None:
        print(f"{found.folder / 'predictions.csv'}: {count} pictures")
    else:
        print(found.csv, end="")
    return 0
