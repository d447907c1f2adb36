"""A search for a machine that is not here, predicted by a carried profile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.bench.parts import timed_model
from tavt_kit.checkpoints import load_model
from tavt_kit.cli import main
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import Curve, DropCell, LatencyTable, LayerCells
from tavt_kit.core.records import write_record
from tests.verbs.tiny import write_images, write_run

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


def test_a_carried_profile_predicts_and_nothing_is_measured_here(place: Path) -> None:
    body = front(place / "out")
    assert body["verdict"] == "PREDICTED" and body["target"] == TARGET.as_record() and body["host"]["cpu"] == HOST.cpu
    assert body["objectives"] == ["latency_ms.predicted", "top1"]
    predicted = [one["latency_ms"] for one in body["candidates"]]
    assert all(set(one) == {"predicted"} and 1.05 * one["predicted"] <= 4 for one in predicted)
    dense = next(one for one in body["baselines"] if one["origin"] == "dense")
    assert dense["verdict"] == "FAIL"  # its p90 is predicted above the budget


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
