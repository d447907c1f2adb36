"""``fgvc-kit eval``: what a run or an exported file has right, class by class, and how sure it is of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.command_line import command_line
from tavt_kit.core.parsing import parse_fraction
from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet, Sample
    from tavt_kit.evaluation.answers import Answered
    from tavt_kit.evaluation.reject import Threshold
    from tavt_kit.workflows.eval_subject import Subject

__all__ = ["eval_verb"]

Thing = Annotated[Path, typer.Argument(metavar="THING", help="A run folder, or an exported .onnx or .xml file.")]
Split = Annotated[str | None, typer.Option(help="train, val or test. [default: test if there is one, else val]")]
Target = Annotated[
    str | None, typer.Option(help="Where to run. [default: torch:cpu; of a file onnxruntime:cpu or openvino:cpu]")
]
Real = Annotated[
    Path | None, typer.Option(help="The real.json of reassessed-imagenet: ReaL accuracy too, on ImageNet's val.")
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
    real: Real = None,
    allow_unreadable: options.AllowUnreadable = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Count what a model has right: accuracies with 95 % intervals, every class, confusions, calibration.

    A run is evaluated on the split it was made with. With --out: eval.json, the confusion matrix and the reliability
    diagram as PNG, the matrix, the classes and every picture as CSV. PIM's heads are counted too, of a run on torch.
    --unlabelled writes predictions.csv (to stdout without --out), and exits 2 if no picture could be read.
    """
    from tavt_kit.workflows.eval_subject import images_of, open_subject

    wanted = None if precision_wanted is None else parse_fraction(precision_wanted, "a precision", "95% or 0.95")
    if unlabelled is not None:
        _refuse_labelled(split, real)
        files = _pictures(unlabelled)[:limit]
    subject = open_subject(thing, schedule, preset, target, batch)
    images = None if unlabelled is not None and wanted is None else images_of(thing, data, subject.card)
    job = _Job(subject, images, batch, limit, allow_unreadable)
    if unlabelled is not None:
        return _predict(job, files, wanted, out, as_json)
    chosen = split or job.known.held_out
    samples = job.samples(chosen)
    if wanted is not None and chosen == "val":
        raise ParameterError(
            f"a threshold is chosen on val and told on another split, but val is to be evaluated; "
            f"{'leave --split val out' if split else 'give data with a test split'}, or leave --precision-wanted out"
        )
    reassessed = None if real is None else _real_labels(real)
    _make(out)
    threshold = None if wanted is None else job.threshold(wanted)
    found = job.answer(samples, heads=True)
    body = job.body(found, chosen, threshold)
    body = {"thing": str(thing), **body, "skipped": len(samples) - len(found.samples)}
    if reassessed is not None:
        body["real"] = _real_accuracy(found, reassessed, chosen)
    _finish(body, found, job.known, out, as_json)
    return 0


class _Job:
    """A model, its pictures, and how they are run through it."""

    def __init__(
        self, subject: Subject, images: ImageSet | None, batch: int, limit: int | None, allow_unreadable: int
    ) -> None:
        self.subject, self.images = subject, images
        self.batch, self.limit, self.allow_unreadable = batch, limit, allow_unreadable

    @property
    def known(self) -> ImageSet:
        assert self.images is not None
        return self.images

    def samples(self, split: str) -> Sequence[Sample]:
        from tavt_kit.data import thin_out

        return thin_out(self.known.split(split), self.limit)

    def answer(self, samples: Sequence[Sample], *, heads: bool = False) -> Answered:
        from tavt_kit.evaluation.answers import answer

        subject = self.subject
        return answer(
            samples,
            subject.session,
            subject.preprocessing,
            batch=self.batch,
            allow_unreadable=self.allow_unreadable,
            watch=subject.heads.count if heads and subject.heads else None,
        )

    def threshold(self, wanted: float) -> Threshold:
        from tavt_kit.evaluation.reject import choose_threshold

        found = self.answer(self.samples("val"))
        return choose_threshold(found.confidence, found.right, wanted, "val")

    def body(self, found: Answered, split: str, threshold: Threshold | None) -> dict[str, Any]:
        """Everything of the record but what it is about and what was skipped."""
        from tavt_kit.evaluation.figures import figures_of
        from tavt_kit.evaluation.reject import reached

        subject, reject = self.subject, None
        if threshold is not None:
            reject = {**threshold.as_record(), **reached(threshold, found.confidence, found.right, split)}
        return {
            "schedule": subject.schedule,
            "target": str(subject.session.target),
            "weights_sha256": subject.card.weights_sha256,
            "data": self.known.name,
            **figures_of(found, subject.card.classes, split, self.known.relative),
            "reject": reject,
            "heads": subject.heads.as_record(split) if subject.heads else None,
        }


