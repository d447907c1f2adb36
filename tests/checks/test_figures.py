"""What is counted beside top-1, on numbers small enough to count by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tavt_kit.checks import Answers
from tavt_kit.checks.compare import figures_of
from tavt_kit.evaluation.metrics import calibration_error, macro_f1

NAMES = ("a", "b", "c")


def _logits(said: list[int], classes: int = 3, height: float = 4.0) -> np.ndarray:
    return (height * np.eye(classes, dtype=np.float32)[said]).astype(np.float32)


def _figures(truth: list[int], before: list[int], after: list[int], names: tuple[str, ...] = NAMES):  # type: ignore[no-untyped-def]
    logits = [_logits(said, len(names)) for said in (before, after)]
    return figures_of(Answers(np.array(truth, np.int64), *logits), names, "test")


def test_classes_and_confusions_are_named_in_their_order() -> None:
    truth = [0] * 10 + [1] * 4 + [2] * 2
    before = [0] * 9 + [1] + [1] * 4 + [2] * 2
    after = [0] * 6 + [1] * 4 + [1, 1, 2, 2] + [2] * 2
    found = _figures(truth, before, after)
    assert found.worst_hit == ("b", "a")  # a half of b is lost, but 3 of 10 of a
    assert [(one.truth, one.said, one.source, one.artifact) for one in found.confusions] == [
        ("a", "b", 1, 4),
        ("b", "c", 0, 2),
    ]
    assert [(one.name, one.n, one.source, one.artifact) for one in found.classes] == [
        ("a", 10, 0.9, 0.6), ("b", 4, 1.0, 0.5), ("c", 2, 1.0, 1.0),
    ]  # fmt: skip
    assert found.mcnemar_p == pytest.approx(2 * 0.5**5)  # five lost, none gained
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert record["classes"][1] == {"class": "b", "n": 4, "source": 1.0, "artifact": 0.5}
    assert record["confusions_grown"][0] == {"truth": "a", "said": "b", "source": 1, "artifact": 4}


def test_at_most_ten_are_named() -> None:
    names = tuple(f"class {i}" for i in range(14))
    truth = list(range(14)) * 2
    found = _figures(truth, truth, [(i + 1) % 14 for i in truth], names)
    assert (len(found.worst_hit), len(found.confusions), len(found.classes)) == (10, 10, 14)


def test_nothing_is_hit_where_nothing_changes() -> None:
    found = _figures([0, 1, 2], [0, 1, 1], [0, 1, 1])
    assert (found.worst_hit, found.confusions, found.mcnemar_p, found.top5) == ((), (), 1.0, None)


def test_mcnemar_counts_both_ways() -> None:
    """One gained, three lost: P(at most one of four) twice, which is 10/16."""
    found = _figures([0] * 6, [0, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0])
    assert found.mcnemar_p == pytest.approx(10 / 16)


def test_macro_f1_leaves_out_what_is_neither_there_nor_said() -> None:
    truth, said = np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1])
    # a: 2/3; b: 2 * 1 / (2 + 2); a NaN is a miss and no class.
    assert macro_f1(truth, said, 3) == pytest.approx((2 / 3 + 0.5) / 2)


def test_calibration_is_the_gap_between_sureness_and_being_right() -> None:
    logits = np.log(np.array([[0.8, 0.2]] * 10 + [[0.6, 0.4]] * 10)).astype(np.float32)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 6 + [1] * 4)
    # 0.8 sure and 0.6 right on half of the images, 0.6 sure and 0.6 right on the other half.
    assert calibration_error(logits, labels) == pytest.approx(0.1, abs=1e-6)
    sure = 1e4 * np.eye(2, dtype=np.float32)[labels]
    assert calibration_error(sure, labels) == 0.0
    assert np.isnan(calibration_error(np.array([[np.nan, 1.0]], np.float32), np.array([0])))


def test_top5_of_more_than_five_classes() -> None:
    names = tuple("abcdefg")
    logits = np.tile(np.arange(7, dtype=np.float32), (4, 1))
    spoilt = logits.copy()
    spoilt[0] = np.nan
    labels = np.array([6, 2, 1, 0])
    found = figures_of(Answers(labels, logits, spoilt), names, "val")
    assert found.top5 is not None
    assert (found.top5.source.value, found.top5.artifact.value) == (0.5, 0.25)
    assert found.as_record()["calibration_error"]["artifact"] is None
