"""One artifact's comparison with its source: its verdict, and the report that ``check.json`` keeps.

An f32 artifact must be its source: every logit, on every image, but for images on which the source itself hangs on the
last bits. Of a narrower artifact the paired interval decides whether its accuracy fell by more than was allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.checks.claims import TokenChoice
from tavt_kit.checks.compare import Answers, Figures, Losses
from tavt_kit.checks.pixels import PixelCheck
from tavt_kit.checks.small_sets import Decision
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Limit, Verdict, facts_of, worst
from tavt_kit.core.budget import judge as judge_limit
from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.records import read_record, write_record
from tavt_kit.errors import RecordError


@dataclass(frozen=True, slots=True)
class BatchCheck(Record):
    """Whether an artifact gives the same answers whatever the batch, but for near ties.

    Of the sizes the first is that of the main pass, the last the part of a batch at its end; none are there where the
    answers were given elsewhere. The difference of an image's logits in two batches is a share of the largest logit.
    """

    sizes: tuple[int, ...]
    largest_difference: float
    passed: bool
    reason: str = ""

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; an infinite difference becomes null."""
        largest = self.largest_difference
        return Record.as_record(self) | {"largest_difference": largest if math.isfinite(largest) else None}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found of one artifact.

    Args:
        precision: In which the weights are stored.
        executed: Target text, with the precision that really ran.
        source_top1: Accuracy of the source at the same schedule, in torch f32.
        largest_difference: Difference of two logits of one image; null where the artifact gave a NaN.
        strayed: Images whose logits differ by more than the tolerance.
        tied: Strayed images that hang on the last bits of the source itself.
        losses: Against the dense source, where it was run.
        correct: Which images the artifact has right, as ``bits_text`` writes it.
        decision: What to do where the verdict is INCONCLUSIVE.
    """

    artifact: str
    sha256: Mapping[str, str]
    precision: str
    executed: str
    schedule: tuple[int, ...]
    verdict: Verdict
    reason: str
    source_top1: Accuracy
    artifact_top1: Accuracy
    difference: PairedDifference
    agreement: float
    largest_difference: float | None
    scale: float
    strayed: int
    tied: int
    batches: BatchCheck
    figures: Figures = field(metadata=recorded_as(inline=True))
    dense_top1: Accuracy | None = None
    against_dense: PairedDifference | None = None
    images_to_decide: int | None = None
    same_weights: bool = True
    token_choice: TokenChoice | None = None
    losses: Losses | None = None
    correct: str = ""
    pixels: PixelCheck | None = field(default=None, metadata=recorded_as(omit_default=True))
    decision: Decision | None = field(default=None, metadata=recorded_as(omit_default=True))

    @property
    def is_taken(self) -> bool:
        """Whether the file may be used: it passed, or the images decide for it where a proof wants more of them."""
        return self.verdict is Verdict.PASS or (self.decision is not None and self.decision.taken)

    @property
    def sentence(self) -> str:
        """For people: file, verdict, why."""
        return f"{self.artifact}: {self.verdict}: {self.reason}"


def write_check(path: Path, entries: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``check.json`` and give it: the artifacts' records, their worst verdict, and the keys of ``body``."""
    verdict = worst(Verdict(entry["verdict"]) for entry in entries)
    return write_record(path, "check", {"verdict": str(verdict), **body, "checks": [dict(e) for e in entries]})


def read_check(path: Path) -> dict[str, Any]:
    """Read ``check.json``. Raises RecordError: it is not there, or is no check."""
    record = read_record(path, "check")
    if not isinstance(record.get("checks"), list):
        raise RecordError(f"{path} has no list of checks; run fgvc-kit check again")
    return record


_MOST_IMAGES = 10_000_000


