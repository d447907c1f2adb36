"""The rows of ``fit.json``: every file that was measured, which one to ship, why, and the folder it is shipped in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.artifact_card import files_of, read_metadata
from tavt_kit.core.budget import Budget, Fact, Verdict, facts_of, judge, time_facts, worst
from tavt_kit.core.candidate import latency_record
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import atomic_text
from tavt_kit.data.look import DataFacts
from tavt_kit.errors import ExportError
from tavt_kit.evaluation.result import paired
from tavt_kit.exporters import standalone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.core.measurement import Measurement

_IN_BENCH = ("raw_ms", "rounds", "pace")
"""What ``bench.json`` has of every file, and ``fit.json`` leaves there."""
_WEIGHTS = {
    "head": "head only", "adapted": "fine-tuned", "average": "mean of fine-tunes", "distilled": "distilled",
}  # fmt: skip
"""How the weights of a run folder were trained, by the first word of its name."""
KNOWN_LIMITS = ("latency", "throughput", "flops", "top1", "drop")
"""Quantities of a budget that every row knows."""


def weights_words(run: str) -> str:
    """How the weights of a fit's run were trained, for people.

    Example:
        >>> weights_words("adapted-70"), weights_words("mine")
        ('fine-tuned', 'mine')
    """
    return _WEIGHTS.get(run.partition("-")[0], run)


@dataclass(frozen=True, slots=True, eq=False)
class FitRow:
    """One exported file of a run, answered and measured beside all others.

    Args:
        tokens: Tokens of an image before any leaves.
        val: (n,) bool, images of val that it has right.
        test: (m,) bool, the same of test; None without a test split.
    """

    file: Path
    run: Path
    configuration: Configuration
    tokens: int
    macs: int
    val: NDArray[np.bool_]
    test: NDArray[np.bool_] | None
    latency: Measurement

    @property
    def kind(self) -> Literal["ours", "baseline"]:
        """Ours where tokens leave in at least one layer."""
        return "baseline" if self.is_dense else "ours"

    @property
    def is_dense(self) -> bool:
        """Whether every token stays in every layer."""
        return set(self.configuration.schedule.counts) == {self.tokens}

    @property
    def is_whole(self) -> bool:
        """Whether nothing is saved: every token of the full size, in the target's own precision."""
        return self.is_dense and self.configuration.image_size is None and self.configuration.precision is None

    @property
    def precision(self) -> str:
        """The precision of its weights."""
        return self.configuration.precision or "f32"

    @property
    def name(self) -> str:
        """A few words: whether tokens merge (a fit drops none), the image size, the precision, what was trained."""
        size, precision = self.configuration.image_size, self.precision
        words = ["dense" if self.is_dense else "merged", *([] if size is None else [f"{size[1]} px"])]
        words += [precision.upper() if precision == "int8" else precision, f"({weights_words(self.run.name)})"]
        return " ".join(words)

    def accuracy(self, split: Literal["val", "test"]) -> Accuracy | None:
        """Top-1; None without a test split."""
        bits = self.val if split == "val" else self.test
        return None if bits is None else Accuracy.of_counts(int(bits.sum()), len(bits), split=split)

    @property
    def times(self) -> dict[str, float]:
        """``p50``, ``p90`` and ``p99`` in ms."""
        return {"p50": self.latency.median, "p90": self.latency.p90, "p99": self.latency.p99}

    def is_faster(self, other: FitRow) -> bool:
        """Whether nine of ten inferences are no slower."""
        return self.latency.p90 <= other.latency.p90


def dense_row(rows: Sequence[FitRow], run: Path) -> FitRow:
    """The dense model of a run in its fastest precision, whose time a share of latency is of; ExportError without one.

    That is int8, but on processors that have no instructions for its products: there f32 may be faster.
    """
    dense = [row for row in rows if row.run == run and row.is_dense]
    if not dense:
        raise ExportError(f"no file of the dense model of {run} passed its check, so nothing can be held against it")
    return min(dense, key=lambda row: row.latency.median)


