"""CheckReport: one artifact's comparison with its source, as ``check.json`` keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tavt_kit.checks.figures import Figures
from tavt_kit.checks.losses import Losses
from tavt_kit.checks.token_choice import TokenChoice
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Verdict, worst
from tavt_kit.core.codec import recorded_as
from tavt_kit.core.records import read_record, write_record
from tavt_kit.errors import RecordError


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """Whether an artifact gives the same answers whatever the batch.

    Args:
        sizes: The batches compared; the first is that of the main pass, the last the part of a batch at its end. None
            where the answers were given elsewhere.
        largest_difference: Between the same image's logits in two batches, as a share of the largest logit.
        passed: Whether it is within the tolerance, but for near ties.
        reason: One clause, where it is not.
    """

    sizes: tuple[int, ...]
    largest_difference: float
    passed: bool
    reason: str = ""

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; an infinite difference becomes null."""
        largest = self.largest_difference
        return {
            "sizes": list(self.sizes),
            "largest_difference": largest if largest < float("inf") else None,
            "passed": self.passed,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found of one artifact.

    Args:
        artifact: The file's name.
        sha256: Of each of its files, by name.
        precision: In which the weights are stored.
        executed: Target text, with the precision that really ran.
        schedule: Its token counts.
        verdict: PASS, FAIL or INCONCLUSIVE.
        reason: One sentence.
        source_top1: Of the source at the same schedule, in torch f32.
        artifact_top1: Of the artifact.
        difference: Artifact minus source, paired.
        agreement: Share of images given the same class by both.
        largest_difference: Between two logits of one image; null where the artifact gave a NaN.
        scale: The source's largest logit.
        strayed: Images whose logits differ by more than the tolerance.
        tied: Of these, how many hang on the last bits of the source itself.
        batches: The comparison of batch sizes.
        figures: What else was counted of both.
        dense_top1: Of the dense source, where it was run.
        against_dense: Artifact minus dense source, paired.
        images_to_decide: Where INCONCLUSIVE.
        same_weights: Whether the artifact was made from the very weights it is checked against.
        token_choice: Which tokens its graph keeps; ``None`` where that was not asked.
        losses: Against the dense source, where it was run.
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

    @property
    def sentence(self) -> str:
        """For people: file, verdict, why."""
        return f"{self.artifact}: {self.verdict}: {self.reason}"


def write_check(path: Path, entries: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> Verdict:
    """Write ``check.json``: what was compared with what, and the artifacts' records; returns the worst verdict.

    Args:
        path: The file.
        entries: Records of ``CheckReport``, one or more.
        body: Keys beside ``verdict`` and ``checks``: source, data, gate, host.
    """
    verdict = worst(Verdict(entry["verdict"]) for entry in entries)
    write_record(path, "check", {"verdict": str(verdict), **body, "checks": [dict(e) for e in entries]})
    return verdict


def read_check(path: Path) -> dict[str, Any]:
    """Read ``check.json``.

    Raises:
        RecordError: It is not there, or is no check.
    """
    record = read_record(path, "check")
    if not isinstance(record.get("checks"), list):
        raise RecordError(f"{path} has no list of checks; run fgvc-kit check again")
    return record
