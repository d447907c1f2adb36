"""Rival: a model that is no schedule of the searched one, held against the same budget on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget, Verdict, facts_of, judge, worst
from tavt_kit.core.candidate import latency_record
from tavt_kit.core.measurement import Measurement, PairedRatio

__all__ = ["Rival"]


@dataclass(frozen=True, slots=True)
class Rival:
    """What a dropped ViT has to beat: the dense model made cheaper in another way, or a model of the user's.

    Args:
        name: For people: ``dense at 84 px``.
        kind: As a row of ``final.json`` has it: ``int8``, ``resolution``, ``layers``, ``taper`` or ``other``.
        split: Of its pictures.
        macs: Multiply-adds of one image; ``None`` where they cannot be counted.
        accuracy: On the pictures of the search; ``None`` where its weights are random.
        others: Further metrics of the same pictures.
        difference: Paired difference to the dense model.
        latency: On the target, measured among the candidates of the front; ``None`` where nothing is measured.
        ratio: The dense model's time over its own, round by round.
        batch: Pictures of one measured pass.
        verdict: The worst over the budget; ``None`` before it is judged.
        note: A few words on how it was made.
    """

    name: str
    kind: str
    split: str
    macs: int | None = None
    accuracy: Accuracy | None = None
    others: tuple[Accuracy, ...] = ()
    difference: PairedDifference | None = None
    latency: Measurement | None = None
    ratio: PairedRatio | None = None
    batch: int = 1
    verdict: Verdict | None = None
    note: str = ""

    def judged(self, budget: Budget) -> Rival:
        """With its verdict; of what is not known it is INCONCLUSIVE."""
        facts = facts_of(
            macs=self.macs, latency=self.latency, batch=self.batch, accuracies=(self.accuracy, *self.others),
            difference=self.difference,
        )  # fmt: skip
        return replace(self, verdict=worst(judge(limit, facts) for limit in budget))

    def as_record(self) -> dict[str, Any]:
        """A row such as ``final.json`` has, with the paired difference and further metrics."""
        accuracy = self.accuracy
        record: dict[str, Any] = {"name": self.name, "kind": self.kind, "split": self.split}
        if accuracy is not None:
            record |= {accuracy.metric: accuracy.value, "n": accuracy.n, "ci95": [accuracy.low, accuracy.high]}
        if self.others:
            record["others"] = {one.metric: one.as_record() for one in self.others}
        if self.difference is not None:
            record["against_dense"] = self.difference.as_record()
        return record | {
            "macs": self.macs,
            "latency_ms": None if self.latency is None else latency_record(self.latency),
            "ratio": None if self.ratio is None else self.ratio.as_record(),
            "verdict": None if self.verdict is None else str(self.verdict),
            "note": self.note,
        }