@dataclass(frozen=True, slots=True, eq=False)
class FitTable:
    """All rows under one budget; selection reads val and latencies alone.

    Args:
        rows: What was measured side by side; the first is the dense model in f32, which ``drop`` is held against.
        tolerated: Loss of top-1 on val, as a fraction, that the fastest row of the table may have.
    """

    rows: Sequence[FitRow]
    budget: Budget
    batch: int = 1
    tolerated: float = 0.01

    def keeps(self, row: FitRow) -> bool:
        """Whether every limit holds for what was measured; ``verdict`` says whether that is proven."""
        loss, top1 = (int(self.rows[0].val.sum()) - int(row.val.sum())) / len(row.val), float(row.val.mean())
        facts = time_facts({name: (value, value) for name, value in row.times.items()}, self.batch) | {
            "flops": Fact(row.macs, row.macs), "drop": Fact(loss, loss), "top1": Fact(top1, top1),
        }  # fmt: skip
        return all(judge(limit, facts) is Verdict.PASS for limit in self.budget)

    def verdict(self, row: FitRow) -> Verdict:
        """The worst verdict over the budget; floors by test where there is one, for val had its say in the choice."""
        bits, split, seen = (self.rows[0].val, row.val), "val", row is not self.rows[0]
        if row.test is not None and self.rows[0].test is not None:
            bits, split, seen = (self.rows[0].test, row.test), "test", False
        accuracy = Accuracy.of_counts(int(bits[1].sum()), len(bits[1]), split=split)
        facts = facts_of(
            macs=row.macs, latency=self._latency(row), batch=self.batch, accuracies=[accuracy],
            difference=paired(*bits), seen=seen,
        )  # fmt: skip
        return worst(judge(limit, facts) for limit in self.budget)

    def _latency(self, row: FitRow) -> Measurement:
        """Its time as one of all: a row was chosen by its time too, so the rows' times share one doubt."""
        return replace(row.latency, among=len(self.rows))

    def dominated_by(self, row: FitRow) -> list[int]:
        """Rows that answer no worse on val and are no slower, and better in one of the two."""
        return [
            index
            for index, other in enumerate(self.rows)
            if other.is_faster(row)
            and other.val.sum() >= row.val.sum()
            and (other.val.sum() > row.val.sum() or other.latency.p90 < row.latency.p90)
        ]

    def test_dominated_by(self, row: FitRow) -> list[int]:
        """Rows whose paired difference on test lies wholly above, and that are no slower."""
        return [
            index
            for index, other in enumerate(self.rows)
            if row.test is not None and other.test is not None and other is not row and other.is_faster(row)
            if paired(row.test, other.test).low > 0
        ]

    @property
    def recommended(self) -> int | None:
        """Of the rows that keep to the budget the best on val, of equals the fastest; None where none keeps.

        Where the budget limits no time and no multiply-adds it is the fastest of them, of equals the best.
        """
        fitting = [index for index, row in enumerate(self.rows) if self.keeps(row)]

        def rank(index: int) -> tuple[float, float]:
            row = self.rows[index]
            most, least = -float(row.val.sum()), row.latency.p90
            return (most, least) if self.budget.ceilings else (least, most)

        return min(fitting, key=rank, default=None)

    @property
    def shown(self) -> dict[str, int]:
        """The five rows of the closing table, by what each is; one that does not exist is left out."""
        indices = range(len(self.rows))
        dense = [i for i in indices if self.rows[i].is_dense]
        full = [i for i in dense if self.rows[i].tokens == self.rows[0].tokens]
        least = self.rows[0].val.mean() - self.tolerated
        shown = {
            "recommended": self.recommended,
            "dense": 0,
            "dense INT8": self._best([i for i in full if self.rows[i].precision == "int8"]),
            "best smaller image": self._best([i for i in dense if i not in full]),
            "fastest tolerated": min(
                (i for i in indices if self.rows[i].val.mean() >= least), key=lambda i: self.rows[i].latency.p90
            ),
        }
        return {role: index for role, index in shown.items() if index is not None}

    def _best(self, indices: Sequence[int]) -> int | None:
        """The best of them on val, those that keep to the budget first."""
        return max(
            indices, key=lambda i: (self.keeps(self.rows[i]), self.rows[i].val.sum(), -self.rows[i].latency.p90),
            default=None,
        )  # fmt: skip

    @property
    def advice(self) -> str:
        """What to do, in one or two sentences."""
        limits = " and ".join(self.budget.texts())
        index = self.recommended
        if index is None:
            near = min(self.rows, key=lambda row: row.latency.p90)
            return (
                f"Nothing keeps to {limits}: the fastest is {near.name} at {near.latency.p90:.2f} ms (p90) with "
                f"{100 * near.val.mean():.1f} % on val; give it more time, raise the budget, or take a smaller model."
            )
        best, others = self.rows[index], self.shown
        parts = [f"Ship {best.name}: {best.accuracy('val')}, {best.latency.p90:.2f} ms (p90)"]
        if (beside := others.get("dense INT8")) is not None and beside != index:
            other = self.rows[beside]
            parts.append(
                f"dense INT8 has {100 * other.val.mean():.1f} % at {other.latency.p90:.2f} ms"
                + ("" if self.keeps(other) else f", which misses {limits}")
            )
        text = "; ".join(parts) + "."
        if self.verdict(best) is not Verdict.PASS:
            text += (
                f" That it keeps to {limits} was measured and is not proven: bench it longer on a quiet machine, "
                "or judge it by more images."
            )
        if best.is_dense:
            text += " Nothing that reduces tokens is better within the budget here."
        if better := self.test_dominated_by(best):
            named = ", ".join(self.rows[other].name for other in better)
            text += (
                f" On test {named} answers better and is no slower: val chose otherwise, so collect more val images."
            )
        return text

    def as_record(self, folder: Path) -> dict[str, Any]:
        """The body of ``fit.json`` that this table knows; files are relative to the folder."""
        return {
            "recommended": self.recommended, "budgets": self.budget.texts(), "shown": self.shown,
            "advice": self.advice, "rows": [self._row_record(row, folder) for row in self.rows],
        }  # fmt: skip

    def _row_record(self, row: FitRow, folder: Path) -> dict[str, Any]:
        accuracies = {split: row.accuracy(split) for split in ("val", "test")}
        times = latency_record(self._latency(row))
        return {
            "name": row.name,
            "kind": row.kind,
            "configuration": row.configuration.as_record(),
            "run": row.run.name,
            "macs": row.macs,
            **{
                split: None if top1 is None else {"top1": top1.value, "n": top1.n, "ci95": [top1.low, top1.high]}
                for split, top1 in accuracies.items()
            },
            "latency_ms": {name: value for name, value in times.items() if name not in _IN_BENCH},
            "fits": self.keeps(row),
            "verdict": str(self.verdict(row)),
            "file": row.file.relative_to(folder).as_posix(),
            "dominated_by": self.dominated_by(row),
            "test_dominated_by": self.test_dominated_by(row),
        }  # fmt: skip


