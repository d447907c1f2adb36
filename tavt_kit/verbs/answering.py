"""``eval``, ``predict`` and ``explain``: what a run or an exported file says of images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tavt_kit.verbs import options
from tavt_kit.verbs.verb import Answer, verb


@verb
def eval_verb(thing: options.Thing, **given: Any) -> Answer:
    """--dense is short for --schedule dense."""
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.evaluation.record import EVAL_FILE
    from tavt_kit.reports.correctness import evaluated_section
    from tavt_kit.verbs.tables import print_sections
    from tavt_kit.workflows.evaluate import evaluate

    result = evaluate(thing, **given)
    record = result.record

    def show() -> None:
        print(f"{record['thing']} under {record['schedule']}: top-1 {Accuracy.from_record(record['top1'])}")
        file = (result.folder or Path()) / EVAL_FILE
        print_sections("eval", file, record, evaluated_section)
        if result.folder is not None:
            print(f"{file}, and beside it {', '.join(other['file'] for other in record['files'])}")

    return Answer(record, show)


@verb
def predict_verb(thing: options.Thing, images: options.Images, **given: Any) -> Answer:
    """Images that cannot be read are named on stderr and counted; exits 2 if none could be read.

    --dense is short for --schedule dense.
    """
    from tavt_kit.workflows.predict import predict

    result = predict(thing, images, **given)
    _say_unreadable("predict", result.unreadable, len(result))
    code = 2 if result.unreadable == len(result) else 0
    return Answer(result.record, lambda: None if result.file is None else print(result.file), code)


@verb
def explain_verb(run: options.Run, images: options.Images, **given: Any) -> Answer:
    """Images that cannot be read are named and counted; exits 2 if none could be read.

    --dense is short for --schedule dense.
    """
    from tavt_kit.workflows.explain import explain

    result = explain(run, images, **given)
    _say_unreadable("explain", result.unreadable, len(result.images))
    if (record := result.record) is None:
        return Answer(None, lambda: None, 2)
    about = {key: record[key] for key in ("schema", "version")}
    more = f" ({result.left_out} more images were left out; see --limit)" if result.left_out else ""
    return Answer(
        {**about, "folder": str(result.folder), **record},
        lambda: print(f"{result.folder}: {result.drawn} images{more}"),
    )


def _say_unreadable(verb: str, unreadable: int, images: int) -> None:
    if unreadable:
        print(f"fgvc-kit {verb}: {unreadable} of {images} images could not be read", file=sys.stderr)
