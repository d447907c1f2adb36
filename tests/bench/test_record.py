from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.bench import Protocol
from tavt_kit.bench.record import BenchRow, bench_body, gain_share
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import read_record, write_record
from tavt_kit.core.schedule import TokenSchedule

CPU = TargetDevice.parse("openvino:cpu:threads=2")


def row(name: str, ms: float, macs: int | None, target: TargetDevice = CPU) -> BenchRow:
    return BenchRow(
        name, name, target, Measurement((ms,) * 30, True), TokenSchedule.dense(TokenLayout(5, 2)), macs, None
    )


def test_the_share_of_the_gain() -> None:
    dense, tapered = row("dense", 100.0, 3000), row("taper", 40.0, 1000)
    share = gain_share(dense, tapered)  # 2.5 times faster for 3 times fewer multiply-adds
    assert share is not None and share.value == pytest.approx(2.5 / 3)
    assert gain_share(dense, row("unknown", 40.0, None)) is None
    assert gain_share(dense, row("elsewhere", 40.0, 1000, TargetDevice.parse("torch:cpu"))) is None


def test_the_record_holds_every_sample_and_compares_with_the_first(tmp_path: Path) -> None:
    rows = [
        row("dense", 100.0, 3000),
        row("taper", 40.0, 1000),
        row("torch", 50.0, 1000, TargetDevice.parse("torch:cpu")),
    ]
    body = bench_body(rows, protocol=Protocol(), inputs="random", seed=3, host=HostFacts.gather())
    write_record(tmp_path / "bench.json", "bench", body)
    read = read_record(tmp_path / "bench.json", "bench")
    assert read == json.loads(json.dumps({"schema": "fgvc-kit/bench", "version": 1, **body}))
    first, second, third = read["candidates"]
    assert read["reference"] == "dense" and first["ratio"]["value"] == 1.0 and first["gain_share"] is None
    assert second["ratio"]["value"] == 2.5 and second["gain_share"]["value"] == pytest.approx(2.5 / 3)
    assert second["gain_reference"] == "dense" and third["gain_share"] is None and third["ratio"]["value"] == 2.0
    assert len(second["latency_ms"]["samples"]) == 30 and second["throughput"] == 25.0
