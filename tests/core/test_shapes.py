"""Mutations of a recorded front end in one sentence, or in what its readers can go by."""

from __future__ import annotations

import copy
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.records import read_record
from tavt_kit.errors import RecordError, TavtError
from tavt_kit.workflows.compare import compare
from tavt_kit.workflows.report import report, show
from tavt_kit.workflows.schedules import best_within, knee_of
from tests.golden.test_old_runs import RUNS

JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\x1b[31m", [], {}, [1], ["a"],
    {"a": 1}, [None], [[1, 2], [3]], {"median": "x"},
)  # fmt: skip
LIMITS = ("latency=400ms", "flops=35K", "drop=5", "throughput=1", "memory=1GB", "top1=10%")


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a search by multiply-adds and of one by latency."""
    folder = tmp_path_factory.mktemp("runs")
    with tarfile.open(RUNS) as archive:
        for name in ("found", "measured"):
            archive.extract(f"{name}/front.json", folder, filter="data")
    return [folder / name / "front.json" for name in ("found", "measured")]


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*at, key))


def mutated(body: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """One value taken out or replaced; each key of the record is as likely."""
    body = copy.deepcopy(body)
    key = draw.choice([key for key in body if key not in ("schema", "version")])
    holder: Any = body
    *way, last = draw.choice([(key, *path) for path in paths(body[key])])
    for step in way:
        holder = holder[step]
    if draw.random() < 0.25:
        del holder[last]
    else:
        holder[last] = draw.choice(JUNK)
    return body


def refused(call: Callable[..., object], *arguments: object, **named: Any) -> bool:
    """Whether it ends in one of our sentences; what else it raises fails the test."""
    try:
        call(*arguments, **named)
    except TavtError:
        return True
    return False


def test_a_mutated_front_is_refused_or_read(fronts: list[Path], tmp_path: Path) -> None:
    """As ``export --pick``, ``search --front``, ``show``, ``compare`` and ``report`` read it."""
    draw, turned_away, file = random.Random(5), 0, tmp_path / "front.json"
    for number in range(150):
        file.write_text(json.dumps(mutated(json.loads(fronts[number % 2].read_text()), draw)))
        limit = draw.choice(LIMITS)
        if refused(read_record, file, "front"):
            turned_away += 1
            continue
        body = read_record(file, "front")
        refused(knee_of, body)
        refused(best_within, body, [limit])
        if number % 5 == 0:
            refused(show, file, pick=[limit])
            refused(compare, file, fronts[number % 2], across=True)
            refused(report, file, out=tmp_path / "out")
    assert 40 < turned_away < 140


def test_a_front_of_version_1_is_read_as_todays(fronts: list[Path]) -> None:
    written, body = json.loads(fronts[1].read_text()), read_record(fronts[1], "front")
    assert (written["version"], body["version"]) == (1, 2)
    assert body["baseline_models"] == written["rivals"] and "rivals" not in body


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"chosen": 9}, "chosen"),
        ({"chosen": -1}, "chosen"),
        ({"metric": "top5"}, "top5"),
        ({"objectives": ["latency_ms.p77"]}, "objectives"),
        ({"budgets": "latency"}, "budgets"),
        ({"candidates": [{}]}, "candidates"),
    ],
)
def test_the_sentence_names_the_key(change: dict[str, Any], named: str, fronts: list[Path]) -> None:
    body = {**json.loads(fronts[1].read_text()), **change}
    file = fronts[1].with_name("changed.json")
    file.write_text(json.dumps(body))
    with pytest.raises(RecordError) as error:
        read_record(file, "front")
    assert named in str(error.value) and str(file) in str(error.value)
