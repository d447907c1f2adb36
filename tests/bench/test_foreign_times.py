"""Result files of trtexec and benchmark_app: what is read of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.bench.foreign_times import read_times
from tavt_kit.cli import main
from tavt_kit.errors import MeasurementError, RecordError
from tavt_kit.workflows.latencies import read_latencies

ENTRY = {"startEnqMs": 0.0, "endEnqMs": 0.1, "startH2dMs": 0.0, "endH2dMs": 0.1, "startComputeMs": 0.1,
         "endComputeMs": 2.1, "startD2hMs": 2.1, "endD2hMs": 2.2, "h2dMs": 0.1, "computeMs": 2.0,
         "d2hMs": 0.1}  # fmt: skip
LOG = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=model.onnx
[08/10/2024-10:00:00] [I] Model: model.onnx
[08/10/2024-10:00:00] [I] Selected Device: Orin
[08/10/2024-10:00:04] [I] === Performance summary ===
[08/10/2024-10:00:04] [I] Throughput: 130.298 qps
[08/10/2024-10:00:04] [I] Latency: min = 5.38672 ms, max = 13.3664 ms, mean = 7.60628 ms, median = 7.16092 ms, \
percentile(90%) = 10.2996 ms, percentile(95%) = 10.8698 ms, percentile(99%) = 12.9675 ms
[08/10/2024-10:00:04] [I] Enqueue Time: min = 2.7 ms, max = 15.0 ms, mean = 7.6 ms, median = 7.8 ms
"""
# Written by the benchmark_app of openvino 2026.4 on a CPU; the paths are shortened.
CSV = """\
Command line parameters
-m;model.f32.xml
-d;CPU
-hint;latency

Configuration setup
topology;Model1
target device;CPU
API;sync
precision;UNSPECIFIED
batch size;1

Execution results
read model time (ms);30.47
first inference time (ms);6.39
total execution time (ms);1002.30
total number of iterations;2283
latency (ms);0.13
avg latency;0.43
min latency;0.11
max latency;4.97
throughput;2277.77
"""


def _written(folder: Path, text: str, name: str = "result") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_trtexec_s_times_are_samples(tmp_path: Path) -> None:
    entries = [{**ENTRY, "latencyMs": ms} for ms in (2.0, 2.2, 2.4, 9.0)]
    found = read_times(_written(tmp_path, json.dumps(entries)))
    assert found.measurement is not None
    assert found.measurement.samples == (2.0, 2.2, 2.4, 9.0)
    assert (found.tool, found.figures["median"], found.figures["max"]) == ("trtexec", pytest.approx(2.3), 9.0)
    assert found.as_record()["latency_ms"]["samples"] == [2.0, 2.2, 2.4, 9.0]


def test_trtexec_s_log_is_a_summary_of_its_latency_only(tmp_path: Path) -> None:
    found = read_times(_written(tmp_path, LOG))
    assert found.measurement is None
    assert found.figures == {
        "min": 5.38672, "max": 13.3664, "mean": 7.60628, "median": 7.16092, "p90": 10.2996, "p95": 10.8698,
        "p99": 12.9675,
    }  # fmt: skip
    assert found.about == {"model": "model.onnx", "device": "Orin", "inferences per second": "130.298"}


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_benchmark_app_s_reports(kind: str, tmp_path: Path) -> None:
    text = CSV
    if kind == "json":
        heads = {
            "Command line": "cmd_options",
            "Configuration": "configuration_setup",
            "Execution": "execution_results",
        }
        body = {}
        for block in CSV.strip().split("\n\n"):
            head, *lines = block.splitlines()
            body[next(v for k, v in heads.items() if head.startswith(k))] = dict(line.split(";") for line in lines)
        text = json.dumps(body)
    found = read_times(_written(tmp_path, text))
    assert found.figures == {"median": 0.13, "mean": 0.43, "min": 0.11, "max": 4.97}
    assert (found.batch, found.throughput, found.measurement) == (1, 2277.77, None)
    assert found.about["device"] == "CPU"
    assert found.about["inferences"] == "2283"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", RecordError, "of neither"),
        ("a,b\n1,2\n", RecordError, "of neither"),
        ('{"schema": "fgvc-kit/bench"}', RecordError, "of neither"),
        ("[1, 2]", RecordError, "of neither"),
        ('[{"latencyMs": 1.0}, {"laten', RecordError, "cut off"),
        ('[{"latencyMs": "soon"}]', RecordError, "no numbers"),
        ('[{"latencyMs": -1.0}]', MeasurementError, "above 0"),
        (LOG.split("[08/10/2024-10:00:04] [I] Latency")[0], MeasurementError, "to the end"),
        (CSV.replace("latency (ms);0.13", "latency (90 percentile) (ms);0.2"), MeasurementError, "no median"),
        (CSV.replace("0.13", "none"), RecordError, "no numbers"),
    ],
)
def test_other_files_are_refused(text: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        read_times(_written(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(b"\x80\xff\x00ptrt")
    for path in (tmp_path / "x.engine", tmp_path / "absent.json", tmp_path):
        with pytest.raises(RecordError):
            read_times(path)


def test_they_are_read_from_python(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = read_latencies([_written(tmp_path, CSV, "a.csv"), _written(tmp_path, LOG, "b.log")], out=tmp_path / "new")
    assert capfd.readouterr() == ("", "")
    assert found.record == json.loads((tmp_path / "new" / "latencies.json").read_text())
    frame = found.to_frame()
    assert list(frame["tool"]) == ["benchmark_app", "trtexec"] and list(frame["median"]) == [
        one.figures["median"] for one in found.times
    ]
    assert "a.csv" in repr(found)
    with pytest.raises(MeasurementError, match="nothing to read"):
        read_latencies([])


def test_bench_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [_written(tmp_path, CSV, "a.csv"), _written(tmp_path, LOG, "b.log")]

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as end:
            main(["bench", *map(str, arguments)])
        return int(end.value.code or 0)

    assert run("--read", files[0], "--read", files[1]) == 0
    said = capsys.readouterr().out
    assert "median 7.161 ms" in said and "decides no budget" in said
    record = json.loads((tmp_path / "latencies.json").read_text())
    assert (record["schema"], [one["tool"] for one in record["candidates"]]) == (
        "fgvc-kit/latencies",
        ["benchmark_app", "trtexec"],
    )
    (tmp_path / "latencies.json").unlink()
    for arguments in ((), ("some/run", "--read", files[0]), ("--read", files[0], "--read", tmp_path / "absent")):
        assert run(*arguments) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "latencies.json").exists()
