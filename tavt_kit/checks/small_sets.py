"""What to do with a file that too few labelled images can neither pass nor fail.

Nothing is lost where a file answers as its source. So the loss is at most the share of images on which they differ,
times how much oftener the source is right there. The first is bounded by images that the model was not trained on,
labelled or not; the second by how much surer the source is of its own answer, one image being added on which it is
quite sure. It is assumed to be right no oftener than it believes: the labelled images hold it to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.compare import Answers
from tavt_kit.checks.source import Source
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.codec import Record
from tavt_kit.core.latency_bounds import DOUBT
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.answers import Run
from tavt_kit.evaluation.metrics import likeliest, probabilities

SEEN, UNLABELLED = "train", "unlabelled"


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """What a user can do with a file that its check leaves INCONCLUSIVE.

    Args:
        taken: Whether it loses no more than is tolerated, by ``loss`` (a bound on the lost top-1) and on the labelled
            images that the model was not trained on (``difference``).
        images: How many of each kind: splits, ``unlabelled``.
        differing: To how many of these the file gives another class than its source.
        doubt: Mean by which the source is surer of its own answer on these, as a fraction, one image of 1 added.
    """

    taken: bool
    loss: float
    images: Mapping[str, int]
    differing: Mapping[str, int]
    doubt: float
    difference: PairedDifference
    sentence: str


def further_answers(
    source: Source, run: Run, preprocessing: Preprocessing | None, order: Sequence[int], schedule: TokenSchedule
) -> dict[str, Answers]:
    """Both models' answers to the source's further images, by their kind; the columns of the file's in this order."""
    answers = {}
    for kind, samples in source.further.items():
        part = Source(source.adaptive, samples, kind)
        before, after = part.logits(schedule), part.answers(run, preprocessing)
        answers[kind] = Answers(part.labels, before, after[:, order])
    return answers


def decide(parts: Mapping[str, Answers], drop: float, proven: float = 1.0) -> Decision:
    """Whether a user who tolerates a loss of ``drop``, a fraction, should take the file.

    Answers are by kind: labelled splits, ``train`` that the model was trained on, and ``unlabelled``. With a loss of
    ``proven``, a fraction, the check would pass by its labels alone.
    """
    fresh = {kind: part for kind, part in parts.items() if kind != SEEN}
    labelled = Answers(*(
        np.concatenate([getattr(part, name) for kind, part in fresh.items() if kind != UNLABELLED])
        for name in ("labels", "source", "artifact")
    ))  # fmt: skip
    heat = _heat(labelled)
    lead = [_lead(part, heat) for part in parts.values()]
    doubt = (float(np.concatenate(lead).sum()) + 1) / (sum(map(len, lead)) + 1)
    images = {kind: part.n for kind, part in parts.items()}
    differing = {kind: len(each) for kind, each in zip(parts, lead, strict=True)}
    n, k = (sum(counts[kind] for kind in fresh) for counts in (images, differing))
    loss = Accuracy.of_counts(k, n, split=UNLABELLED).bounds(DOUBT)[1] * doubt
    difference = labelled.against(labelled.source)
    decision = Decision(loss <= drop and -difference.difference <= drop, loss, images, differing, doubt, difference, "")
    return replace(decision, sentence=_sentence(decision, drop, proven, k, n))


def _sentence(decision: Decision, drop: float, proven: float, k: int, n: int) -> str:
    lost, most, tolerated = -decision.difference.difference, 100 * decision.loss, f"{100 * drop:g} tolerated"
    known = f"{100 * (1 - k / n):.1f} % of {n:,} images that the model was not trained on"
    if seen := decision.images.get(SEEN):
        known += f" (and {100 * (1 - decision.differing[SEEN] / seen):.1f} % of {seen:,} that it was)"
    why = f"it answers as its source on {known}, which leaves a loss of at most {most:.1f} points"
    if decision.taken:
        return f"take it: {why}, within the {tolerated}"
    if lost > drop:
        n = decision.difference.n
        return f"keep the source: on {n:,} labelled images {100 * lost:.1f} points are lost, {tolerated}"
    rate, room = k / n, drop / decision.doubt - k / n
    more = ""
    if room > 0:  # as the bound falls: rate + 1.645 sqrt(rate / n) + 3 / n
        root = (1.645 * math.sqrt(rate) + math.sqrt(2.706 * rate + 12 * room)) / (2 * room)
        more = f", or give some {math.ceil(root**2) - n:,} unlabelled images"
    # The smaller of the two losses would do: whoever tolerates it takes the file, or its check passes.
    enough = math.ceil(1000 * min(decision.loss, proven)) / 10
    return f"keep the source, or tolerate {enough:g} points{more}: {why}, {tolerated}"


def _heat(labelled: Answers) -> float:
    """What the logits are divided by so that the source is at least as sure as it is often right."""
    right, heat = float((likeliest(labelled.source) == labelled.labels).mean()), 1.0
    while heat > 0.05 and float(probabilities(labelled.source / heat).max(axis=1).mean()) < right:
        heat *= 0.9
    return heat


def _lead(part: Answers, heat: float) -> NDArray[np.float64]:
    """Of each image to which both answer differently, how much surer the source is of its own class."""
    own, other = likeliest(part.source), likeliest(part.artifact)
    apart = np.flatnonzero(own != other)
    shares = probabilities(part.source[apart] / heat)
    rows = np.arange(len(apart))
    return np.where(other[apart] < 0, 1.0, shares[rows, own[apart]] - shares[rows, other[apart]])
