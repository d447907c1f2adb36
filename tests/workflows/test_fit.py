"""``fit``: what it recommends of what was measured, what it refuses, and the whole way on a tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.progress import Deadline, Silent
from tavt_kit.core.records import read_record, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_images
from tavt_kit.data.look import look_at
from tavt_kit.errors import (
    BudgetError,
    DataError,
    ExportError,
    OutputError,
    RecordError,
    TargetError,
    UnsupportedBackbone,
)
from tavt_kit.workflows.average import AverageResult
from tavt_kit.workflows.check import check
from tavt_kit.workflows.compare import compare
from tavt_kit.workflows.evaluate import evaluate
from tavt_kit.workflows.fit import FitResult, _finalists, _Stages, _usable_sizes, fit
from tavt_kit.workflows.fit_plan import FitPlan, first_plan, in_ms, with_stages
from tavt_kit.workflows.fit_rows import FitRow, FitTable, dense_row, weights_words
from tavt_kit.workflows.predict import predict
from tavt_kit.workflows.run_model import model_at, recommended_of
from tests.verbs.tiny import write_images, write_run
from tests.workflows.conftest import Heard

RUN = Path("runs/one")
SMALL_FIT = """
from tavt_kit import cli
from tavt_kit.workflows import fit, fit_plan

