"""``fgvc-kit compare``: what is matched, what is refused, what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.bench import Protocol
from tavt_kit.bench.record import BenchRow, bench_body
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import write_record
from tavt_kit.core.schedule import TokenSchedule
from tests.reports.records import write_run
from tests.verbs.command import run

CPU = TargetDevice.parse("openvino:cpu:threads=2")
HOST = HostFacts.gather()
SCHEDULES = {"dense": TokenSchedule((5, 5)), "taper": TokenSchedule((4, 3))}


def bench_file(
    path: Path,
    times: Mapping[str, float],
    *,
    target: TargetDevice = CPU,
    host: HostFacts = HOST,
    protocol: Protocol | None = None,
    rounds: int = 12,
) -> Path:
    """Candidates ``FOLDER dense`` and ``FOLDER taper`` of so many ms, with a little of jitter."""
    rows = []
    for name, ms in times.items():
        samples = tuple(ms * (1 + 0.002 * (place % 5)) for place in range(3 * rounds))
        schedule = SCHEDULES[name.split()[-1]]
        rows.append(BenchRow(name, "x", target, Measurement(samples, True, (3,) * rounds), schedule, 100, None))
    path.parent.mkdir(exist_ok=True)
    write_record(path, "bench", bench_body(rows, protocol=protocol or Protocol(), inputs="random", seed=0, host=host))
    return path


def test_a_slower_candidate_fails_and_a_faster_one_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench_file(tmp_path / "a.json", {"dense": 20.0, "taper": 10.0, "old taper": 3.0})
    after = bench_file(tmp_path / "b.json", {"dense": 18.0, "taper": 11.0, "new dense": 3.0})
    assert run("compare", before, after) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "+10.0 %" in said and "-10.0 %" in said and "FAIL: slower by more than 5 %: taper;" in said
    assert "only in the first: old taper" in said and "only in the second: new dense" in said
    assert "different runs" in said
    assert run("compare", before, after, "--threshold", "15%") == 0
    assert run("compare", after, before) == 1  # the other way round dense is the slower one
    capsys.readouterr()
    assert run("compare", before, after, "--json") == 1
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["verdict"]) == ("fgvc-kit/comparison", "FAIL")
    changes = {change["name"]: change for change in body["comparisons"][0]["changes"]}
    assert changes["taper"]["change"] == pytest.approx(1.1) and changes["taper"]["bounds"][0] > 1.05
    assert changes["dense"]["verdict"] == "PASS" and body["threshold"] == 0.05


def test_other_names_are_matched_by_target_and_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench_file(tmp_path / "a" / "bench.json", {"a dense": 20.0, "a taper": 10.0})
    after = bench_file(tmp_path / "b" / "bench.json", {"b taper": 10.0, "b dense": 20.0})
    for words in ((before, after), (tmp_path / "a", tmp_path / "b"), (before, tmp_path / "b")):
        assert run("compare", *words) == 0
        said = capsys.readouterr().out
        assert "a dense -> b dense" in said and "a taper -> b taper" in said and "PASS: 2 of 2" in said


def test_an_open_verdict_is_said_and_strict_fails_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench_file(tmp_path / "a.json", {"dense": 20.0})
    after = bench_file(tmp_path / "b.json", {"dense": 40.0}, rounds=4)
    assert run("compare", before, after) == 0
    said = capsys.readouterr().out
    assert "INCONCLUSIVE" in said and "too few for bounds" in " ".join(said.split()) and "[?]" in said
    assert run("compare", before, after, "--strict") == 1


def test_a_reference_takes_the_machine_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench_file(tmp_path / "a.json", {"dense": 20.0, "taper": 10.0})
    after = bench_file(tmp_path / "b.json", {"dense": 26.0, "taper": 13.0})
    assert run("compare", before, after) == 1
    assert run("compare", before, after, "--reference", "dense") == 0
    assert "PASS: 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"host": replace(HOST, cpu="another")}, f"host cpu ({HOST.cpu} and another)"),
        (
            {"target": replace(CPU, batch=8)},
            "target of dense (openvino:cpu:threads=2:precision=f32:batch=1 and openvino",
        ),
        ({"protocol": Protocol(min_seconds=9.0)}, "protocol min_seconds (3.0 and 9.0)"),
    ],
)
def test_what_differs_is_refused_by_name_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], field: str
) -> None:
    before = bench_file(tmp_path / "a.json", {"dense": 20.0})
    after = bench_file(tmp_path / "b.json", {"dense": 20.0}, **changed)
    assert run("compare", before, after) == 2
    err = capsys.readouterr().err
    assert field in err and err.count("\n") == 1 and "--across" in err
    assert run("compare", before, after, "--across") == 0
    assert "compared although these differ" in capsys.readouterr().out


def test_another_version_of_a_package_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = replace(HOST, packages={**HOST.packages, "openvino": "9.9"})
    before, after = (
        bench_file(tmp_path / name, {"dense": 20.0}, host=host) for name, host in (("a.json", HOST), ("b.json", newer))
    )
    assert run("compare", before, after) == 0
    assert "and 9.9)" in capsys.readouterr().out


def test_runs_of_a_search_and_accuracies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run").folder
    assert run("compare", folder, folder, "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert {"bench", "front"} <= {each["kind"] for each in body["comparisons"]}
    figures = {change["figure"] for each in body["comparisons"] for change in each["changes"]}
    assert {"time", "top1"} <= figures
    files = []
    for right in (90, 60):
        top1 = Accuracy.of_counts(right, 100, split="test").as_record()
        files.append(tmp_path / f"{right}.json")
        write_record(files[-1], "eval", {"thing": "x", "schedule": "dense", "data": "elpv", "top1": top1})
    assert run("compare", *files) == 1
    assert "less accurate by more than 0.5 points: top-1" in capsys.readouterr().out
    assert run("compare", *reversed(files)) == 0


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = bench_file(tmp_path / "good.json", {"dense": 20.0})
    texts = {"empty": "", "list": "[]", "foreign": '{"schema": "other"}', "bare": '{"a": 1}', "none": "null",
             "lacking": '{"schema": "fgvc-kit/bench", "version": 1}',
             "newer": '{"schema": "fgvc-kit/bench", "version": 99}',
             "of numbers": '{"schema": "fgvc-kit/eval", "version": 2, "top1": 3}'}  # fmt: skip
    cases: list[tuple[object, ...]] = [(good,), (tmp_path / "absent.json", good), (good, good, good)]
    cases += [(tmp_path / "away", tmp_path), (good, good, "--threshold", "much"), (good, good, "--reference", "x")]
    (tmp_path / "away").mkdir()
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
        cases.append((good, tmp_path / f"{name}.json"))
    for words in cases:
        assert run("compare", *words) == 2, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith("fgvc-kit compare: ") and "Traceback" not in err, err
