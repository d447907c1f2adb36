"""The verdict on numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tavt_kit.checks import Answers, BatchCheck, Gate, images_to_decide, judge
from tavt_kit.checks.compare import columns
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Verdict, facts_of
from tavt_kit.core.budget import judge as judge_limit
from tavt_kit.errors import BudgetError, DataError

FINE = BatchCheck((8, 1, 5), 1e-6, True)
RNG = np.random.default_rng(0)


def _answers(n: int, wrong: int = 0, noise: float = 0.0, strayed: int = 0) -> Answers:
    """The source is right on 80 %; the artifact loses ``wrong`` of them, and strays on the first ``strayed``."""
    labels = np.arange(n) % 4
    source = RNG.normal(size=(n, 4)).astype(np.float32)
    source[np.arange(n), np.where(np.arange(n) % 5 == 0, (labels + 1) % 4, labels)] += 9
    artifact = source + noise * RNG.normal(size=source.shape).astype(np.float32)
    artifact[:strayed] += np.float32(0.5)
    lost = np.flatnonzero(source.argmax(1) == labels)[:wrong]
    artifact[lost] = np.roll(source[lost], 2, axis=1)
    return Answers(labels, source, artifact)


def test_an_exact_artifact_passes() -> None:
    judgement = judge(_answers(40, noise=1e-6), Gate(), FINE, exact=True, tied=())
    assert judgement.verdict is Verdict.PASS
    assert "same logits as its source on 40 images" in judgement.reason


def test_one_strayed_image_fails_an_exact_artifact_unless_it_is_tied() -> None:
    answers = _answers(40, noise=1e-6, strayed=1)
    failed = judge(answers, Gate(), FINE, exact=True, tied=())
    assert failed.verdict is Verdict.FAIL
    assert "on 1 of 40 images" in failed.reason
    passed = judge(answers, Gate(), FINE, exact=True, tied=(0,))
    assert passed.verdict is Verdict.PASS
    assert "on 1 more the source's own tokens tie" in passed.reason
    assert judge(answers, Gate(), FINE, exact=True, tied=(1,)).verdict is Verdict.FAIL


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("exact", [True, False])
def test_no_number_fails(value: float, exact: bool) -> None:
    answers = _answers(40)
    answers.artifact[3, 1] = value
    judgement = judge(answers, Gate(drop=1.0), FINE, exact=exact, tied=())
    assert judgement.verdict is Verdict.FAIL
    assert "for 1 of 40 images" in judgement.reason


def test_another_batch_that_differs_fails_whatever_the_accuracy() -> None:
    bad = BatchCheck((8, 1, 5), 0.4, False, "at batch 5 it differs")
    judgement = judge(_answers(40), Gate(), bad, exact=True, tied=())
    assert (judgement.verdict, judgement.reason) == (Verdict.FAIL, "at batch 5 it differs")


@pytest.mark.parametrize(
    ("n", "wrong", "verdict"),
    [(2000, 0, Verdict.PASS), (200, 0, Verdict.INCONCLUSIVE), (200, 20, Verdict.FAIL), (2000, 8, Verdict.INCONCLUSIVE)],
)
def test_a_narrower_artifact_is_judged_by_its_interval(n: int, wrong: int, verdict: Verdict) -> None:
    judgement = judge(_answers(n, wrong=wrong, noise=0.01), Gate(), FINE, exact=False, tied=())
    assert judgement.verdict is verdict
    assert f"on {n} images" in judgement.reason
    assert (judgement.images_to_decide is not None) == (verdict is Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(("n", "wrong"), [(200, 0), (525, 4), (60, 1)])
def test_an_inconclusive_check_says_which_limit_would_pass(n: int, wrong: int) -> None:
    answers = _answers(n, wrong=wrong, noise=0.01)
    reason = judge(answers, Gate(), FINE, exact=False, tied=()).reason
    most = float(reason.partition("a limit of ")[2].split()[0])
    assert judge(answers, Gate(drop=most / 100), FINE, exact=False, tied=()).verdict is Verdict.PASS
    assert judge(answers, Gate(drop=(most - 0.2) / 100), FINE, exact=False, tied=()).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 200), (3, 5, 600), (10, 10, 525), (0, 6, 525)])
def test_the_number_of_images_decides_and_half_of_it_does_not(gained: int, lost: int, n: int) -> None:
    limit = Gate().limit
    difference = PairedDifference.of_counts(gained, lost, n)
    assert judge_limit(limit, facts_of(difference=difference)) is Verdict.INCONCLUSIVE
    needed = images_to_decide(difference, limit)
    assert needed is not None

    def at(count: int) -> Verdict:
        times = count / n
        scaled = PairedDifference.of_counts(round(gained * times), round(lost * times), count)
        return judge_limit(limit, facts_of(difference=scaled))

    assert at(needed) is not Verdict.INCONCLUSIVE
    assert at(max(n, int(0.45 * needed))) is Verdict.INCONCLUSIVE


def test_no_flips_need_640_images_for_half_a_point() -> None:
    """(x - 1/2)² = z² x (1 - x / n), z = 1.645, x = 0.005 n; exactly 598 would do, ln 0.05 / ln 0.995."""
    needed = images_to_decide(PairedDifference.of_counts(0, 0, 100), Gate().limit)
    assert needed is not None
    assert 638 <= needed <= 642


def test_a_loss_on_the_line_is_never_decided() -> None:
    difference = PairedDifference.of_counts(0, 4, 800)
    assert images_to_decide(difference, Gate().limit) is None


def test_a_gate_is_a_share() -> None:
    with pytest.raises(BudgetError):
        judge(_answers(10), Gate(drop=1.5), FINE, exact=False, tied=())


def test_classes_are_matched_by_name() -> None:
    assert columns(("b", "c", "a"), ("a", "b", "c"), "m.onnx") == [2, 0, 1]
    with pytest.raises(DataError, match=r"m.onnx .* 2 are in only one of them \(c, d\)"):
        columns(("a", "b", "d"), ("a", "b", "c"), "m.onnx")


def test_records_come_out_as_json_without_infinity() -> None:
    import json

    record: dict[str, Any] = BatchCheck((8, 1, 5), float("inf"), False, "no").as_record()
    assert json.loads(json.dumps(record, allow_nan=False))["largest_difference"] is None