fit_plan._LEAST_STEPS, fit_plan._MOST_STEPS, fit_plan._EPOCHS = 1, 40, 0
fit.LEAST_SEARCH = fit_plan.LEAST_SEARCH = 1e9
fit._Stages._precisions = ("f32",)
cli.main()
"""
"""The command itself, with little training, no search and no INT8."""


def row(right: int, ms: float, *, counts: tuple[int, ...] = (17, 17), precision: str | None = None,
        test: int | None = None, tokens: int = 17) -> FitRow:  # fmt: skip
    """A file that has the first ``right`` of 100 images right, at ``ms`` milliseconds."""
    bits = [None if n is None else np.arange(100) < n for n in (right, test)]
    choice = Configuration(TokenSchedule(counts), precision=precision)
    val = bits[0]
    assert val is not None
    return FitRow(RUN / f"{right}.xml", RUN, choice, tokens, 10, val, bits[1], Measurement((ms,) * 60, steady=True))


def table(*rows: FitRow, budget: str = "latency=8ms") -> FitTable:
    return FitTable(rows, Budget.parse([budget]))


def test_the_best_within_the_budget_is_recommended_whoever_it_is() -> None:
    dense, int8, ours = row(90, 20.0), row(88, 7.0, precision="int8"), row(86, 5.0, counts=(17, 9))
    found = table(dense, int8, ours)
    assert found.recommended == 1 and found.rows[1].kind == "baseline"
    assert "Nothing that reduces tokens" in found.advice
    better = table(dense, int8, row(89, 7.5, counts=(17, 9)))
    assert better.recommended == 2 and "INT8" in better.advice
    assert better.shown == {"recommended": 2, "dense": 0, "dense INT8": 1, "fastest tolerated": 2}


def test_of_equal_answers_the_faster_dominates() -> None:
    found = table(row(90, 20.0), row(88, 7.0), row(88, 6.0), row(88, 6.0))
    assert [found.dominated_by(one) for one in found.rows] == [[], [2, 3], [], []]
    assert found.recommended == 2


def test_a_row_of_the_recommendation_is_never_dominated_by_one_that_keeps_to_the_budget() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = [row(int(rng.integers(80, 90)), float(rng.integers(4, 12))) for _ in range(6)]
        found = table(*rows)
        if (index := found.recommended) is not None:
            assert not found.dominated_by(rows[index]) and found.keeps(rows[index])


def test_nothing_within_the_budget_is_said() -> None:
    found = table(row(90, 20.0), row(80, 9.0, precision="int8"))
    assert found.recommended is None and "9.00 ms" in found.advice and "recommended" not in found.shown


def test_drop_is_held_against_the_dense_model() -> None:
    rows = row(90, 20.0), row(88, 7.0), row(89, 8.0)
    found = FitTable(rows, Budget.parse(["latency=9ms", "drop=1"]))
    assert [found.keeps(one) for one in rows] == [False, False, True]


def test_test_only_speaks_where_its_paired_interval_does() -> None:
    found = table(row(90, 20.0, test=90), row(88, 7.0, test=60), row(87, 6.0, test=85), row(86, 6.5, test=61))
    assert [found.test_dominated_by(one) for one in found.rows] == [[], [2], [], [2]]
    assert found.recommended == 1 and "On test" in found.advice


@pytest.mark.parametrize(
    ("budget", "target", "error", "given"),
    [
        ((), "openvino:cpu", BudgetError, "latency=8ms"),
        ("memory=1GB", "openvino:cpu", BudgetError, "memory"),
        ("latency=8ms", "torch:cpu", TargetError, "torch"),
        ("latency=8ms,drop=1", "openvino:cpu", BudgetError, "once for each"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_written(
    budget: str | tuple[()], target: str, error: type[Exception], given: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=given):
        fit(data, tmp_path / "out", target=target, budget=budget)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "size", "error", "given"),
    [("resnet50", None, UnsupportedBackbone, "ResNet"), ("test_vit", 100, DataError, "take 96x96 or 112x112")],
)
def test_a_model_or_size_that_cannot_be_is_refused_before_anything_is_written(
    model: str, size: int | None, error: type[Exception], given: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=given):
        fit(data, tmp_path / "out", model=model, weights="random", image_size=size)
    assert not (tmp_path / "out").exists()


def test_image_sizes_are_whole_patches(data: Path) -> None:
    images = load_images(str(data))
    assert _usable_sizes(first_plan("vit_tiny_patch16_224", None, None), images) == (224, 160, 112)


def test_a_share_of_the_dense_models_time_becomes_milliseconds() -> None:
    times = {"p50": 5.0, "p90": 6.0, "p99": 9.0}
    found = in_ms(["latency=50%", "latency[p99] <= 20 %", "drop=1"], times)
    assert found.texts() == ["latency=3ms", "latency[p99]=1.8ms", "drop=1"]
    with pytest.raises(BudgetError, match="150 px"):
        in_ms(["latency=150 px"], times)


def test_a_share_is_of_the_dense_model_in_its_fastest_precision() -> None:
    dense, int8, slow = row(90, 20.0), row(89, 8.0, precision="int8"), row(89, 25.0, precision="int8")
    merged = row(88, 5.0, counts=(17, 9), precision="int8")
    assert dense_row([dense, int8, merged], dense.run) is int8 and dense_row([dense, merged], dense.run) is dense
    assert dense_row([dense, slow, merged], dense.run) is dense  # a processor without instructions for int8
    with pytest.raises(ExportError, match="passed its check"):
        dense_row([merged], dense.run)


def test_finalists_are_the_best_another_size_and_one_with_room_for_an_error() -> None:
    def one(fidelity: float, ms: float, size: int | None = None, verdict: str = "PREDICTED") -> dict[str, Any]:
        pixels = {} if size is None else {"image_size": [size, size]}
        return {"fidelity": fidelity, "latency_ms": {"predicted": ms}, "verdict": verdict, **pixels}

    front = [one(0.80, 2.0, 70), one(0.90, 3.0, 84), one(0.95, 3.6, 84), one(0.96, 3.8), one(0.99, 4.0), one(0.98, 3.9)]
    body = {"metric": "fidelity", "candidates": front}
    assert [front.index(each) for each in _finalists(body, by_cost=False)] == [4, 2, 5]  # the second has room, too
    assert [front.index(each) for each in _finalists(body, by_cost=True)] == [0, 1, 2]
    alone = {"metric": "fidelity", "candidates": front[3:]}  # of one size, all about as fast: the best of them
    assert [front.index(each) for each in _finalists(alone, by_cost=False)] == [4, 5, 3]
    with_room = {"metric": "fidelity", "candidates": [one(0.90, 3.0), *front[3:]]}
    assert [each["fidelity"] for each in _finalists(with_room, by_cost=False)] == [0.99, 0.90, 0.98]
    refuted = {"metric": "fidelity", "candidates": [one(0.9, 1.0, verdict="FAIL"), one(0.8, 2.0)]}
    assert _finalists(refuted, by_cost=True)[0]["fidelity"] == 0.8
    assert not _finalists({"metric": "fidelity", "candidates": []}, by_cost=False)


def test_the_times_of_all_rows_share_one_doubt() -> None:
    times = Measurement((7.0,) * 40, steady=True)  # of 40 runs the slowest bounds p90 alone, not among six
    tight = replace(row(90, 7.0), latency=times)
    assert table(tight).verdict(tight) is Verdict.PASS
    many = table(tight, *(row(80, 20.0) for _ in range(5)))
    assert many.keeps(tight) and many.verdict(tight) is Verdict.INCONCLUSIVE
    recorded = many.as_record(RUN)["rows"][0]["latency_ms"]  # the report draws the bounds that the verdict goes by
    assert recorded["among"] == 6 and recorded["p90_bounds"][1] is None
    assert "not proven" in many.advice and "not proven" not in table(tight).advice


def test_without_a_limit_on_cost_the_fastest_that_keeps_is_recommended() -> None:
    found = table(
        row(90, 20.0), row(89, 7.0, precision="int8"), row(89, 6.0, counts=(17, 9)), row(80, 2.0), budget="drop=1"
    )
    assert found.recommended == 2 and not found.dominated_by(found.rows[2])


def _planned(left: float) -> FitPlan:
    plan = replace(first_plan("vit", None, 112), sizes=(98, 70), file_seconds=20.0, head_seconds=40.0)
    return with_stages(plan, left, image_seconds=0.01, finalists=3, images=1000, judged=500)


def test_a_plan_fits_into_its_time_and_says_what_each_stage_takes() -> None:
    share = 1 + (98 / 112) ** 2 + (70 / 112) ** 2
    least = 48 * 0.01 * 250 * share + 2 * 500 * 0.01 * share  # 280 s: 250 steps at three sizes, and their mean
    short, some, long = _planned(90.0), _planned((140 + least) / 0.8 + 5), _planned(2000.0)
    assert (short.adapt_steps, some.adapt_steps, long.adapt_steps) == (0, 253, 312)
    assert (short.distil_steps, some.distil_steps, long.distil_steps) == (0, 0, 312)
    assert some.seconds is not None and sum(some.seconds.values()) <= (140 + least) / 0.8 + 5
    assert long.seconds is not None and sum(long.seconds.values()) <= 2000
    assert some.seconds["search"] == pytest.approx(0.2 * ((140 + least) / 0.8 + 5))
    assert "a head at 98 px" in short.reasons[-2] and "longer" in short.reasons[-1]
    tight = _planned(200.0)  # too short for fine-tuning and a search: weights for the smaller image are worth more
    assert tight.adapt_sizes == (98, 70) and tight.adapt_steps >= 250 and "search" not in (tight.seconds or {})


def test_a_search_ranks_by_as_many_images_as_it_has_time_for() -> None:
    assert [_planned(left).search_images for left in (300.0, 2000.0, 20_000.0)] == [128, 200, 500]


def test_fine_tunes_that_come_later_get_what_is_left_of_the_time() -> None:
    plan = replace(_planned(2000.0), adapt_steps=300)  # of 112, 98 and 70 pixels
    needed = sum(plan.stage_seconds(f"fine-tune at {size} px") for size in (98, 70))
    rest = plan.end_seconds() + plan.stage_seconds("the mean of the fine-tunes")
    assert plan.end_seconds() == 4 * 20 and plan.steps_at(98, rest + needed + 0.1) == 300
    assert plan.steps_at(98, rest + 0.5 * needed + 0.1) == 150
    assert plan.steps_at(98, rest + 0.3 * needed) == 0 == plan.steps_at(98, 10.0)  # a head must do
    assert plan.steps_at(84, 1e9) == 0  # nobody planned that


@dataclass(slots=True)
class _Clockwork(_Stages):
    """A fit of which every stage takes its time by a clock of its own: what the plan thinks, ``busy`` times as long."""

    now: list[float] = field(default_factory=lambda: [0.0])
    busy: float = 1.0
    done: list[str] = field(default_factory=list)

    def takes(self, seconds: float, what: str = "") -> None:
        # A machine gets busy once the first answer is there, and its plan with it.
        self.now[0] += seconds * (self.busy if self.first_seconds else 1.0)
        self.done += [what] if what else []

    def forward_seconds(self, name: str, size: int) -> float:
        return 0.005 * (size / 112) ** 2

    def _train(self, out: Path, recipe: str, **changes: Any) -> None:
        size, steps = changes.get("image_size", self.plan.image_size), changes.get("steps", 0)
        watcher = changes.get("progress", self.progress)
        watcher.stage("features", 60)
        watcher.stage("training", steps)
        for _ in range(steps):
            self.takes(3 * 16 * self.forward_seconds("", size))
            watcher.advance()
        self.takes(0.0 if steps else 20.0, out.name)

    def _dense(self, run: Path, *precisions: str) -> Any:
        return {(run, precision, 112): [TokenSchedule((17, 17))] for precision in precisions}

    def _exported(self, folder: Path, key: Any, schedules: Sequence[TokenSchedule]) -> list[Any]:
        self.takes(8.0 * len(schedules), f"export {key[0].name}")
        sizes = {"adapted-84": (84, 84), "adapted-70": (70, 70)}
        choice = Configuration(schedules[0], sizes.get(key[0].name), precision="int8" if key[1] == "int8" else None)
        return [(folder / key[0].name / str(each), key[0], choice, 17, 10) for each in range(len(schedules))]

    def _answers(self, folder: Path, files: Sequence[Any], asked: Sequence[str]) -> list[tuple[Any, Any]]:
        images = sum(len(self.images.splits[split]) for split in asked) / len(self.images.splits["val"])
        self.takes(1.5 * len(files) * images, f"ask {len(files)} {' '.join(asked)}")
        return [(np.ones(9, bool), np.ones(9, bool) if "test" in asked else None) for _ in files]

    def _times(self, folder: Path, files: Sequence[Path]) -> dict[Path, Measurement]:
        self.takes(8.0 * len(files), f"measure {len(files)}")
        return {file: Measurement((5.0,) * 60, steady=True) for file in files}

    def _searched(self, network: Path, head: Path, rows: Sequence[FitRow], files: int) -> list[Any]:
        if (seconds := self._search_seconds(files)) < 40:
            return []
        self.now[0] += seconds  # it has a clock itself
        self.done.append("search")
        return [((network, "int8", 84), TokenSchedule((17, count))) for count in (8, 9, 10)]

    def _finished(self, facts: Any, rows: Sequence[FitRow]) -> Any:
        record = {"recommended": 0, "rows": [{"file": "a.xml"}], "seconds": {}}
        return FitResult(self.out, record, FitTable(rows, Budget.parse(["latency=8ms"])))


@pytest.mark.parametrize(
    ("busy", "minutes"),
    [
        (1.0, 4),
        (1.0, 8),
        (1.0, 12),
        (1.5, 4),
        (1.5, 8),
        (1.5, 12),
        (1.5, 40),
        (2.0, 6),
        (2.5, 4),
        (2.5, 6),
        (2.5, 12),
        (2.5, 40),
        (4.0, 6),
        (4.0, 12),
    ],
)
def test_the_whole_of_it_keeps_to_its_time_where_the_machine_gets_busy(
    busy: float, minutes: float, data: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tavt_kit.workflows import fit as module

    now, images = [0.0], load_images(str(data))
    rows = [{"image_size": 112, "difference": PairedDifference.of_counts(0, 0, 9).as_record()}]

    def fake(seconds: float, what: str, result: object) -> Callable[..., Any]:
        return lambda *args, **named: (stages.takes(seconds, f"{what} {named.get('limit')}"), result)[1]

    target = TargetDevice.parse("openvino:cpu").resolved()
    stages = _Clockwork(
        tmp_path, {}, images, str(data), target, ["latency=8ms"], Deadline(60 * minutes, clock=lambda: now[0]), 0,
        False, heard, (112,), now=now, busy=busy,
    )  # fmt: skip
    monkeypatch.setattr(module, "load_model", lambda run: SimpleNamespace(layout=TokenLayout(17, 2), grid=(4, 4)))
    monkeypatch.setattr(module, "image_sizes", lambda *given: (84, 70))
    monkeypatch.setattr(module, "read_card", lambda run: SimpleNamespace(weights_sha256="1"))
    monkeypatch.setattr(module, "write_report", lambda *given: None)
    monkeypatch.setattr(module, "average", fake(0.1, "mean", AverageResult(tmp_path / "average", {"rows": rows})))
    checked = SimpleNamespace(verdict="PASS", reason="alike")
    monkeypatch.setattr(module, "check", fake(3.0, "check", SimpleNamespace(checks=[checked])))
    monkeypatch.setattr(module, "_recorded_times", dict)
    stages.run(first_plan("vit", None, 112))
    assert now[0] <= 60 * minutes, stages.done
    if (busy, minutes) == (1.0, 12):
        assert {"adapted-112", "adapted-84", "adapted-70", "search"} <= set(stages.done)
        assert any(done.startswith("export distilled-") for done in stages.done)


@pytest.mark.parametrize(
    ("tuned", "differences", "searched"),
    [
        ((112, 84, 70), [(3, 5, 100), (5, 5, 100), (2, 0, 100)], "average"),
        ((84, 70), [(3, 5, 100), (0, 30, 100)], "adapted-84"),  # beyond doubt worse than one of them
        ((70,), None, "adapted-70"),
        ((), None, "head-84"),
    ],
)
def test_the_mean_of_the_fine_tunes_is_searched_unless_val_shows_one_to_be_better(
    tuned: tuple[int, ...], differences: list[tuple[int, int, int]] | None, searched: str, tmp_path: Path,
    heard: Heard, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from tavt_kit.workflows import fit as module

    def average(runs: list[Path], out: Path, **named: object) -> AverageResult:
        assert differences is not None and [run.name for run in runs] == [f"adapted-{size}" for size in tuned]
        rows = [
            {"image_size": size, "difference": PairedDifference.of_counts(*counts).as_record()}
            for size, counts in zip(tuned, differences, strict=True)
        ]
        return AverageResult(out, {"rows": rows})

    monkeypatch.setattr(module, "average", average)
    stages = module._Stages.__new__(module._Stages)
    stages.out, stages.fresh, stages.progress, stages.pace = tmp_path, False, heard, 1.0
    stages.deadline = Deadline(None)
    stages.plan = replace(first_plan("vit", None, 112), sizes=(84, 70), adapt_sizes=tuned)
    runs = {size: tmp_path / f"{'adapted' if size in tuned else 'head'}-{size}" for size in (112, 84, 70)}
    assert stages._network(runs).name == searched
    assert ("left out" in " ".join(heard.said)) is (len(tuned) == 2)


def test_a_fine_tune_that_was_given_up_is_not_taken_up_again(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tavt_kit.workflows import fit as module

    def tuned(stages: Any, out: Path, size: int, steps: int, **changes: Any) -> None:
        out.mkdir()
        raise module._Slow(30.0)

    monkeypatch.setattr(module._Stages, "_fine_tuned", tuned)
    stages = module._Stages.__new__(module._Stages)
    stages.out, stages.fresh, stages.progress, stages.pace = tmp_path, False, heard, 1.0
    stages.asked, stages.deadline = {}, Deadline(600.0)
    stages.plan = replace(_planned(2000.0), adapt_steps=300, adapt_sizes=(112,), image_size=112)
    for _ in range(2):
        assert stages._at_size(tmp_path / "head", 112) is None  # where the head at this size is what is left
        assert stages.plan.fewer_steps == {"112": 0} and (tmp_path / "adapted-112").is_dir()


def test_what_was_fine_tuned_is_measured_before_heads(tmp_path: Path, heard: Heard) -> None:
    from tavt_kit.workflows import fit as module

    stages = module._Stages.__new__(module._Stages)
    stages.out, stages.fresh, stages.progress, stages.pace, stages.fastest = tmp_path, False, heard, 1.0, "int8"
    stages.plan, stages.file_seconds, stages.deadline = first_plan("vit", None, 112), 30.0, Deadline(40.0)
    names = [("adapted-112", "f32"), ("adapted-112", "int8"), ("head-84", "int8"), ("adapted-70", "int8")]
    wanted = {(tmp_path / name, bits, 112): [TokenSchedule((17, 17))] for name, bits in names}
    assert [run.name for run, _, _ in stages._in_time(wanted, tmp_path / "adapted-112")] == ["adapted-70"]
    assert heard.said == ["Time is left for 1 of 4 files."]


def test_another_fits_folder_is_refused(data: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "plan.json", "fit-plan", {"asked": {"data": "birds"}, "plan": {}})
    with pytest.raises(OutputError, match="birds"):
        fit(data, tmp_path, budget="latency=8ms")


def test_a_fit_that_recommends_nothing_stands_for_nothing(tmp_path: Path) -> None:
    assert recommended_of(tmp_path) is None
    body = {**table(row(90, 20.0)).as_record(RUN), "data": {}, "target": {}, "host": {}, "command": ""}
    write_record(tmp_path / "fit.json", "fit", body)
    with pytest.raises(
        RecordError, match=r"one of its rows \(dense, fastest-tolerated\): Nothing keeps to latency=8ms"
    ):
        predict(tmp_path, tmp_path / "a.png")
    write_run(tmp_path / body["rows"][0]["run"])  # asked for the dense model, it has one
    assert str(model_at(tmp_path, "dense", Silent())[0].schedule) == "17x4"
    dense = recommended_of(tmp_path, pick="dense")
    assert dense is not None and dense.file == tmp_path / body["rows"][0]["file"]
    with pytest.raises(RecordError, match="`pick` takes dense, fastest-tolerated, 0, got 'fast'"):
        recommended_of(tmp_path, pick="fast")


def test_two_fits_are_compared_file_by_file(tmp_path: Path) -> None:
    for folder, right in (("a", 90), ("b", 20)):
        (tmp_path / folder).mkdir()
        rows = row(95, 20.0, test=95), row(90, 6.0, counts=(17, 9), test=right)
        told = {"data": {"name": "birds"}, "target": TargetDevice.parse("openvino:cpu").as_record(), "command": "",
                "host": HostFacts.gather().as_record()}  # fmt: skip
        write_record(tmp_path / folder / "fit.json", "fit", {**table(*rows).as_record(RUN), **told})
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.comparisons[0].meant == ("recommended: merged f32 (one) 17,9",)
    judged = {(change.name.split(" ")[0], change.figure): change.verdict for change in found.comparisons[0].changes}
    assert judged.pop(("recommended", "time")) is Verdict.PASS  # whatever it is called in each
    assert judged.pop(("recommended", "top1")) is Verdict.FAIL
    assert judged == {("dense", "time"): Verdict.PASS, ("dense", "top1"): Verdict.INCONCLUSIVE,
                      ("merged", "time"): Verdict.PASS, ("merged", "top1"): Verdict.FAIL}  # fmt: skip


def test_copies_and_leaks_are_seen(tmp_path: Path) -> None:
    for split, each in (("train", 4), ("val", 2), ("test", 2)):
        write_images(tmp_path / split, each=each)
    for copy in ("train/disc/copy.png", "val/disc/leak.png"):
        (tmp_path / copy).write_bytes((tmp_path / "train/disc/3.png").read_bytes())
    facts = look_at(load_images(str(tmp_path)))
    # The made images of a class are the same in every split, so val and test hold copies of train's first two.
    assert (facts.doubles, facts.least, facts.most, facts.shorter_edge) == (1, 4, 5, 32)
    assert facts.leaks >= 1 and "two splits" in facts.sentences[-1]


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record keeps its promises, the shipped script runs, and the same call goes on without work."""
    from tavt_kit.workflows import fit as module
    from tavt_kit.workflows import fit_plan

    for name, value in {"_LEAST_STEPS": 1, "_MOST_STEPS": 4, "_EPOCHS": 0}.items():
        monkeypatch.setattr(fit_plan, name, value)
    monkeypatch.setattr(module, "_EVALUATIONS", 40)
    monkeypatch.setattr(module._Stages, "_precisions", ("f32",))
    monkeypatch.setattr(module, "image_sizes", lambda *given: (48, 32))
    images = write_images(tmp_path / "images", each=30)

    def go(seconds: float = 600) -> module.FitResult:
        return fit(images, tmp_path / "out", budget="latency=2s", max_time=seconds, model="test_vit",
                   weights="random", image_size=64, progress=heard)  # fmt: skip

    first = go(1)  # too short for more than the first answer; with more time the same folder gets what it lacks
    assert {row["run"] for row in first.record["rows"]} == {"head"} and "No time is left" in " ".join(heard.said)
    done = go()
    assert {"adapted-64", "adapted-48", "adapted-32"} <= {row["run"] for row in done.record["rows"]}
    assert "The mean against the fine-tune of each size" in " ".join(heard.said)
    found = done.record["search"]  # it evolves, and its finalists are rows of the network that it says
    assert found["by"]["nsga2"] > 0 and sum(found["by"].values()) == found["evaluations"] == 40
    words = weights_words(found["network"])
    assert f"The search evaluated 40 configurations of the network ({words})" in " ".join(heard.said)
    assert found["network"] in {row["run"] for row in done.record["rows"]} - {"head"}
    record = read_record(tmp_path / "out" / "fit.json", "fit")
    assert record["rows"] == done.record["rows"] and len(done.to_frame()) == len(record["rows"])
    best = record["rows"][record["recommended"]]
    assert best["fits"] and not best["dominated_by"]
    assert max(one["val"]["top1"] for one in record["rows"]) == best["val"]["top1"]
    assert {one["kind"] for one in record["rows"]} == {"ours", "baseline"}
    assert all((tmp_path / "out" / one["file"]).is_file() for one in record["rows"])
    assert done.recommended is not None and done.recommended.is_file()
    image = next((images / "disc").iterdir())
    said = subprocess.run(
        [sys.executable, "predict.py", done.recommended.name, str(image)], cwd=done.recommended.parent, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.startswith(f"{image}  ") and " %" in said.stdout
    assert record["check"]["split"] == "test" and record["check"]["verdict"] in ("PASS", "INCONCLUSIVE", "FAIL")
    # The folder stands for what is in it: evaluated, asked, drawn, exported and checked as it was measured.
    assert evaluate(done, split="val").top1.value == best["val"]["top1"]
    assert predict(done, image)[0].label == said.stdout.split("  ")[1].split()[0]
    assert str(model_at(done, None, heard)[1].schedule) == str(
        Configuration.from_record(best["configuration"]).schedule
    )
    assert check(done).verdict is Verdict.PASS and check(done.recommended).verdict is Verdict.PASS
    heard.shown.clear()
    again = go()
    assert again.record["rows"] == done.record["rows"]
    # The sizes of so small a model have no tokens to spare, so that its search finds nothing to distil for.
    out, average = tmp_path / "out", tmp_path / "out" / "average"
    stages = _Stages(out, {}, load_images(str(images)), str(images), TargetDevice.parse("openvino:cpu").resolved(),
                     [], Deadline(600.0), 0, False, heard, (64,))  # fmt: skip
    stages.plan = replace(first_plan("test_vit", "random", 64), sizes=(48, 32), distil_steps=2)
    dense = load_model(average, image_size=(48, 48)).dense_schedule
    fewer = TokenSchedule((dense.counts[0], *(count - 2 for count in dense.counts[1:])))
    assert stages._distilled([((average, "f32", 48), dense)]) == []
    (made,) = stages._distilled([((average, "f32", 48), each) for each in (dense, fewer)])
    (run, _, size), schedule = made
    network = load_model(run)
    assert (schedule, size, network.schedule, network.backbone.image_size) == (fewer, 48, fewer, (48, 48))
    weights = (run / "model.safetensors").stat().st_mtime_ns
    assert stages._distilled([((average, "f32", 48), fewer)]) == [made]
    assert (run / "model.safetensors").stat().st_mtime_ns == weights
    ((file, *_),) = stages._exported(out / "files", made[0], [fewer])
    assert check(file).verdict is Verdict.PASS


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_keeps_the_best_so_far_and_the_same_command_goes_on(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "images", each=12), tmp_path / "out"
    words = f"fit {images} -o {out} --budget latency=2s --max-time 20m --model test_vit --set weights=random "
    words += "--set image-size=64"

    def go(until: str | None = None) -> str:
        """The last line that it says; Ctrl-C as soon as one begins so."""
        line = ""
        with subprocess.Popen(
            [sys.executable, "-c", SMALL_FIT, *words.split()], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True,
        ) as process:  # fmt: skip
            for line in process.stderr or ():
                if until is not None and line.startswith(until):
                    process.send_signal(signal.SIGINT)
        assert process.returncode == (0 if until is None else 130), line
        return line

    def made() -> dict[Path, int]:
        """Weights and files, and when each was written."""
        found = (path for path in out.rglob("*") if path.suffix in (".safetensors", ".xml"))
        return {path: path.stat().st_mtime_ns for path in found if path.parent.name != "recommended"}

    kept = dict[Path, int]()
    for until in ("== fine-tune", "== measure 3"):
        assert go(until) == "fgvc-kit fit: interrupted; the same command goes on from what is finished\n"
        assert kept.items() <= made().items()
        kept = made()
        record = read_record(out / "fit.json", "fit")
        best = record["rows"][record["recommended"]]
        assert [row["run"] for row in record["rows"]] == ["head", "head"]
        assert (out / best["file"]).read_bytes() == (out / "recommended" / "model.xml").read_bytes()
        assert check(out / "recommended" / "model.xml").verdict is Verdict.PASS
    assert {path.parent.name for path in kept if path.suffix == ".safetensors"} == {"head", "adapted-64"}
    go()
    assert kept == made()
    record = read_record(out / "fit.json", "fit")
    assert {row["run"] for row in record["rows"]} >= {"head", "adapted-64"} and "check" in record
    assert not list(out.rglob(".*"))
