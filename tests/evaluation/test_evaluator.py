"""Accuracy of schedules: the answers of the plain model, however many schedules and images go together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import DataError, MeasurementError, ScheduleError
from tavt_kit.evaluation import evaluator as module
from tavt_kit.evaluation.evaluator import Evaluator, SwitchableLogits
from tavt_kit.evaluation.result import EvaluationResult, paired
from tests.parameters import few
from tests.pretend_cuda import pretend_cuda
from tests.verbs.tiny import write_run

SCHEDULES = [TokenSchedule(counts) for counts in ((17, 17, 17, 17), (17, 12, 6, 6), (17, 12, 9, 9), (10, 8, 2, 2))]
DENSE, DROPPING = SCHEDULES[:2]
# coarse blocks of colour: images that differ in more than noise
PIXELS = np.random.default_rng(0).integers(0, 255, (64, 3, 4, 4), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
LABELS = np.random.default_rng(1).integers(0, 3, 64)
PREPROCESSING = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("evaluator") / "run")


def evaluator(run: Path, **named: Any) -> Evaluator:
    return Evaluator(load_model(run), PIXELS, LABELS, PREPROCESSING, **named)


@cache
def plain_logits(run: Path, schedule: TokenSchedule, precision: str = "f32") -> torch.Tensor:
    """Of all images in one batch, by the model's own plain path."""
    model = load_model(run).eval()
    model.schedule = schedule
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits: torch.Tensor = model(torch.from_numpy(normalise(PIXELS, PREPROCESSING))).float()
    return logits


def plain(run: Path, schedule: TokenSchedule, precision: str = "f32") -> Any:
    """Which images the plain path has right."""
    return plain_logits(run, schedule, precision).argmax(1).numpy() == LABELS


@pytest.mark.parametrize("tokens_at_once", few([17, 17 * 5, 6000], 17 * 5))
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_answers_are_those_of_each_alone(run: Path, tokens_at_once: int, precision: str) -> None:
    shared = evaluator(run, tokens_at_once=tokens_at_once, precision=precision)
    found = dict(shared.evaluate(SCHEDULES))
    assert list(found) == SCHEDULES
    for schedule, answer in found.items():
        assert answer.correct is not None and answer.accuracy is not None and answer.seconds > 0
        expected = plain(run, schedule, precision)
        # bf16 rounds where f32 agrees to 1e-5, so that an image in many may fall on the other side.
        assert (answer.correct != expected).sum() <= (0 if precision == "f32" else 3)
        assert answer.accuracy.n == 64 and answer.accuracy.value == answer.correct.mean()
        if precision == "f32":
            assert evaluator(run, tokens_at_once=tokens_at_once)(schedule) == answer.accuracy
    assert len({plain(run, schedule).tobytes() for schedule in found}) == len(SCHEDULES)


def test_logits_are_those_of_the_plain_model(run: Path) -> None:
    found = evaluator(run)
    for schedule in (DENSE, DROPPING):
        assert torch.allclose(found.logits(schedule), plain_logits(run, schedule), atol=1e-4)
        accuracy = found(schedule)
        assert (accuracy.value, accuracy.n, accuracy.split) == (plain(run, schedule).mean(), 64, "val")