@dataclass(frozen=True, slots=True)
class Gate(Record):
    """What an artifact may lose: in f32 a ``tolerance`` of its logits, as a share of the source's largest; any other
    a ``drop`` of accuracy, as a fraction of all images (0.005 is half a point).
    """

    tolerance: float = 1e-3
    drop: float = 0.005

    @property
    def limit(self) -> Limit:
        """``drop`` as a limit of a budget; raises BudgetError where it is none."""
        return Limit("drop", None, "<=", self.drop)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its sentence; how many images would decide, where it is INCONCLUSIVE."""

    verdict: Verdict
    reason: str
    images_to_decide: int | None = None


def judge(
    answers: Answers,
    gate: Gate,
    batches: BatchCheck,
    *,
    exact: bool,
    tied: Sequence[int] = (),
    moved: Sequence[int] = (),
    fault: str = "",
) -> Judgement:
    """The verdict.

    Args:
        exact: Whether it must be its source: f32 weights, run in f32.
        tied: Indices of images on which the source's own choice of tokens hangs on the last bits.
        moved: Indices of images on which the source answers as the artifact does, where it sees the artifact's pixels.
    """
    if fault:
        return Judgement(Verdict.FAIL, fault)
    if not batches.passed:
        return Judgement(Verdict.FAIL, batches.reason)
    if not answers.finite:
        bad = int((~np.isfinite(answers.artifact)).any(axis=1).sum())
        return Judgement(Verdict.FAIL, f"it gives NaN or infinite logits for {bad} of {answers.n} images")
    return _exact(answers, gate, tied, moved) if exact else _allowed(answers, gate)


def _exact(answers: Answers, gate: Gate, tied: Sequence[int], moved: Sequence[int]) -> Judgement:
    errors = answers.errors()
    strayed = np.flatnonzero(errors > gate.tolerance)
    unexplained = sorted(set(strayed.tolist()) - set(tied) - set(moved))
    if unexplained:
        off = float(errors[unexplained].max())
        return Judgement(
            Verdict.FAIL,
            f"its logits differ from the source's by more than {gate.tolerance:g} of the largest on {len(unexplained)} "
            f"of {answers.n} images (worst {off:.2g}), top-1 agreement {100 * answers.agreement:.1f} %",
        )
    steady = np.delete(errors, strayed)
    worst = f"worst difference {steady.max(initial=0):.1e} of the largest"
    reason = f"same logits as its source on {len(steady)} images ({worst})"
    if moved:
        reason += (
            f"; on {len(moved)} more (worst {errors[list(moved)].max():.2g}, top-1 agreement "
            f"{100 * answers.agreement:.1f} %) the source gives them too, where it sees the file's own pixels"
        )
    if tied:
        reason += f"; on {len(tied)} more the source's own tokens tie in the last bits, and the other one stayed"
    return Judgement(Verdict.PASS, reason)


def _allowed(answers: Answers, gate: Gate) -> Judgement:
    difference = answers.against(answers.source)
    facts = facts_of(difference=difference)
    verdict = judge_limit(gate.limit, facts)
    low, high = 100 * difference.low, 100 * difference.high
    reason = (
        f"top-1 changes by {100 * difference.difference:+.2f} points [{low:+.2f}, {high:+.2f}] on {difference.n} "
        f"images ({difference.flips} flips); it may fall by {100 * gate.drop:g}"
    )
    if verdict is not Verdict.INCONCLUSIVE:
        return Judgement(verdict, reason)
    # What a user can act on: what these images do show.
    most = math.ceil(1000 * facts["drop"].high) / 10
    reason += f"; {100 * answers.agreement:.1f} % of its answers are its source's, and a limit of {most:g} would pass"
    needed = images_to_decide(difference, gate.limit)
    if needed is None:
        return Judgement(verdict, f"{reason}; the loss lies on the line, so no number of images would decide")
    return Judgement(verdict, f"{reason}; about {needed:,} images would decide at this rate of flips", needed)


def images_to_decide(difference: PairedDifference, limit: Limit) -> int | None:
    """How many images, at least those there are, would move the interval off the line if flips go on at the same rate;
    None where not even ten million would do."""

    def decides(n: int) -> bool:
        times = n / difference.n
        gained, lost = round(difference.gained * times), round(difference.lost * times)
        scaled = PairedDifference.of_counts(gained, lost, n)
        return judge_limit(limit, facts_of(difference=scaled)) is not Verdict.INCONCLUSIVE

    low = high = difference.n
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_IMAGES:
            return None
    while high - low > max(1, high // 200):  # half a per cent is exact enough for an estimate
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
