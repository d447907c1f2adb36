"""compare: two records side by side, with significance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tavt_kit.comparison.comparison import (
    Comparison,
    Entry,
    Readable,
    compare_records,
    is_judged,
    list_run_files,
    read_readable,
)
from tavt_kit.core.budget import Verdict, worst
from tavt_kit.core.codec import encode
from tavt_kit.core.parsing import parse_fraction
from tavt_kit.core.records import label_record
from tavt_kit.errors import ParameterError, RecordError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.distill import CONTROL


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CompareResult:
    """How much slower or less accurate candidates became, by each kind of record that both sides have."""

    comparisons: tuple[Comparison, ...]
    threshold: float
    drop: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all changes."""
        return worst(change.verdict for comparison in self.comparisons for change in comparison.changes)

    @property
    def record(self) -> Mapping[str, Any]:
        """Everything, JSON-ready; a comparison writes no file."""
        limits = {"threshold": self.threshold, "drop": self.drop / 100}
        body = {"verdict": str(self.verdict), **limits, "comparisons": encode(self.comparisons)}
        return label_record("comparison", body)

    def to_frame(self) -> Frame:
        """One line a change: kind of record, candidate, figure, before, after, change with its bounds, verdict."""
        return frame([
            {
                "kind": comparison.kind, "name": change.name, "other": change.other, "figure": change.figure,
                "before": change.before, "after": change.after, "change": change.estimate.value,
                "low": change.estimate.low, "high": change.estimate.high, "verdict": str(change.verdict),
            }
            for comparison in self.comparisons
            for change in comparison.changes
        ])  # fmt: skip

    def __repr__(self) -> str:
        kinds = ", ".join(f"{len(comparison.changes)} of {comparison.kind}" for comparison in self.comparisons)
        return f"<compared: {self.verdict}, {kinds}>"


def compare(
    before: str | Path,
    after: str | Path,
    *,
    threshold: str | float = 0.05,
    drop: float = 0.5,
    reference: str | None = None,
    across: bool = False,
) -> CompareResult:
    """Compare two records.

    A change FAILs where it is for sure above ``threshold`` or ``drop``, PASSes where for sure it is not, and is
    INCONCLUSIVE where the line lies between its bounds.

    Args:
        before: Record (``bench.json``, ``eval.json``, ...) or run folder.
        after: Record of the same kind or run folder.
        threshold: Slowdown above which a candidate fails, such as 0.05 or ``"5%"``.
        drop: Loss of accuracy above which it fails, in points.
        reference: Candidate in both records; times are compared as multiples of its.
        across: Whether records of different hosts, targets, protocols or data are compared too.

    Raises:
        RecordError: A record cannot be read, or the two differ in what must agree.
        ParameterError: A limit is below 0.

    Example:
        >>> compare("before/bench.json", "after/bench.json", threshold=0.1).verdict  # doctest: +SKIP
    """
    threshold = parse_fraction(str(threshold), "`threshold`", "5% or 0.05")
    if not 0 <= drop <= 100:
        raise ParameterError(f"`drop` is from 0 to 100 points, got {drop}")
    comparisons = [
        compare_records(first, second, threshold=threshold, drop=drop / 100, reference=reference, across=across)
        for first, second in _pairs(Path(before), Path(after))
    ]
    return CompareResult(tuple(comparisons), threshold, drop)


def _read(path: Path) -> Readable:
    """A record; of a search with what the store beside it knows of each image, of a distillation with its control."""
    record = read_readable(path)
    if record.kind == "run" and is_judged(control := path.parent / CONTROL / path.name):
        alone = [replace(entry, name=f"{entry.name}, by labels alone") for entry in read_readable(control).entries]
        return replace(record, entries=(*record.entries, *alone))
    if record.kind != "front":
        return record
    from tavt_kit.search.store import stored_bits

    choices = [entry.choice for entry in record.entries if entry.choice is not None]
    entries = list[Entry]()
    for entry, stored in zip(record.entries, stored_bits(path.parent / "search.db", choices), strict=True):
        (images, bits), shown = stored or ("", ""), entry.accuracy
        # The images it had right, where the stored ones make up the accuracy that the record shows.
        if bits and shown is not None and shown.metric == "top1":
            if shown.n == len(bits) and round(shown.value * shown.n) == bits.count("1"):
                entry = replace(entry, correct=bits, images=images)
        entries.append(entry)
    return replace(record, entries=tuple(entries))


def _pairs(first: Path, second: Path) -> list[tuple[Readable, Readable]]:
    """The records of each side; of two run folders every kind that both have."""
    if not (first.is_dir() and second.is_dir()):
        files = (path / twin.name if path.is_dir() else path for path, twin in ((first, second), (second, first)))
        before, after = map(_read, files)
        return [(before, after)]
    ours, theirs = list_run_files(first), list_run_files(second)
    kinds = [kind for kind in ours if kind in theirs]
    if not kinds:
        raise RecordError(f"{first} has {', '.join(ours)} and {second} {', '.join(theirs)}: no record in common")
    return [(_read(ours[kind]), _read(theirs[kind])) for kind in kinds]
