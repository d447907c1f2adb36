"""A search for a machine that is not here: predicted by a carried profile, settled by a carried bench.json."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.bench.parts import timed_model
from tavt_kit.bench.protocol import Protocol
from tavt_kit.bench.record import BenchRow, bench_body
from tavt_kit.checkpoints import load_model
from tavt_kit.cli import main
from tavt_kit.core.budget import Verdict
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import Curve, DropCell, LatencyTable, LayerCells
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import sha256_file, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.workflows.profile import pack_front, settle
from tests.verbs.tiny import write_images, write_run
from tests.workflows.told import Told

TARGET = TargetDevice.parse("onnxruntime:cpu:threads=64:precision=int8")  # more than there are here
HOST = replace(HostFacts.gather(), cpu="a small device", cores=64)


def table(place: Path) -> LatencyTable:
    """Each layer takes 0.1 ms a token, so that dense takes 6.8 ms and a little."""
    model = load_model(place / "run")
    ramp, half = Curve((2, 17), (0.1, 0.85)), Curve((2, 17), (0.1, 0.85))
    cells = LayerCells(ramp, (DropCell(3, 2, 0.15, 2, 0.15), DropCell(17, 8, 0.85, 15, 0.85)), half, ramp, 0.2, half)
    return LatencyTable(
        TARGET, timed_model(model, "vit_tiny_patch16_224"), cells, host=HOST, quantile_ratios={"p90": 1.05, "p99": 1.2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a model, a carried profile, and a search that rests on it."""
    folder = tmp_path_factory.mktemp("carried")
    write_images(folder / "data", each=20)
    write_run(folder / "run")
    write_record(folder / "profile.json", "profile", table(folder).as_record())
    assert search(folder, folder / "out") == 1
    return folder


