"""The fit of peak memory as a plain value: what it predicts, how wrong it was, and its record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.memory_fit import MemoryFit, MemoryPoint, gene_terms, memory_terms
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError, ScheduleError

DENSE = TokenSchedule((17, 17, 17, 17))
FIT = MemoryFit(
    TargetDevice("openvino", "cpu", threads=1), "tiny", 17, 4, 1, 100e6, 4e6, 2e6, 17e6,
    held_out=(MemoryPoint(DENSE, 117e6, 117e6), MemoryPoint(TokenSchedule((9, 9, 9, 5)), 117e6, 120e6)),
    repeated=500_000,
)  # fmt: skip


def test_each_term_is_of_what_it_says() -> None:
    assert memory_terms(DENSE, 17) == (1.0, 0.0, 0.0, 1.0)
    assert memory_terms(TokenSchedule((17, 9, 9, 5)), 17) == (1.0, 1.0, 1.0, 1.0)
    assert FIT.predict(DENSE) == 117e6
    assert FIT.predict(TokenSchedule((17, 9, 9, 5))) == 100e6 + 4e6 + 2e6 + 17e6
    assert FIT.predict(TokenSchedule((2, 2, 2, 2))) == 100e6 + 4e6 + 2e6
    with pytest.raises(ScheduleError):
        FIT.predict(TokenSchedule((17, 17)))


def test_smaller_images_and_absent_layers_have_terms_of_their_own() -> None:
    small = Configuration(TokenSchedule((10, 10, 10, 10), (0, 1, 3)), image_size=(24, 24), precision="int8")
    assert gene_terms(small, 17, 10) == (7 / 17, 1.0) and gene_terms(DENSE, 17) == (0.0, 0.0)
    late = TokenSchedule((17, 9, 9, 9), (1, 2, 3))  # the first feed-forward that runs sees nine
    assert memory_terms(late, 17)[3] == 9 / 17
    assert memory_terms(small, 17, 10) == (1.0, 0.0, 0.0, 10 / 17)  # a smaller image drops nothing
    fit = replace(FIT, smaller=-34e6, absent=-5e6, points=(MemoryPoint(small, 90e6, 91e6),))
    assert fit.predict(small, 10) == pytest.approx(100e6 + 10e6 - 14e6 - 5e6)
    assert "-34.0 MB times the share of tokens that a smaller image lacks, -5.0 MB for each layer left out" in str(fit)
    assert MemoryFit.from_record(json.loads(json.dumps(fit.as_record()))) == fit
    with pytest.raises(ScheduleError):
        fit.predict(DENSE, 10)


def test_errors_are_of_the_held_out_and_slack_is_the_worst_of_all() -> None:
    assert FIT.worst_error == pytest.approx(3 / 120) and FIT.mean_error == pytest.approx(1.5 / 120)
    assert FIT.slack == FIT.worst_error and FIT.span == 3e6
    worse = replace(FIT, points=(MemoryPoint(DENSE, 117e6, 100e6),))
    assert worse.slack == pytest.approx(0.17) and worse.worst_error == FIT.worst_error
    untested = replace(FIT, held_out=())
    assert untested.mean_error is None and untested.worst_error is None and untested.slack == 0 == untested.span


def test_it_says_so_where_dropping_makes_no_difference() -> None:
    flat = replace(FIT, choosing=0.0, doubling=0.0, widest=0.0)
    assert flat.is_constant and "whatever is dropped" in str(flat) and "processes of one by up to 0.5 MB" in str(flat)
    assert not FIT.is_constant and "+2.0 MB for each doubling of their number" in str(FIT)
    assert "1.3 % on average and 2.5 % at worst on 2 held-out" in str(FIT)


def test_a_fit_survives_json() -> None:
    record = json.loads(json.dumps(FIT.as_record()))
    assert MemoryFit.from_record(record) == FIT and record["worst_error"] == FIT.worst_error
    assert "fresh process" in record["is"] and record["constant"] is False
    del record["doubling"]
    with pytest.raises(RecordError, match="measure it again"):
        MemoryFit.from_record(record)