def _finish(body: dict[str, Any], found: Answered, images: ImageSet, out: Path | None, as_json: bool) -> None:
    from tavt_kit.evaluation.files import EVAL_FILE, SCHEMA, VERSION, write_evaluation
    from tavt_kit.verbs.eval_view import say_evaluation

    if out is not None:
        body = write_evaluation(
            out, {**body, "command": command_line()}, found, [images.relative(sample) for sample in found.samples]
        )
    if as_json:
        print(json.dumps({"schema": SCHEMA, "version": VERSION, **body}))
        return
    say_evaluation(body)
    if out is not None:
        print(f"{out / EVAL_FILE}, and beside it {', '.join(one['file'] for one in body['files'])}")


def _predict(job: _Job, files: Sequence[Path], wanted: float | None, out: Path | None, as_json: bool) -> int:
    """Label pictures that have no labels."""
    from tavt_kit.core.records import atomic_text
    from tavt_kit.evaluation.predictions import Predictor
    from tavt_kit.evaluation.tables import FIRST, predictions_csv
    from tavt_kit.verbs.eval_view import threshold_words

    _make(out)
    threshold = None if wanted is None else job.threshold(wanted)
    predictor = Predictor(job.subject.card, job.subject.session)
    found = list(predictor.files(files, FIRST, batch=job.batch))
    bad = [one for one in found if one.error is not None]
    for one in bad:
        print(f"fgvc-kit eval: {one.error}", file=sys.stderr)
    if bad:
        print(f"fgvc-kit eval: {len(bad)} of {len(found)} pictures could not be read", file=sys.stderr)
    if len(bad) == len(found):
        return 2
    text = predictions_csv(found, None if threshold is None else threshold.value)
    if threshold is not None:
        accepted = sum(one.error is None and one.ranked[0][1] >= threshold.value for one in found)
        words = f"{threshold_words(threshold.as_record())}; here {accepted} of {len(found) - len(bad)}"
        print(words, file=sys.stdout if out and not as_json else sys.stderr)
    if out is not None:
        atomic_text(out / "predictions.csv", text)
    if as_json:
        reject = None if threshold is None else threshold.as_record()
        predictions = [one.as_record() for one in found]
        print(json.dumps({"predictions": predictions, "unreadable": len(bad), "reject": reject}))
    elif out is not None:
        print(f"{out / 'predictions.csv'}: {len(found)} pictures")
    else:
        print(text, end="")
    return 0


def _refuse_labelled(split: str | None, real: Path | None) -> None:
    given = [flag for flag, value in (("--split", split), ("--real", real)) if value is not None]
    if given:
        raise ParameterError(f"{' and '.join(given)} need labels, but --unlabelled has none; leave one of them out")


def _pictures(folder: Path) -> list[Path]:
    from tavt_kit.data.folders import pictures_below

    return pictures_below(folder)


def _make(out: Path | None) -> None:
    from tavt_kit.core.records import make_folder

    if out is not None:
        make_folder(out)


def _real_labels(file: Path) -> list[frozenset[int]]:
    """Read before anything is evaluated, so that a wrong file costs no time."""
    from tavt_kit.data.real_labels import read_real

    return read_real(file)


def _real_accuracy(found: Answered, reassessed: list[frozenset[int]], split: str) -> dict[str, Any]:
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.data.real_labels import count_real

    counts = count_real(found.samples, found.said.tolist(), reassessed)
    return Accuracy.of_counts(*counts, split=split, metric="real").as_record()
