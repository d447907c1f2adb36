"""Many schedules at once have the answers that each has alone, however few pictures are looked at first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import MeasurementError, ScheduleError
from tavt_kit.evaluation import evaluator as module
from tavt_kit.evaluation import shared_evaluation
from tavt_kit.evaluation.evaluator import LeanEvaluator
from tavt_kit.evaluation.shared_evaluation import SharedEvaluator
from tests.verbs.tiny import write_run

SCHEDULES = [TokenSchedule(counts) for counts in ((17, 17, 17, 17), (17, 12, 6, 6), (17, 12, 9, 9), (10, 8, 2, 2))]
PIXELS = np.random.default_rng(0).integers(0, 255, (64, 3, 4, 4), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
LABELS = np.random.default_rng(1).integers(0, 3, 64)
PREPROCESSING = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("shared") / "run")


def evaluator(run: Path, kind: type[LeanEvaluator] = SharedEvaluator, **named: Any) -> Any:
    return kind(load_model(run), PIXELS, LABELS, PREPROCESSING, **named)


@pytest.mark.parametrize("tokens_at_once", [17, 17 * 5, 6000])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_answers_are_those_of_each_alone(run: Path, tokens_at_once: int, precision: str) -> None:
    lean = evaluator(run, LeanEvaluator, precision=precision)
    shared = evaluator(run, tokens_at_once=tokens_at_once, precision=precision)
    found = dict(shared.answers(SCHEDULES))
    assert list(found) == SCHEDULES
    for schedule, answer in found.items():
        expected = lean.right(schedule)
        # bf16 rounds where f32 agrees to 1e-5, so that a picture in many may fall on the other side.
        assert (answer.right != expected).sum() <= (0 if precision == "f32" else 3)
        assert answer.accuracy.n == 64 and answer.accuracy.value == answer.right.mean() and answer.seconds > 0
    assert len({answer.right.tobytes() for answer in found.values()}) == len(SCHEDULES)


@pytest.mark.parametrize("kind", [LeanEvaluator, SharedEvaluator])
def test_in_bf16_weights_are_converted_once_a_pass(
    run: Path, kind: type[LeanEvaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(run)
    products = sum(isinstance(part, torch.nn.Linear) for part in model.modules())
    monkeypatch.setattr(module, "_TOKENS_AT_ONCE", 17 * 4)
    monkeypatch.setattr(torch, "is_autocast_cache_enabled", lambda: False)  # as some converters leave it

    def conversions(pictures: int) -> int:
        seen = kind(model, PIXELS[:pictures], LABELS[:pictures], PREPROCESSING, precision="bf16")
        if isinstance(seen, SharedEvaluator):
            seen.tokens_at_once = 17 * 4
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            seen.answer(SCHEDULES[0])
        return sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")

    one, three = (conversions(4 * batches) for batches in (1, 3))
    again = (three - one) / 2  # for each further batch: activations alone
    assert again > 0 and one - again >= products


def test_parts_add_up_to_the_whole(run: Path) -> None:
    lean, shared = evaluator(run, LeanEvaluator), evaluator(run)
    parts = [dict(shared.look(SCHEDULES, start, stop)) for start, stop in ((0, 20), (20, 64))]
    for schedule in SCHEDULES:
        assert [part[schedule].accuracy.n for part in parts] == [20, 44]
        assert np.array_equal(np.concatenate([part[schedule].right for part in parts]), lean.right(schedule))


def test_a_schedule_that_is_asked_twice_is_one(run: Path) -> None:
    once, twice = dict(evaluator(run).answers(SCHEDULES)), list(evaluator(run).answers([*SCHEDULES, SCHEDULES[0]]))
    assert len(twice) == len(SCHEDULES) + 1
    assert all(np.array_equal(answer.right, once[schedule].right) for schedule, answer in twice)


def test_a_comparison_costs_no_second_pass(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = evaluator(run)
    found = dict(shared.answers(SCHEDULES))
    monkeypatch.setattr(shared_evaluation, "shared_logits", lambda *arguments: pytest.fail("a second pass"))
    difference = shared.against(SCHEDULES[0], SCHEDULES[3])
    assert difference.gained == int((found[SCHEDULES[3]].right & ~found[SCHEDULES[0]].right).sum())


def test_a_schedule_whose_logits_are_not_finite_fails_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = shared_evaluation.shared_logits

    def broken(model: Any, images: torch.Tensor, schedules: Any) -> Iterator[Any]:
        for schedule, logits in walk(model, images, schedules):
            yield schedule, logits * float("nan") if schedule == SCHEDULES[1] else logits

    monkeypatch.setattr(shared_evaluation, "shared_logits", broken)
    found = dict(evaluator(run).answers(SCHEDULES))
    assert "not finite" in found[SCHEDULES[1]].failure
    assert all(found[schedule].failure is None for schedule in SCHEDULES if schedule != SCHEDULES[1])


def test_where_the_memory_runs_out_for_one_the_others_are_answered(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = shared_evaluation.shared_logits

    def large(model: Any, images: torch.Tensor, schedules: Any) -> Iterator[Any]:
        if SCHEDULES[3] in schedules:
            raise MemoryError
        return walk(model, images, schedules)

    monkeypatch.setattr(shared_evaluation, "shared_logits", large)
    found = dict(evaluator(run).answers(SCHEDULES))
    assert "memory ran out" in found[SCHEDULES[3]].failure
    assert all(found[schedule].failure is None for schedule in SCHEDULES[:3])
    with pytest.raises(MeasurementError, match="memory ran out"):
        evaluator(run).right(SCHEDULES[3])


def test_the_model_stays_as_it_was(run: Path) -> None:
    shared = evaluator(run)
    shared.model.train()
    shared.model.schedule = SCHEDULES[1]
    list(shared.answers(SCHEDULES[:2]))
    assert shared.model.training and shared.model.schedule == SCHEDULES[1]


@pytest.mark.slow
def test_openvino_answers_as_torch_does(run: Path) -> None:
    from tavt_kit.evaluation.openvino_evaluation import openvino_evaluator

    lean, compiled = evaluator(run, LeanEvaluator), evaluator(run, openvino_evaluator, threads=1)
    for schedule, answer in compiled.answers(SCHEDULES):
        assert np.array_equal(answer.right, lean.right(schedule)), schedule
    part = dict(compiled.look(SCHEDULES[1:2], 10, 30))[SCHEDULES[1]]
    assert np.array_equal(part.right, lean.right(SCHEDULES[1])[10:30])
    with pytest.raises(ScheduleError, match="cannot be skipped"):
        list(compiled.answers([TokenSchedule((17, 12, 12, 6), (0, 1, 3))]))