def write_recommended(folder: Path, table: FitTable, facts: DataFacts, record: Mapping[str, Any]) -> None:
    """Write the recommended row's file as ``model.xml`` or ``model.onnx``, ``predict.py`` and ``README.md``.

    What the folder held before is replaced whole, so that no card stands beside another's file. The record is the body
    of ``fit.json``.
    """
    assert table.recommended is not None
    row = table.rows[table.recommended]
    made, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left in (made, old):
        shutil.rmtree(left, ignore_errors=True)
    made.mkdir()
    for file in files_of(row.file):
        # The .xml of OpenVINO finds its .bin by its own name; an .onnx names its weight file inside.
        renamed = f"model{file.suffix}" if file.suffix in (".xml", ".bin", ".onnx") else file.name
        shutil.copyfile(file, made / renamed)
    shutil.copyfile(str(standalone.__file__), made / "predict.py")
    name = f"model{row.file.suffix}"
    atomic_text(made / "README.md", _card(name, read_metadata(row.file).model, table, facts, record))
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _card(name: str, model: Any, table: FitTable, facts: DataFacts, record: Mapping[str, Any]) -> str:
    """The model card in Markdown."""
    assert table.recommended is not None
    row, host = table.rows[table.recommended], record["host"]
    accuracies = filter(None, (row.accuracy("val"), row.accuracy("test")))
    licences = [f"* {licence.name}: {licence.licence} ({licence.source})" for licence in model.licences]
    budgets, where = " and ".join(table.budget.texts()), TargetDevice.from_record(record["target"])
    times = (
        f"* latency {row.latency.median:.2f} ms median, {row.latency.p90:.2f} ms p90 on {where} "
        f"({host.get('cpu') or 'unknown processor'}), batch {table.batch}; budget {budgets}: {table.verdict(row)}"
    )
    parts = (
        f"# {facts.name}: {model.name}",
        f"{row.name}, schedule {row.configuration}, {row.macs / 1e9:.2f} GMACs an image.",
        "\n".join([*(f"* top-1 {accuracy}" for accuracy in accuracies), times]),
        f"    python predict.py {name} photo.jpg",
        "## Data",
        "\n".join(facts.sentences),
        f"Classes: {', '.join(model.classes)}.",
        "## Licences of weights and images",
        "\n".join(licences) or "* not known",
        f"Made by `{record['command']}`.\n",
    )
    return "\n\n".join(parts)