def test_bf16_is_autocast(run: Path) -> None:
    full, half = (evaluator(run, precision=precision).logits(DROPPING) for precision in ("f32", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(half, full)


def test_in_bf16_weights_are_converted_once_a_pass(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run)
    products = sum(isinstance(part, torch.nn.Linear) for part in model.modules())
    monkeypatch.setattr(torch, "is_autocast_cache_enabled", lambda: False)  # as some converters leave it

    def conversions(images: int) -> int:
        given = model, PIXELS[:images], LABELS[:images], PREPROCESSING
        seen = Evaluator(*given, precision="bf16", tokens_at_once=17 * 4)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            seen(SCHEDULES[0])
        return sum(event.count for event in profile.key_averages() if event.key == "aten::_to_copy")

    one, three = (conversions(4 * batches) for batches in (1, 3))
    again = (three - one) / 2  # for each further batch: activations alone
    assert again > 0 and one - again >= products


def test_parts_add_up_to_the_whole(run: Path) -> None:
    shared = evaluator(run)
    parts = [dict(shared.look(SCHEDULES, start, stop)) for start, stop in ((0, 20), (20, 64))]
    for schedule in SCHEDULES:
        bits = [part[schedule].correct for part in parts]
        assert [len(each) for each in bits if each is not None] == [20, 44]
        assert np.array_equal(np.concatenate([each for each in bits if each is not None]), plain(run, schedule))


def test_a_schedule_that_is_asked_twice_is_one(run: Path) -> None:
    once, twice = dict(evaluator(run).evaluate(SCHEDULES)), list(evaluator(run).evaluate([*SCHEDULES, SCHEDULES[0]]))
    assert len(twice) == len(SCHEDULES) + 1
    for schedule, answer in twice:
        first = once[schedule].correct
        assert answer.correct is not None and first is not None and np.array_equal(answer.correct, first)


def test_a_comparison_costs_no_second_pass(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = evaluator(run)
    list(shared.evaluate(SCHEDULES))
    monkeypatch.setattr(module, "shared_logits", lambda *arguments: pytest.fail("a second pass"))
    difference = paired(shared.correct(SCHEDULES[0]), shared.correct(SCHEDULES[3]))
    before, after = plain(run, SCHEDULES[0]), plain(run, SCHEDULES[3])
    assert (difference.gained, difference.lost) == ((after & ~before).sum(), (before & ~after).sum())
    assert difference.flips > 0 and paired(shared.correct(DENSE), shared.correct(DENSE)).flips == 0


def test_a_schedule_whose_logits_are_not_finite_fails_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = module.shared_logits

    def broken(model: Any, images: torch.Tensor, schedules: Any) -> Iterator[Any]:
        for schedule, logits in walk(model, images, schedules):
            yield schedule, logits * float("nan") if schedule == SCHEDULES[1] else logits

    monkeypatch.setattr(module, "shared_logits", broken)
    found = dict(evaluator(run).evaluate(SCHEDULES))
    assert "not finite" in (found[SCHEDULES[1]].failure or "")
    assert all(found[schedule].failure is None for schedule in SCHEDULES if schedule != SCHEDULES[1])
    with pytest.raises(MeasurementError, match="not finite"):
        evaluator(run)(SCHEDULES[1])


@pytest.mark.slow
def test_where_the_memory_runs_out_for_one_the_others_are_answered(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = module.shared_logits

    def large(model: Any, images: torch.Tensor, schedules: Any) -> Iterator[Any]:
        if SCHEDULES[3] in schedules:
            raise MemoryError
        return walk(model, images, schedules)

    monkeypatch.setattr(module, "shared_logits", large)
    found = dict(evaluator(run).evaluate(SCHEDULES))
    assert "memory ran out" in (found[SCHEDULES[3]].failure or "")
    assert all(found[schedule].failure is None for schedule in SCHEDULES[:3])
    with pytest.raises(MeasurementError, match="memory ran out"):
        evaluator(run).correct(SCHEDULES[3])


def test_the_model_stays_as_it_was(run: Path) -> None:
    shared = evaluator(run)
    shared.model.train()
    shared.model.schedule = SCHEDULES[1]
    list(shared.evaluate(SCHEDULES[:2]))
    assert shared.model.training and shared.model.schedule == SCHEDULES[1]


def test_refusals(run: Path) -> None:
    with pytest.raises(DataError, match="needs images"):
        Evaluator(load_model(run), PIXELS[:0], LABELS[:0], PREPROCESSING)
    with pytest.raises(ScheduleError):
        evaluator(run)(TokenSchedule((17, 12, 6)))


def test_nothing_asked_is_nothing_answered(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_logits", lambda *arguments: pytest.fail("a pass"))
    assert list(evaluator(run).evaluate([])) == []


class Switched:
    """A file's session: each switch gives logits that say the class ``sum(counts) % 3`` of every image."""

    def at(self, counts: tuple[int, ...]) -> Any:
        def answer(images: Any) -> Any:
            assert images.dtype == np.float32 and images.flags["C_CONTIGUOUS"] and images.shape[1:] == (3, 32, 32)
            return np.eye(3, dtype=np.float32)[[sum(counts) % 3] * len(images)]

        return answer


def test_a_strategy_answers_instead_of_the_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_logits", lambda *arguments: pytest.fail("the model was run"))
    strategy = SwitchableLogits(Switched())  # type: ignore[arg-type]
    switched = evaluator(run, strategy=strategy, tokens_at_once=17 * 5)
    for schedule, result in switched.evaluate(SCHEDULES):
        assert result.correct is not None
        np.testing.assert_array_equal(result.correct, sum(schedule.counts) % 3 == LABELS)
    with pytest.raises(ScheduleError, match="which layers run is frozen into a converted model, got"):
        switched(TokenSchedule((17, 17, 17, 17), executed=(0, 1)))


def test_results_are_equal_bit_for_bit() -> None:
    one = EvaluationResult(Accuracy.of_counts(1, 2, split="val"), 1.0, correct=np.array([True, False]))
    same = EvaluationResult(Accuracy.of_counts(1, 2, split="val"), 1.0, correct=np.array([True, False]))
    other = EvaluationResult(Accuracy.of_counts(1, 2, split="val"), 1.0, correct=np.array([False, True]))
    assert one == same and one != other and one != "an answer" and one != EvaluationResult(None, 1.0, "it failed")


@pytest.mark.slow
def test_memory_that_runs_out_ends_in_the_batch_that_fits(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tried = module.shared_logits, list[int]()

    def hungry(model: Any, images: torch.Tensor, schedules: Any) -> Any:
        tried.append(len(images))
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(model, images, schedules)

    monkeypatch.setattr(module, "shared_logits", hungry)
    given = evaluator(run)
    torch.testing.assert_close(given.logits(DROPPING), plain_logits(run, DROPPING), atol=1e-5, rtol=1e-5)
    assert tried == [64, 32, 16, 8] + [4] * 16


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_nobody_waits_for_a_gpu_between_batches(run: Path, precision: str) -> None:
    expected = evaluator(run, precision=precision).evaluate(SCHEDULES)
    with pretend_cuda() as device:
        given = evaluator(run, precision=precision, tokens_at_once=17 * 5)
        given.model.cuda()
        found = dict(given.evaluate(SCHEDULES))
        assert not device.waits
    for schedule, one in expected:
        assert (found[schedule].correct != one.correct).mean() <= (0.1 if precision == "bf16" else 0)


def test_images_prepared_on_the_device_have_the_same_bits() -> None:
    how = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    prepared = module.normalised(PIXELS, how, torch.device("cpu"))
    assert torch.equal(prepared, torch.from_numpy(normalise(PIXELS, how)))
