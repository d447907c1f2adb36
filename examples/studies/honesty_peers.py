"""Medians by other programs, for ``honesty``: OpenVINO's benchmark_app, a plain onnxruntime loop, torch's Timer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from tavt_kit.bench import Protocol, bench
from tavt_kit.runtimes import Images, Session


def our_p50(session: Session, images: Images, seconds: float) -> float:
    """The bench's own median, of this candidate alone."""
    protocol = Protocol(min_seconds=seconds, max_seconds=seconds)
    return bench({"one": session}, images, protocol)["one"].median


def benchmark_app(xml: Path, threads: int, size: int, seconds: float) -> float:
    """The median that OpenVINO's own program reports, in a process of its own.

    Raises:
        SystemExit: It is not installed, or fails.
    """
    program = shutil.which("benchmark_app", path=str(Path(sys.executable).parent)) or shutil.which("benchmark_app")
    if program is None:
        raise SystemExit("benchmark_app comes with the openvino package, but is not beside this Python")
    with tempfile.TemporaryDirectory() as folder:
        words = f"-m {xml} -d CPU -api sync -hint none -nstreams 1 -nthreads {threads} -infer_precision f32 "
        # Not -shape, which makes another model: one of a fixed batch.
        words += f"-data_shape [1,3,{size},{size}] -inference_only true -t {max(1, round(seconds))} "
        words += f"-report_type no_counters -report_folder {folder}"
        done = subprocess.run([program, *words.split()], capture_output=True, text=True)
        reports = list(Path(folder).glob("*report*"))
        if done.returncode or not reports:
            raise SystemExit(f"benchmark_app failed: {(done.stderr or done.stdout)[-500:]}")
        lines = reports[0].read_text(encoding="utf-8").splitlines()
        return float(dict(line.split(";", 1) for line in lines if ";" in line)["latency (ms)"])


def onnxruntime_loop(onnx: Path, threads: int, images: Images) -> Callable[[float], float]:
    """What onnxruntime_perf_test does with ``-e cpu -x THREADS``: its defaults, one Run after another, and its p50."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}

    def p50(seconds: float) -> float:
        session.run(None, feed)  # perf_test runs once before it counts
        times, end = list[float](), time.perf_counter() + seconds
        while time.perf_counter() < end:
            begin = time.perf_counter()
            session.run(None, feed)
            times.append((time.perf_counter() - begin) * 1e3)
        return median(times)

    return p50


def torch_timer(module: nn.Module, threads: int, images: Images) -> Callable[[float], float]:
    """torch.utils.benchmark.Timer: it warms up and sets the threads itself."""
    from torch.utils.benchmark import Timer

    tensors = torch.from_numpy(images)
    timer = Timer("model(images)", globals={"model": module, "images": tensors}, num_threads=threads)

    def p50(seconds: float) -> float:
        with torch.inference_mode():
            return 1e3 * timer.blocked_autorange(min_run_time=seconds).median

    return p50
