"""A candidate's costs, verdicts and record."""

from __future__ import annotations

import json
import math

import pytest

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError

QUIET = Measurement((10.0,) * 40, steady=True)
BARE = Candidate(TokenSchedule((9, 7)), 3_000_000)
FULL = Candidate(
    TokenSchedule((9, 7)), 3_000_000, Accuracy.of_counts(900, 1000, split="val"), 9.5, QUIET, origin="nsga2",
    difference=PairedDifference.of_counts(5, 8, 1000),
)  # fmt: skip


def test_unknown_costs_are_nan() -> None:
    assert BARE.cost("macs") == 3e6
    assert math.isnan(BARE.cost("predicted")) and math.isnan(BARE.cost("p90")) and math.isnan(BARE.metric)
    assert (FULL.cost("predicted"), FULL.cost("p50"), FULL.metric) == (9.5, 10.0, 0.9)


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        ([], Verdict.PASS),
        (["flops=3M"], Verdict.PASS),
        (["flops=2.9M"], Verdict.FAIL),
        (["latency=10ms"], Verdict.PASS),
        (["latency=9.9ms"], Verdict.FAIL),
        (["top1=80%"], Verdict.PASS),
        (["top1=90%"], Verdict.INCONCLUSIVE),
        (["top1=95%"], Verdict.FAIL),
        (["drop=2"], Verdict.PASS),
        (["drop=0.5"], Verdict.INCONCLUSIVE),
        (["flops=3M", "top1=90%"], Verdict.INCONCLUSIVE),
        (["flops=1M", "top1=90%"], Verdict.FAIL),
    ],
)
def test_verdict_is_the_worst(texts: list[str], verdict: Verdict) -> None:
    assert FULL.judged(Budget.parse(texts)).verdict is verdict


def test_predictions_never_pass() -> None:
    predicted = Candidate(TokenSchedule((9, 7)), 1, latency_predicted_ms=5.0)
    assert predicted.judged(Budget.parse(["latency=6ms"])).verdict is Verdict.PREDICTED
    assert predicted.judged(Budget.parse(["latency=4ms"])).verdict is Verdict.FAIL
    assert BARE.judged(Budget.parse(["latency=4ms"])).verdict is Verdict.INCONCLUSIVE
    assert FULL.judged(Budget.parse(["size=1GB"])).verdict is Verdict.INCONCLUSIVE
    assert FULL.judged(Budget.parse(["memory=1GB"])).verdict is Verdict.INCONCLUSIVE


def test_what_would_decide() -> None:
    assert FULL.undecided(Budget.parse(["top1=80%", "latency=10ms"])) == ()
    near, far = (FULL.undecided(Budget.parse([text]))[0] for text in ("top1=89.5%", "top1=89%"))
    images = [int(text.split("about ")[1].split(" ")[0].replace(",", "")) for text in (near, far)]
    assert images[0] > images[1] > 1000 and images[0] / images[1] == pytest.approx(4, rel=0.01)
    assert "on the line" in FULL.undecided(Budget.parse(["top1=90%"]))[0]
    assert "images would decide" in FULL.undecided(Budget.parse(["drop=0.5"]))[0]
    assert "299 steady runs" in FULL.undecided(Budget.parse(["latency[p99]=12ms"]))[0]
    assert "measure it" in BARE.undecided(Budget.parse(["latency=12ms"]))[0]
    assert "evaluate it" in BARE.undecided(Budget.parse(["top1=12%"]))[0]


def test_record() -> None:
    record = json.loads(json.dumps(FULL.judged(Budget.parse(["flops=3M"])).as_record(), allow_nan=False))
    assert record["schedule"] == [9, 7] and record["macs"] == 3_000_000 and record["origin"] == "nsga2"
    assert record["top1"] == 0.9 and record["n"] == 1000 and record["verdict"] == "PASS"
    assert record["ci95"][0] < 0.9 < record["ci95"][1]
    latency = record["latency_ms"]
    assert (latency["predicted"], latency["median"], latency["p90"]) == (9.5, 10.0, 10.0)
    assert latency["samples"] == 40 and latency["steady"] is True and latency["p90_bounds"] == [10.0, 10.0]
    assert BARE.as_record()["latency_ms"] is None
    assert Configuration.from_record(record).choice == FULL.schedule
    with pytest.raises(RecordError):
        Configuration.from_record({})