def verb(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def search(place: Path, out: Path, *flags: object) -> int:
    profile = () if "--profile" in flags else ("--profile", place / "profile.json")
    limits = ("--budget", "latency=4ms", "--evaluations", "8", "--population", "6", "--min-patches", 1,
              "--no-baselines")  # fmt: skip
    return verb("search", place / "run", "--data", place / "data", *profile, *limits, "-o", out, *flags)


def front(out: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((out / "front.json").read_text())
    return body


def measured(body: dict[str, Any], ms: float) -> list[BenchRow]:
    """Dense and every candidate, as a device would measure them: about ``ms``."""
    samples = tuple(ms * (1 + 0.001 * (37 * step % 60)) for step in range(60))
    run = Measurement(samples, True, (10,) * 6)
    records = {tuple(one["schedule"]): one for one in (*body["baselines"], *body["candidates"])}
    ordered = sorted(records.values(), key=lambda one: one["origin"] != "dense")
    return [BenchRow(str(one["schedule"]), "run", TARGET, run, TokenSchedule(tuple(one["schedule"])), one["macs"])
            for one in ordered]  # fmt: skip


def write_bench(file: Path, rows: list[BenchRow], host: HostFacts = HOST) -> Path:
    body = bench_body(rows, protocol=Protocol(), inputs="random", seed=0, host=host)
    write_record(file, "bench", {**body, "model": "vit_tiny_patch16_224"})
    return file


def test_a_carried_profile_predicts_and_nothing_is_measured_here(place: Path) -> None:
    body = front(place / "out")
    assert body["verdict"] == "PREDICTED" and body["target"] == TARGET.as_record() and body["host"]["cpu"] == HOST.cpu
    assert body["objectives"] == ["latency_ms.predicted", "top1"]
    predicted = [one["latency_ms"] for one in body["candidates"]]
    assert all(set(one) == {"predicted"} and 1.05 * one["predicted"] <= 4 for one in predicted)
    dense = next(one for one in body["baselines"] if one["origin"] == "dense")
    assert dense["verdict"] == "FAIL"  # its p90 is predicted above the budget


@pytest.mark.parametrize(("ms", "verdict", "code"), [(3.0, "PASS", 0), (5.0, "FAIL", 1)])
def test_what_was_measured_there_settles_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ms: float, verdict: str, code: int
) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    file = write_bench(tmp_path / "bench.json", measured(front(place / "out"), ms))
    assert verb("bench", tmp_path / "out", "--carried", file) == code
    assert verdict in capsys.readouterr().out
    body = front(tmp_path / "out")
    assert body["verdict"] == verdict and (body["chosen"] is None) == (verdict == "FAIL")
    assert body["evaluations"] == front(place / "out")["evaluations"]
    assert (tmp_path / "out" / "report.html").is_file()
    with (tmp_path / "out" / "candidates.csv").open() as lines:
        assert any(line["p90_ms"] for line in csv.DictReader(lines))
    if verdict == "PASS":
        chosen = body["candidates"][body["chosen"]]
        assert chosen["latency_ms"]["p90"] == pytest.approx(3.16, abs=0.01) and chosen["verdict"] == "PASS"


def test_the_chosen_schedule_is_packed_for_its_device(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavt_kit.workflows.profile.MOST", 1)
    shutil.copytree(place / "out", place / "f32")
    body = {**front(place / "f32"), "target": replace(TARGET, precision="f32").as_record()}
    (place / "f32" / "front.json").write_text(json.dumps({**body, "baselines": body["baselines"][:1]}))
    assert verb("bench", place / "f32", "--pack", place / "chosen.zip", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == (place / "chosen.zip").stat().st_size and len(said["sha256"]) == 64
    with zipfile.ZipFile(place / "chosen.zip") as zipped:
        record = json.loads(zipped.read("pack.json"))
    chosen = body["candidates"][body["chosen"]]["schedule"]
    assert [one["schedule"] for one in record["candidates"]] == [[17] * 4, chosen] and record["kind"] == "bench"


def test_there_and_back_from_python(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    body = front(tmp_path / "out")
    few = {"target": replace(TARGET, precision="f32").as_record(), "baselines": body["baselines"][:1], "chosen": 0}
    (tmp_path / "out" / "front.json").write_text(json.dumps({**body, **few, "candidates": body["candidates"][:1]}))
    told = Told()
    pack = pack_front(tmp_path / "out", tmp_path / "new" / "front.zip", progress=told)
    assert pack.sha256 == sha256_file(pack.path) and pack.target.precision == "f32"
    assert told.done == ["converting dense", f"converting {TokenSchedule(tuple(body['candidates'][0]['schedule']))}"]
    (tmp_path / "out" / "front.json").write_text(json.dumps(body))
    settled = settle(tmp_path / "out", write_bench(tmp_path / "bench.json", measured(body, 3.0)))
    assert capfd.readouterr() == ("", "")
    assert settled.verdict is Verdict.PASS and settled.record == front(tmp_path / "out")
    assert repr(settled) == f"<front of {tmp_path / 'out'}: PASS, {len(settled.record['candidates'])} candidates>"
    assert list(settled.to_frame()["median"]) == [one["latency_ms"]["median"] for one in settled.record["candidates"]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "vit_small_patch16_224"}, "of another model: it has model vit_small_patch16_224"),
        ({"image_size": [64, 64]}, "image_size [64, 64] instead of [32, 32]"),
        ({"macs": 10**9}, "macs 1000000000"),
        ({"layers": 5}, "layers 5 instead of 4"),
        ({"score": "cls"}, "score cls instead of column"),
        ({"cells": {}}, "cells.attend is missing"),
        ({"target": 3}, "a recorded latency table cannot be used: target must be an object, but is 3"),
        ({"schema": "fgvc-kit/front"}, "must be a fgvc-kit/profile record"),
    ],
)
def test_a_profile_of_something_else_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    record = json.loads((place / "profile.json").read_text())
    (tmp_path / "profile.json").write_text(json.dumps({**record, **changes}))
    assert search(place, tmp_path / "out", "--profile", tmp_path / "profile.json") == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not (tmp_path / "out" / "front.json").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": "fgvc-kit/profile", "vers'])
def test_a_profile_that_is_none_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "profile.json").write_text(text)
    assert search(place, tmp_path / "out", "--profile", tmp_path / "profile.json") == 2
    assert "profile.json" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [("--target", "openvino:cpu"), ("--precision", "f32")])
def test_a_profile_of_another_runtime_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    assert search(place, tmp_path / "out", *flags) == 2
    assert "is of onnxruntime:cpu:threads=64:precision=int8:batch=1, but" in capsys.readouterr().err


def test_a_bench_of_something_else_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(front(place / "out"), 3.0)
    before = (place / "out" / "front.json").read_bytes()
    elsewhere = [replace(row, target=replace(TARGET, runtime="openvino")) for row in rows]
    cases = {
        "was measured on openvino:cpu": (elsewhere, HOST),
        "it is another model": ([replace(row, macs=7) for row in rows], HOST),
        "the search is for a small device": (rows, HostFacts.gather()),
        "not the dense one beside them": (rows[1:], HOST),
    }
    for sentence, (some, host) in cases.items():
        file = write_bench(tmp_path / "bench.json", some, host)
        assert verb("bench", place / "out", "--carried", file) == 2
        assert sentence in capsys.readouterr().err
    for text in ("", "{}", file.read_text()[:400]):
        file.write_text(text)
        assert verb("bench", place / "out", "--carried", file) == 2
        assert "bench.json" in capsys.readouterr().err
    assert verb("bench", place / "run", "--carried", file) == 2
    assert verb("bench", place / "out", "--carried", file, "--pack", tmp_path / "x.zip") == 2
    assert (place / "out" / "front.json").read_bytes() == before
